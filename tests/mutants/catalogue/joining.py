"""Members that join, leave and are removed while the cluster runs, and what is refused to them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

CHANGES = "tests/runtime/test_member_changes.py::"
REMOVED = "tests/runtime/test_removed_peers.py::"
TOLD = "tests/runtime/test_members_told.py::"
MOVED = "tests/runtime/test_moved_clusters.py::"
FOUNDING = "tests/runtime/test_founding.py::"
CERTIFICATES = "tests/runtime/test_joiners_certificates.py::"
MUTANTS = (
    Mutant(
        "frames-behind-a-goodbye-count",
        "a removed node, or who says that it is one, moves the leader's term with what it sends behind its hello",
        (
            Patch(
                "disheap:IncomingLink.data_received",
                "if self._connection is None:\n                    return  # closed by the frame before",
                "if False:\n                    return  # closed by the frame before",
            ),
        ),
        (REMOVED + "test_nothing_counts_that_a_removed_node_sends_behind_its_hello",),
        simulated=False,
    ),
    Mutant(
        "list-of-members-finds-nobody",
        "a node that has moved and whose only snapshot is damaged waits for the others for ever",
        (Patch("disheap:AddressBook.peers", "self._records or self._listed", "self._records"),),
        (CHANGES + "test_a_node_that_knows_no_member_looks_for_those_of_its_list",),
        simulated=False,
    ),
    Mutant(
        "joined-node-needs-a-log-to-start",
        "a node that joined a static list and crashed before its first entry never starts again",
        (Patch("disheap:_kept", "if stored.peers.voters or config.join_addresses:", "if stored.peers.voters:"),),
        (CHANGES + "test_a_node_that_joined_a_static_list_starts_before_its_log_has_members",),
        simulated=False,
    ),
    Mutant(
        "minority-in-touch-is-enough",
        "a change goes ahead after which the voters that answer are no majority",
        (
            Patch(
                "disheap:check_quorum",
                "if len(voters) - len(silent) < needed:",
                "if len(voters) - len(silent) < needed - 1:",
            ),
        ),
        (CHANGES + "test_a_majority_of_what_remains_has_to_be_in_touch",),
        simulated=False,
    ),
    Mutant(
        "name-of-a-member-given-again",
        "two members have one name, and an operator removes the wrong one",
        (
            Patch(
                "disheap:add",
                "        if record.name == other.name:\n",
                "        if record.name == other.name and record.peer == other.peer:\n",
            ),
        ),
        (CHANGES + "test_a_name_and_an_address_belong_to_one_member",),
    ),
    Mutant(
        "last-voter-may-go",
        "the only voter is removed, and nothing can ever be written again",
        (Patch("disheap:_with_voters", "    if not voters_of(new):\n", "    if not new.members:\n"),),
        (CHANGES + "test_what_cannot_be_is_refused",),
        simulated=False,
    ),
    Mutant(
        "slow-learner-is-close",
        "a learner that falls further behind with each round gets a vote",
        (Patch("disheap:Rounds.is_close", "return took_s <= self._longest_s", "return took_s >= 0"),),
        (CHANGES + "test_a_learner_is_close_when_it_ends_a_round_in_time",),
    ),
    Mutant(
        "stored-identity-loses-to-the-settings",
        "a founder with its data founds another cluster at each start",
        (
            Patch(
                "disheap:origin_of",
                "if stored is not None and not _is_configured(config, stored):",
                "if stored is not None and not (config.bootstrap or _is_configured(config, stored)):",
            ),
        ),
        (CHANGES + "test_what_a_directory_says_counts_and_not_the_settings",),
        simulated=False,
    ),
    Mutant(
        "members-are-told-when-a-client-connects-alone",
        "a client knows removed nodes alone, and finds nobody when it has lost its connection",
        (
            Patch(
                "disheap:Acceptor.announce_members",
                "self._untold.popleft().send_unasked(self._members)",
                "self._untold.popleft()",
            ),
        ),
        (TOLD + "test_a_node_tells_its_clients_who_joins_and_who_goes",),
    ),
    Mutant(
        "client-does-not-learn-the-members",
        "a client is told of other members, and goes on looking for the old ones",
        (Patch("disheap:Connector._control", "self._route.learned(event.addresses)", "pass"),),
        (TOLD + "test_a_client_goes_on_when_all_nodes_that_it_was_told_have_been_removed",),
    ),
    Mutant(
        "every-client-is-told-the-members",
        "a client of an older release gets a frame that it does not know, and ends with an error",
        (Patch("disheap:Acceptor.members_changed", " if one.follows_members)", ")"),),
        (TOLD + "test_a_node_tells_its_clients_who_joins_and_who_goes",),
        simulated=False,
    ),
    Mutant(
        "all-clients-told-at-once",
        "a change of the members stops a node that has thousands of clients",
        (Patch("disheap:Acceptor.announce_members", "min(TOLD_PER_TICK, len(self._untold))", "len(self._untold)"),),
        (TOLD + "test_a_tick_tells_a_bounded_number_of_clients",),
        simulated=False,
    ),
    Mutant(
        "founder-asks-those-that-answer",
        "a founder that lost its data founds a second cluster while the others are down",
        (Patch("disheap:Asker.ask_until_answered", "len(blank) == len(addresses)", "blank"),),
        (FOUNDING + "test_a_founder_waits_for_every_address",),
    ),
    Mutant(
        "every-founder-founds",
        "nodes with the same settings that start together found a cluster each",
        (Patch("disheap:Asker.ask_until_answered", " and not any(map(self._founds_first, blank))", ""),),
        (FOUNDING + "test_of_nodes_that_may_found_a_cluster_the_one_with_the_smallest_name_does",),
    ),
    Mutant(
        "removed-by-the-group-that-is-ahead",
        "a node goes quiet because one that has just joined says that it was removed, and a group has no majority",
        (
            Patch(
                "disheap:AddressBook.follow",
                "min(map(last_id_of, committed), default=0)",
                "max(map(last_id_of, committed), default=0)",
            ),
        ),
        (CHANGES + "test_an_id_is_not_removed_while_a_group_may_still_have_it",),
        simulated=False,
    ),
    Mutant(
        "groups-do-not-hear-which-ids-are-over",
        "a removed node is never told so, because one group has never had it",
        (Patch("disheap:Steering._next_to_follow", "if last_id_of(own) < last_id_of(wanted):", "if False:"),),
        (CHANGES + "test_a_group_hears_of_an_id_that_came_and_went_in_group_0_meanwhile",),
        groups=3,
    ),
    Mutant(
        "joiner-forgets-the-directories-that-it-has-made",
        "a node that broke off while it joined is refused for ever as one that was wiped",
        (Patch("disheap:Joining._first_incarnation", "if stored is not None:", "if False:"),),
        ("tests/runtime/test_membership.py::test_a_node_that_breaks_off_before_its_directories_exist_keeps_its_id",),
        simulated=False,
    ),
    Mutant(
        "configured-address-is-not-tried",
        "a cluster all of whose addresses changed at once never finds itself again",
        (
            Patch(
                "disheap:AddressBook.peer_addresses",
                'self._configured.get(self.name(node), "")',
                '""',
            ),
        ),
        (MOVED + "test_a_static_cluster_whose_addresses_all_change_finds_itself_again",),
    ),
    Mutant(
        "leader-does-not-move-itself",
        "the log has an old address of its leader for as long as it leads",
        (Patch("disheap:Steering._moved", "if member.id == self._own and", "if False and"),),
        (MOVED + "test_a_static_cluster_whose_addresses_all_change_finds_itself_again",),
        simulated=False,
    ),
    Mutant(
        "member-replaced-after-a-pause-of-the-leader",
        "a member whose answers wait to be read after a pause of the leader counts as dead, and loses its vote",
        (Patch("disheap:Steering._check_dead", "if self._loop.time() >= until:", "if True:"),),
        ("tests/runtime/test_changes_refused.py::test_a_member_is_not_replaced_whose_answers_wait_to_be_read",),
        simulated=False,
    ),
    Mutant(
        "list-of-a-member-that-missed-a-change-refused",
        "a node of a list that moves as a whole does not start, because it has met a member that joined",
        (
            Patch(
                "disheap:_has_moved",
                "stored.peers.listed == len(config.members)",
                "len(stored.peers.incarnations) + 1 == len(config.members)",
            ),
        ),
        (CHANGES + "test_a_list_with_other_addresses_is_obeyed_by_a_node_that_missed_a_change",),
        simulated=False,
    ),
    Mutant(
        "any-list-is-the-old-one-with-other-addresses",
        "a node takes a list with more members for its own, and has other voters than the rest of the cluster",
        (Patch("disheap:_has_moved", "stored.peers.listed == len(config.members) and is_there", "is_there"),),
        (CHANGES + "test_a_list_with_other_addresses_is_obeyed_while_members_never_changed",),
        simulated=False,
    ),
    Mutant(
        "certificate-of-a-machine-lets-anybody-in",
        "whoever has the certificate of a machine on which members run joins the cluster",
        (
            Patch(
                "disheap:CertificateChecks.check_stranger",
                "(host in names and not any(_host(book.peer(one)) == host for one in others))",
                "host in names",
            ),
        ),
        (CERTIFICATES + "test_a_certificate_is_a_joiners_if_it_names_it_and_nobody_else",),
        simulated=False,
    ),
    Mutant(
        "certificate-of-a-joiner-is-not-looked-at",
        "a worker with a certificate of the authority joins the cluster",
        (
            Patch(
                "disheap:PeerChecks.check_request",
                "        self._certificates.check_stranger(hello, certificate_names)\n",
                "",
            ),
        ),
        (CERTIFICATES + "test_a_joiner_is_let_in_by_its_name_and_no_other_one_is",),
        simulated=False,
    ),
)
