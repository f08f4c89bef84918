"""Raft Figure 3 under random schedules (dissertation §3.6.3, §4.1, §5): hypothesis picks what happens next.
`SafetyChecker` checks the five properties of the figure after every step. It also checks durability before every reply,
quorums on real disks, and the membership in force. At the end all is healed, and the cluster must elect and commit
within a bound of ticks."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from disheap.kernel.types import NOBODY, Membership, NodeId

from .harness import ELECTION_TICKS, Cluster, group, refused

NODES = st.integers(1, 5)
POSITIONS = st.integers(0, 1 << 16)


class RaftMachine(RuleBasedStateMachine):
    """Five nodes, of which some vote, some learn and some are strangers at first."""

    @initialize(
        voters=st.integers(1, 4),
        learners=st.integers(0, 1),
        seed=st.integers(0, 1 << 16),
        pre_vote=st.booleans(),
        check_quorum=st.booleans(),
    )
    def build(self, voters: int, learners: int, seed: int, pre_vote: bool, check_quorum: bool) -> None:
        members = voters + learners
        self.cluster = Cluster(
            range(1, voters + 1),
            range(voters + 1, members + 1),
            strangers=range(members + 1, 6),
            seed=seed,
            pre_vote=pre_vote,
            check_quorum=check_quorum,
        )
        self.counter = 0

    # --- time, disks and the network ---------------------------------------------------------------------------------

    @rule(node=NODES, times=st.integers(1, 2 * ELECTION_TICKS))
    def a_clock_ticks(self, node: int, times: int) -> None:
        self.cluster.tick_one(node, times)

    @rule(times=st.integers(1, ELECTION_TICKS))
    def all_clocks_tick(self, times: int) -> None:
        for _ in range(times):
            for node in self.cluster.nodes:
                self.cluster.tick_one(node)
            self._deliver(20)

    @rule(count=st.integers(1, 30))
    def messages_arrive(self, count: int) -> None:
        self._deliver(count)

    @rule()
    def all_comes_to_rest(self) -> None:
        self.cluster.settle()

    @precondition(lambda self: self.cluster.network)
    @rule(position=POSITIONS)
    def a_message_overtakes(self, position: int) -> None:
        self.cluster.deliver(position % len(self.cluster.network))

    @precondition(lambda self: self.cluster.network)
    @rule(position=POSITIONS)
    def a_message_arrives_and_comes_again(self, position: int) -> None:
        self.cluster.deliver(position % len(self.cluster.network), keep=True)

    @precondition(lambda self: self.cluster.network)
    @rule(position=POSITIONS)
    def a_message_is_lost(self, position: int) -> None:
        del self.cluster.network[position % len(self.cluster.network)]

    @rule(source=NODES, to=NODES)
    def a_direction_is_cut(self, source: int, to: int) -> None:
        self.cluster.cut(source, to)

    @rule(side=st.sets(NODES, min_size=1, max_size=3))
    def the_network_splits(self, side: set[int]) -> None:
        self.cluster.partition(sorted(side), [node for node in self.cluster.nodes if node not in side])

    @rule()
    def the_network_heals(self) -> None:
        self.cluster.cuts.clear()

    @rule(node=NODES)
    def a_disk_does_its_next_job(self, node: int) -> None:
        if self.cluster[node].jobs:
            self.cluster[node].run_job()

    @rule(node=NODES, is_slow=st.booleans())
    def a_disk_slows_down_or_recovers(self, node: int, is_slow: bool) -> None:
        if is_slow:
            self.cluster.hold_disk(node)
        else:
            self.cluster.slow_disks.pop(node, None)

    @rule(node=NODES)
    def a_machine_applies(self, node: int) -> None:
        if self.cluster[node].to_apply:
            self.cluster[node].run_apply()

    # --- nodes -------------------------------------------------------------------------------------------------------

    @rule(node=NODES, written=st.one_of(st.none(), st.integers(0, 3)))
    def a_node_crashes(self, node: int, written: int | None) -> None:
        if self.cluster[node].is_up:
            self.cluster.crash(node, written)

    @rule(node=NODES)
    def a_node_starts(self, node: int) -> None:
        if not self.cluster[node].is_up:
            self.cluster.restart(node)

    @rule(node=NODES, trailing=st.integers(0, 4))
    def a_node_takes_a_snapshot(self, node: int, trailing: int) -> None:
        if self.cluster[node].is_up and not self.cluster[node].jobs:
            self.cluster[node].take_snapshot(trailing)

    @rule(node=NODES, is_held_back=st.booleans())
    def a_clock_is_refused_or_believed(self, node: int, is_held_back: bool) -> None:
        if self.cluster[node].is_up:
            self.cluster[node].raft.hold_back(is_held_back)

    @rule(node=NODES, is_frozen=st.booleans())
    def a_node_freezes_or_thaws(self, node: int, is_frozen: bool) -> None:
        """What is sent to it waits, and comes late."""
        if is_frozen:
            self.cluster.freeze(node)
        else:
            self.cluster.thaw(node)

    @rule(node=NODES, peer=NODES)
    def a_connection_breaks(self, node: int, peer: int) -> None:
        if self.cluster[node].is_up:
            self.cluster[node].raft.unreachable(NodeId(peer))
            self.cluster[node].pump()

    # --- requests ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.cluster.leader is not None)
    @rule(count=st.integers(1, 8), size=st.integers(0, 200))
    def clients_propose(self, count: int, size: int) -> None:
        leader = self._leader()
        for _ in range(count):
            self.counter += 1
            refused(lambda: self.cluster.propose(leader, b"%d" % self.counter + b"." * size, settle=False))

    @precondition(lambda self: self.cluster.leader is not None)
    @rule(node=NODES, voter=st.booleans(), remove=st.booleans())
    def the_membership_changes(self, node: int, voter: bool, remove: bool) -> None:
        leader = self._leader()
        members = {m.id: m.voter for m in self.cluster[leader].raft.membership.members}
        members.pop(NodeId(node), None)
        if not remove:
            members[NodeId(node)] = voter
        new: Membership = group([n for n in members if members[n]], [n for n in members if not members[n]])
        refused(lambda: self.cluster.propose_change(leader, new, settle=False))

    @precondition(lambda self: self.cluster.leader is not None)
    @rule(to=st.one_of(st.just(int(NOBODY)), NODES))
    def leadership_is_handed_over(self, to: int) -> None:
        leader = self._leader()
        refused(lambda: self.cluster[leader].raft.transfer_leadership(NodeId(to)))
        self.cluster[leader].pump()

    @precondition(lambda self: self.cluster.leader is not None)
    @rule()
    def a_client_reads(self) -> None:
        leader = self._leader()
        self.counter += 1
        self.cluster.safety.read_asked(self.counter)
        self.cluster[leader].raft.read_index(self.counter)
        self.cluster[leader].pump()

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def raft_is_safe(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.safety.check(self.cluster)

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.check_liveness()

    def _leader(self) -> int:
        leader = self.cluster.leader
        assert leader is not None
        return leader.id

    def _deliver(self, count: int) -> None:
        for _ in range(count):
            if self.cluster.network:
                self.cluster.deliver()
            for node in self.cluster.nodes.values():
                if node.is_up and node.jobs and not self.cluster.slow_disks.get(node.id):
                    node.run_job()
                if node.is_up and node.to_apply:
                    node.run_apply()


BOUNDED = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

TestRaftMachine = pytest.mark.timeout(100)(RaftMachine.TestCase)
TestRaftMachine.settings = BOUNDED
