"""Who a member is (storage's rules 10 and 11): one that lost its data, or differs from the others, is no member."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

INCARNATION_CHECK = "tests/runtime/test_incarnation_check.py::"
SCRUB = "tests/storage/test_file_scrub.py::"
DAMAGE = "tests/storage/test_file_damage.py::"

MUTANTS = (
    Mutant(
        "wiped-node-votes",
        "a node with a new data directory takes part at once, under an identity that may have voted",
        (
            Patch(
                "disheap:IncarnationCheck.recall",
                "self.all_met = kept is None or kept.takes_part",
                "self.all_met = True",
            ),
        ),
        (INCARNATION_CHECK + "test_a_wiped_node_is_refused_by_nodes_that_were_restarted_meanwhile",),
    ),
    Mutant(
        "incarnation-forgotten-at-restart",
        "a node that was restarted takes a wiped member for the one that it was",
        (
            Patch(
                "disheap:IncarnationCheck.recall",
                "            self._known = dict(self._durable)\n",
                "",
            ),
        ),
        (INCARNATION_CHECK + "test_a_wiped_node_is_refused_by_nodes_that_were_restarted_meanwhile",),
    ),
    Mutant(
        "welcome-before-it-is-durable",
        "a member is welcomed before its incarnation is on disk, and can be forgotten by a crash",
        (
            Patch(
                "disheap:IncarnationCheck.meet",
                "            self._save(self.all_met, done)\n",
                "            self._save(self.all_met, lambda _: None)\n            done(True)\n",
            ),
        ),
        (INCARNATION_CHECK + "test_a_member_is_welcomed_when_it_is_on_disk_and_not_before",),
    ),
    Mutant(
        "first-welcome-is-enough",
        "a new node takes part when one member has welcomed it; another one may know it as somebody else",
        (
            Patch(
                "disheap:IncarnationCheck.welcomed",
                "                del self._missing[node]\n",
                "                self._missing.clear()\n",
            ),
        ),
        (
            INCARNATION_CHECK + "test_a_first_start_waits_for_every_member_and_says_for_whom",
            INCARNATION_CHECK + "test_a_node_takes_part_when_it_is_durable_that_all_have_welcomed_it",
        ),
    ),
    Mutant(
        "removed-member-is-forgotten-too-early",
        "a member that is restarted welcomes a wiped one, whose removal it has to learn anew",
        (Patch("disheap:IncarnationCheck.follow", "if _is_gone(node, restored)", "if _is_gone(node, applied)"),),
        (INCARNATION_CHECK + "test_a_removed_member_is_known_until_a_restart_begins_without_it",),
        simulated=False,
    ),
    Mutant(
        "removal-counts-as-a-welcome",
        "a wiped node takes part, because all members have welcomed it in order to tell it that it was removed",
        (Patch("disheap:OutgoingLink._welcomed", "if hello.removal:", "if False:"),),
        ("tests/runtime/test_links.py::test_a_welcome_with_a_removal_is_none",),
        simulated=False,
    ),
    Mutant(
        "members-met-in-one-copy",
        "one rotten byte makes the list of the members met unreadable",
        (
            Patch(
                "disheap_filelog:Members.load",
                "        if not found:\n",
                "        if len(found) < len(COPY_AT):\n",
            ),
        ),
        (DAMAGE + "test_either_copy_of_the_members_met_may_rot",),
        simulated=False,
    ),
    Mutant(
        "scrub-skips-snapshots",
        "a scrub reads the log alone: a snapshot rots until somebody needs it",
        (
            Patch(
                "disheap_filelog:_log",
                "if at <= index.last else (SNAPSHOTS, 0, 0), done)",
                "if at <= index.last else (), done)",
            ),
        ),
        (SCRUB + "test_rot_in_the_newest_snapshot_is_found",),
        simulated=False,
    ),
    Mutant(
        "scrub-skips-headers",
        "a scrub compares payloads alone: a header rots until the node is started again",
        (
            Patch(
                "disheap_filelog:Segment.check_block",
                "        if blocks.parse_header(header, block.offset) is None:\n",
                "        if not header:\n",
            ),
        ),
        (SCRUB + "test_rot_in_any_block_is_found",),
        simulated=False,
    ),
    Mutant(
        "scrub-skips-small-files",
        "a copy of the term and the vote rots, and nobody knows before the other one has rotted, too",
        (
            Patch(
                "disheap_filelog:_snapshots",
                "        return Scrubbed((SMALL, 0, 0), 0)\n",
                "        return Scrubbed((), 0)\n",
            ),
        ),
        (SCRUB + "test_a_small_file_that_has_rotted_is_written_again",),
    ),
    Mutant(
        "good-copy-written-first",
        "the only good copy of the term and the vote is overwritten before the other one is whole",
        (
            Patch(
                "disheap_filelog:Meta._compare",
                "self._order = (1, 0) if slots[0] == self.state else (0, 1)",
                "self._order = (0, 1) if slots[0] == self.state else (1, 0)",
            ),
        ),
        (SCRUB + "test_a_term_that_can_only_be_written_in_part_stays_readable",),
    ),
    Mutant(
        "last-welcome-lost",
        "a node that could not write down its last welcome stays outside, for nobody welcomes it again",
        (
            Patch(
                "disheap:IncarnationCheck.tick",
                "        self._record_if_all_met()\n        if self._missing and",
                "        if self._missing and",
            ),
        ),
        (INCARNATION_CHECK + "test_what_could_not_be_written_at_the_last_welcome_is_written_later",),
    ),
    Mutant(
        "snapshots-of-one-entry-share-a-file",
        "a node's own snapshot and its leader's of the same entry are written into one file",
        (
            Patch(
                "disheap_filelog:FileSnapshotWriter.__init__",
                'f"{self._stored.path}.{number}{TEMPORARY}"',
                'f"{self._stored.path}{TEMPORARY}"',
            ),
        ),
        (SCRUB + "test_two_snapshots_of_one_entry_do_not_disturb_each_other",),
    ),
    Mutant(
        "last-snapshot-to-end-counts-as-newest",
        "a node's own snapshot that ends behind its leader's stands for the state, and the leader's is dropped as old",
        (
            Patch(
                "disheap_filelog:SnapshotFiles.add",
                "        if stored.meta.index >= self.index:",
                "        if stored:",
            ),
        ),
        (
            SCRUB + "test_a_snapshot_that_ends_behind_a_newer_one_is_the_older_of_the_two",
            "tests/runtime/test_snapshots.py::test_a_snapshot_that_ends_behind_an_installed_one_is_nobodys",
        ),
    ),
    Mutant(
        "scrub-finds-and-forgets",
        "a scrub counts what it found, and nobody repairs it",
        (
            Patch(
                "disheap:Scrubber._damaged",
                "            self._host.damage_found(error)\n",
                "            pass\n",
            ),
        ),
        ("tests/runtime/test_scrub.py::test_a_block_that_rots_while_the_node_runs_is_repaired",),
    ),
    Mutant(
        "node-that-was-told-nothing-is-alone",
        "three hosts that lose the list of their members become three brokers, each of which confirms messages",
        (
            Patch(
                "disheap:check_cluster",
                "    if not config.begins_somehow():\n",
                "    if config.alone and config.members:\n",
            ),
        ),
        ("tests/runtime/test_starting.py::test_a_node_is_told_its_cluster_or_that_it_is_alone",),
        simulated=False,
    ),
    Mutant(
        "directory-bound-before-the-port-is-taken",
        "a start that fails because of a port in use has bound the directory to a cluster for good",
        (
            Patch(
                "disheap:Member._start",
                "        await self._listen(transport, client_transport)\n",
                "",
            ),
            Patch(
                "disheap:Member._start",
                "        self._tick()\n        if config.has_peers()",
                "        await self._listen(transport, client_transport)\n"
                "        self._tick()\n        if config.has_peers()",
            ),
        ),
        ("tests/runtime/test_starting.py::test_a_start_on_a_port_in_use_binds_no_directory",),
        simulated=False,
    ),
)
