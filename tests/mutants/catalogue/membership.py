"""Who belongs to the cluster (classes 5 to 8)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

PITFALLS = "tests/kernel/test_pitfalls.py::"
MEMBERSHIP = "tests/kernel/test_membership.py::"
TRANSFER = "tests/kernel/test_transfer.py::"
RUNTIME = "tests/runtime/test_membership.py::"
REPAIR = "tests/runtime/test_repair.py::"
CHANGES = "tests/runtime/test_member_changes.py::"

MUTANTS = (
    Mutant(
        "change-before-the-leaders-own-no-op",
        "a membership is proposed while an earlier leader's may be in the log of others",
        (
            Patch(
                "disheap:propose_change",
                "if not state.has_committed_in_term or state.members.index > state.log.commit:",
                "if state.members.index > state.log.commit:",
            ),
        ),
        (PITFALLS + "test_no_change_is_taken_before_the_leaders_own_no_op_is_committed",),
        pitfall=5,
    ),
    Mutant(
        "two-changes-at-once",
        "a second change is taken before the first is committed",
        (
            Patch(
                "disheap:propose_change",
                "if not state.has_committed_in_term or state.members.index > state.log.commit:",
                "if not state.has_committed_in_term:",
            ),
        ),
        (MEMBERSHIP + "test_one_change_waits_for_the_one_before",),
        pitfall=5,
    ),
    Mutant(
        "change-in-force-when-committed",
        "a follower goes by the last committed membership instead of the last one in its log",
        (
            Patch(
                "disheap:State.append",
                "            self.members.append(index, change)\n",
                "            if self.role is Role.LEADER:\n                self.members.append(index, change)\n",
            ),
        ),
        (PITFALLS + "test_a_change_is_in_force_at_a_follower_before_it_is_committed",),
        pitfall=6,
    ),
    Mutant(
        "candidate-asks-the-committed-members",
        "a candidate that holds a newer membership asks the voters of the older one",
        (
            Patch(
                "disheap:_request_votes",
                "for voter in state.members.voters:",
                "for voter in [one.id for one in state.members.at(state.log.commit).members if one.voter]:",
            ),
        ),
        (PITFALLS + "test_a_candidate_asks_by_the_last_membership_in_its_log",),
        pitfall=6,
    ),
    Mutant(
        "overwritten-change-stays-in-force",
        "a membership whose entry was truncated is still gone by",
        (
            Patch(
                "disheap:State.append",
                "        self.members.roll_back(entries[0].index)\n",
                "        self.members.roll_back(Index(self.log.last_index + 1))\n",
            ),
        ),
        (PITFALLS + "test_a_change_that_is_overwritten_is_no_longer_in_force",),
        pitfall=7,
    ),
    Mutant(
        "change-forgotten-at-a-restart",
        "a membership in the log behind the snapshot is not in force after a restart",
        (
            Patch(
                "disheap:State.__init__",
                "for index, data in restored.memberships:",
                "for index, data in restored.memberships[:0]:",
            ),
        ),
        (
            PITFALLS + "test_a_change_in_the_log_is_in_force_after_a_restart",
            MEMBERSHIP + "test_a_membership_survives_a_restart_before_and_after_a_snapshot",
        ),
        pitfall=7,
    ),
    Mutant(
        "voter-goes-by-its-own-membership",
        "a voter refuses a candidate that its own, stale, membership does not know",
        (
            Patch(
                "disheap:on_vote_request",
                "granted = _may_vote(state, message)",
                "granted = _may_vote(state, message) and message.source in state.members.ids",
            ),
        ),
        (
            PITFALLS + "test_a_node_votes_whatever_its_own_membership_says",
            PITFALLS + "test_a_node_without_any_membership_votes_and_follows",
        ),
        pitfall=8,
    ),
    Mutant(
        "two-voters-at-a-time",
        "a change of two voters at once is taken, and two majorities need not share a node",
        (Patch("disheap:check_change", "if len(changed) > 1:", "if len(changed) > 2:"),),
        (MEMBERSHIP + "test_more_than_one_voter_at_a_time_or_nonsense_is_refused",),
        pitfall=5,
    ),
    Mutant(
        "removed-leader-goes-on-leading",
        "a leader whose removal is committed goes on leading, outside of the membership",
        (
            Patch(
                "disheap:_leave", "    state.become_follower(state.term, NOBODY)\n", "    state.heartbeat_elapsed = 0\n"
            ),
        ),
        (MEMBERSHIP + "test_a_leader_that_is_removed_commits_that_and_steps_down",),
    ),
    Mutant(
        "learner-counts-as-a-voter",
        "an entry counts as committed when learners have it and a minority of the voters",
        (
            Patch(
                "disheap:voters_of",
                "for member in membership.members if member.voter)",
                "for member in membership.members)",
            ),
        ),
        (MEMBERSHIP + "test_a_learner_neither_campaigns_nor_counts",),
    ),
    Mutant(
        "leader-without-a-vote-counts-itself",
        "a leader that removes itself counts its own disk for the majority that commits the removal",
        (
            Patch(
                "disheap:commit",
                "index = quorum.agreed(state.members.voter_sets,",
                "index = quorum.agreed((tuple({*state.members.voters, state.id}),),",
            ),
        ),
        (MEMBERSHIP + "test_a_leader_without_a_vote_does_not_count_itself",),
    ),
    Mutant(
        "new-member-is-fed-after-the-next-election",
        "a leader sends nothing to a member that was added while it leads",
        (Patch("disheap:propose_change", "    _follow_membership(state)\n", ""),),
        (MEMBERSHIP + "test_a_leader_feeds_a_new_member_from_the_moment_of_the_proposal",),
    ),
    Mutant(
        "removal-frees-nothing-that-waits",
        "what waited for the voter that is removed waits for the next entry",
        (
            Patch(
                "disheap:propose_change",
                "    commit(state)  # without a voter that was behind, more may be agreed\n",
                "",
            ),
        ),
        (MEMBERSHIP + "test_what_waited_for_a_voter_is_committed_when_its_removal_is_proposed",),
        simulated=False,
    ),
    Mutant(
        "only-holder-of-a-change-may-not-lead",
        "the only node that has the change that takes its vote asks for no votes, and nobody else can win",
        (
            Patch(
                "disheap:Memberships.may_lead",
                "return node in self.voters or (self.index > commit and node in voters_of(self._history[-2][1]))",
                "return node in self.voters",
            ),
        ),
        (MEMBERSHIP + "test_the_only_node_that_has_a_change_may_lead_though_it_loses_its_vote",),
    ),
    Mutant(
        "installed-snapshot-keeps-the-old-members",
        "a node goes on by the members that it knew before it took in a leader's snapshot",
        (Patch("disheap:State.install", "        self.members.reset(meta.index, meta.membership)\n", ""),),
        (MEMBERSHIP + "test_a_member_that_gets_a_snapshot_goes_by_the_members_that_it_names",),
        simulated=False,
    ),
    Mutant(
        "snapshot-with-the-newest-members",
        "a snapshot names members that an entry behind it brings, and they stay if that entry is overwritten",
        (Patch("disheap:Memberships.at", "            if start <= index:\n", "            if start:\n"),),
        (MEMBERSHIP + "test_the_membership_at_an_index_is_the_one_in_force_there",),
    ),
    Mutant(
        "members-at-the-snapshot-forgotten",
        "after a snapshot nobody knows who was a member at it",
        (
            Patch(
                "disheap:Memberships.forget_before",
                "while len(self._history) > 1 and self._history[1][0] <= index:",
                "while len(self._history) > 1 and self._history[0][0] <= index:",
            ),
        ),
        (MEMBERSHIP + "test_forgetting_keeps_what_was_in_force_at_the_snapshot",),
        simulated=False,
    ),
    Mutant(
        "leadership-handed-to-a-learner",
        "a leader hands over to a member without a vote, and refuses proposals until it gives up",
        (
            Patch(
                "disheap:begin",
                "    if target not in state.members.voters:\n",
                "    if target not in state.members.ids:\n",
            ),
        ),
        (TRANSFER + "test_a_node_without_a_vote_is_refused",),
    ),
    Mutant(
        "alone-by-the-first-membership",
        "a node that has founded a cluster drops a torn block that the others have acknowledged, and votes",
        (
            Patch(
                "disheap:is_alone",
                "    return tuple(voters or membership",
                "    return tuple(membership",
            ),
        ),
        (RUNTIME + "test_a_founder_that_has_grown_is_not_alone_after_a_restart",),
        simulated=False,
    ),
    Mutant(
        "id-given-twice",
        "a new member gets the id of one that was removed, and a late acknowledgement counts for it",
        (
            Patch(
                "disheap:add",
                "    node = NodeId(last_id_of(old) + 1)\n",
                "    node = NodeId(len(old.members) + 1)\n",
            ),
        ),
        (CHANGES + "test_a_new_member_is_a_learner_with_an_id_that_nobody_had",),
    ),
    Mutant(
        "kernel-takes-an-id-again",
        "the kernel takes a member whose id was given before",
        (
            Patch(
                "disheap:check_change",
                "    if reused:\n",
                "    if reused and not last_id:\n",
            ),
        ),
        (MEMBERSHIP + "test_an_id_that_was_given_before_is_never_given_again",),
        simulated=False,
    ),
    Mutant(
        "quorum-is-not-looked-at",
        "a live voter is removed while another one is down, and nothing can be written any more",
        (
            Patch(
                "disheap:check_quorum",
                "    if len(voters) - len(silent) < needed:\n",
                "    if not voters:\n",
            ),
        ),
        (RUNTIME + "test_a_change_that_would_lose_the_quorum_is_refused_unless_it_is_forced",),
    ),
    Mutant(
        "learner-with-nothing-is-promoted",
        "a learner that holds nothing gets a vote, and commits wait for it",
        (
            Patch(
                "disheap:Rounds.is_close",
                "        if not match or match < round.target:\n",
                "        if match < 0:\n",
            ),
        ),
        (CHANGES + "test_a_learner_that_holds_nothing_is_never_close",),
        simulated=False,
    ),
    Mutant(
        "removed-node-is-never-told",
        "a node that was down when it was removed asks for votes for ever",
        (
            Patch(
                "disheap:Peering.removal_of",
                "        if not self._node.book.is_removed(peer):\n",
                "        if True:\n",
            ),
        ),
        (RUNTIME + "test_a_node_that_was_down_when_it_was_removed_is_told_when_it_comes_back",),
    ),
    Mutant(
        "anybody-moves-a-member",
        "a process that proves nothing says that it is a member, and the leader puts its address into the log",
        (Patch("disheap:Peering.meet", "        if not is_proved:\n", "        if False:\n"),),
        (RUNTIME + "test_who_proves_nothing_does_not_send_a_member_somewhere_else",),
        simulated=False,
    ),
    Mutant(
        "removal-is-forgotten-at-a-restart",
        "a node that was removed campaigns again after a restart",
        (
            Patch(
                "disheap:Replica._take_up",
                "        if self._shared.membership.is_removed or (found.met is not None and found.met.is_removed):\n",
                "        if self._shared.membership.is_removed:\n",
            ),
            Patch(
                "disheap:Member._start",
                "any(one.met is not None and one.met.is_removed for one in found)",
                "False",
            ),
        ),
        (RUNTIME + "test_a_removed_node_stays_quiet_after_a_restart_and_says_so",),
        simulated=False,
    ),
    Mutant(
        "uncommitted-id-counts-as-removed",
        "a member is told that it was removed, because another node once had its id in a change that was overwritten",
        (
            Patch(
                "disheap:AddressBook.follow",
                "min(map(last_id_of, committed), default=0)",
                "max(map(last_id_of, (*in_force, *committed)), default=0)",
            ),
        ),
        (CHANGES + "test_an_id_is_removed_only_when_that_is_committed_and_no_group_has_it",),
    ),
    Mutant(
        "removed-while-another-group-has-it",
        "a node goes quiet while another group still counts its vote",
        (
            Patch(
                "disheap:AddressBook.is_removed",
                "node not in self._records",
                "True",
            ),
        ),
        (CHANGES + "test_an_id_is_removed_only_when_that_is_committed_and_no_group_has_it",),
        simulated=False,
    ),
    Mutant(
        "founder-takes-the-configured-list",
        "the founder of a cluster takes a configured list for its members, and waits for nodes that never were there",
        (
            Patch(
                "disheap:_founder",
                "first_membership([config.own_member()])",
                "first_membership(config.member_list())",
            ),
        ),
        (CHANGES + "test_what_a_directory_says_counts_and_not_the_settings",),
        simulated=False,
    ),
    Mutant(
        "removed-leader-of-another-group-never-knows",
        "a node that leads another group when it is removed stays in that group for ever",
        (
            Patch(
                "disheap:Steering.heard",
                "self._own not in gossip.members and self._own <= gossip.last_id",
                "False",
            ),
        ),
        (RUNTIME + "test_a_removed_node_that_leads_another_group_gives_it_up",),
        groups=3,
    ),
    Mutant(
        "last-voter-of-another-group-may-go",
        "group 0 removes the only voter of a group that has not followed it, and that group serves nobody any more",
        (Patch("disheap:Steering._changed", 'if op != "promote" else ()', "if False else ()"),),
        (CHANGES + "test_who_is_needed_in_another_group_may_not_go",),
        simulated=False,
    ),
    Mutant(
        "only-voter-of-another-group-has-no-successor",
        "a removed node that is the only voter of another group hands over to nobody, for ever",
        (Patch("disheap:Steering._successor", "if voters_of(own) != (self._own,):", "if True:"),),
        (CHANGES + "test_the_only_voter_of_a_group_makes_another_one_before_it_goes",),
        simulated=False,
    ),
    Mutant(
        "repaired-node-knows-the-first-members",
        "a node whose log was repaired tells its clients of the first members alone, however they have changed",
        (
            Patch(
                "disheap:Replica.recover_again",
                "self._shared.membership.changed()",
                "pass",
            ),
        ),
        (REPAIR + "test_a_node_whose_log_was_repaired_knows_its_snapshots_members",),
        simulated=False,
    ),
)
