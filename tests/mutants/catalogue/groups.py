"""Several groups on a node: what one group does, suffers or says, taken for another one's."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

GROUPS = "tests/simulator/test_sim_groups.py::"
NODES = "tests/runtime/test_groups.py::"
THREE = 3
"""Groups of the simulated clusters that are asked: a counter and two heaps."""

MUTANTS = (
    Mutant(
        "quarantine-of-one-group-ends-the-node",
        "one wrong state ends the replicas of all other groups on its node",
        (
            Patch(
                "disheap:Replica.quarantine",
                "        self._end_group()\n",
                "        self.failed(DisheapError(reason))\n",
            ),
        ),
        (GROUPS + "test_a_quarantine_of_one_group_is_nothing_to_the_others",),
        simulated=False,
    ),
    Mutant(
        "repair-answered-by-another-group",
        "a replica that repairs its log is sent the entries of the first group",
        (Patch("disheap:PeerMessages.received_repair", "self._replicas[message.group]", "self._replicas[0]"),),
        (GROUPS + "test_damage_in_one_groups_directory_is_nothing_to_the_others",),
        groups=THREE,
    ),
    Mutant(
        "report-of-one-group-taken-for-all",
        "the states of different groups are compared, and sound replicas go into quarantine",
        (
            Patch(
                "disheap:PeerMessages.received_gossip",
                "            self._replicas[report.group].received_report(peer, report)\n",
                "            [replica.received_report(peer, report) for replica in self._replicas]\n",
            ),
        ),
        (GROUPS + "test_a_quarantine_of_one_group_is_nothing_to_the_others",),
        groups=THREE,
    ),
    Mutant(
        "one-disk-thread-for-all-groups",
        "files that hang for one group stop every other group on the node",
        (
            Patch(
                "disheap:Replica.__init__",
                "            disk = shared.make_disk(loop)\n",
                '            disk = vars(node).get("one_disk") or shared.make_disk(loop)\n'
                '            vars(node)["one_disk"] = disk\n',
            ),
        ),
        (GROUPS + "test_a_disk_that_hangs_for_one_group_costs_no_other_its_leader",),
        simulated=False,
    ),
    Mutant(
        "failed-disk-of-one-group-ends-another-one-alone",
        "the first group is ended for a disk that failed for another one, and that one goes on writing",
        (
            Patch(
                "disheap:Replicas.fail",
                "        for replica in self:\n            replica.fail(error)\n",
                "        self[0].fail(error)\n",
            ),
        ),
        (NODES + "test_a_failed_disk_of_one_group_ends_the_node_and_every_replica_of_it",),
        simulated=False,
    ),
    Mutant(
        "election-timers-of-all-groups-in-step",
        "a node that sees a leader of many groups die campaigns in all of them at the same moment",
        (
            Patch(
                "disheap:State.lose_leader",
                "1 + below(self.random, max(1, self.config.election_ticks // 2))",
                "2 * int(self.id)",
            ),
        ),
        (GROUPS + "test_the_groups_of_a_node_do_not_time_out_together",),
        simulated=False,
    ),
    Mutant(
        "damage-in-one-directory-refuses-all-groups",
        "a node with a damaged block in one group does not start, although the others can repair it",
        (
            Patch(
                "disheap:Member._start",
                "        self._warn_if_forgetful()\n",
                "        if any(one.needs_repair for one in found):\n"
                '            raise DisheapError("a log is damaged")\n'
                "        self._warn_if_forgetful()\n",
            ),
        ),
        (GROUPS + "test_damage_in_one_groups_directory_is_nothing_to_the_others",),
        groups=THREE,
    ),
    Mutant(
        "groups-start-after-the-slowest",
        "one group that waits for a copy of its log keeps every other group of the node from taking part",
        (
            Patch(
                "disheap:Member._tick",
                "        for replica in self.replicas:\n            replica.tick()\n",
                "        if not any(replica.lifecycle.reason for replica in self.replicas):\n"
                "            [replica.tick() for replica in self.replicas]\n",
            ),
        ),
        (GROUPS + "test_a_group_that_waits_for_people_holds_up_no_other",),
        simulated=False,
    ),
    Mutant(
        "only-one-group-is-handed-over",
        "a node that stops leaves the clients of its other groups to wait for an election",
        (
            Patch(
                "disheap:Member.stop",
                "asyncio.gather(*(replica.hand_over() for replica in self.replicas))",
                "self.replicas[0].hand_over()",
            ),
        ),
        (GROUPS + "test_a_node_that_stops_hands_over_every_group_that_it_leads",),
        simulated=False,
    ),
)
