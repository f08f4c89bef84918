"""The kernel alone, under seeded schedules, with memberships that change: what happens follows from the seed on every
Python, byte by byte.

The cluster is the kernel tests' own, whose `SafetyChecker` checks Raft Figure 3 after every step. Hypothesis
looks for schedules there. Here they are fixed, so that one hash says whether two interpreters, or two orders of
hashing, see the same.
"""

from __future__ import annotations

import hashlib

import pytest

from disheap.kernel.membership import last_id_of
from disheap.kernel.types import NodeId
from disheap.testing.simulator.world.rng import Rng
from tests.kernel.harness import Cluster, group, refused

STEPS = 2400
SEEDS = range(1, 13)
NODES = 5
KNOWN = {
    1: "ce85fb5dadb9ea52",
    2: "78ac5ebb711d02e6",
    3: "cb83324662de1840",
}
"""The hashes of these seeds on every supported Python. They change with the kernel, and with nothing else."""


class Schedule:
    def __init__(self, seed: int) -> None:
        self.rng = Rng(seed)
        voters = self.rng.between(1, NODES)
        self.cluster = Cluster(range(1, voters + 1), strangers=range(voters + 1, NODES + 1), seed=seed)
        self.digest = hashlib.blake2b(digest_size=8)
        self.made = self.seen = self.changes = 0

    def run(self) -> str:
        steps = [
            (self.tick, 10),
            (self.deliver, 60),
            (self.disturb, 4),
            (self.work, 30),
            (self.propose, 6),
            (self.change, 6),
            (self.read, 1),
            (self.transfer, 1),
            (self.cut, 1),
            (self.crash, 1),
            (self.start, 2),
            (self.snapshot, 1),
        ]
        for _ in range(STEPS):
            self.rng.weighted(steps)()
            self.cluster.safety.check(self.cluster)
            self.note()
        self.cluster.check_liveness()
        self.digest.update(str(sorted(self.cluster.safety.committed.items())).encode())
        return self.digest.hexdigest()

    def note(self) -> None:
        """What was delivered since the last time."""
        for message in self.cluster.delivered[self.seen :]:
            self.digest.update(repr(message).encode())
        self.seen = len(self.cluster.delivered)

    # --- what may happen ---

    def any_node(self) -> int:
        return self.rng.between(1, NODES)

    def tick(self) -> None:
        self.cluster.tick_one(self.any_node(), self.rng.between(1, 3))

    def deliver(self) -> None:
        if self.cluster.network:
            overtakes = self.rng.chance(0.1)
            self.cluster.deliver(self.rng.below(len(self.cluster.network)) if overtakes else 0)

    def disturb(self) -> None:
        if self.cluster.network:
            place = self.rng.below(len(self.cluster.network))
            if self.rng.chance(0.5):
                del self.cluster.network[place]
            else:
                self.cluster.deliver(place, keep=True)

    def work(self) -> None:
        node = self.cluster[self.any_node()]
        if node.is_up and node.jobs:
            node.run_job()
        if node.is_up and node.to_apply:
            node.run_apply()

    def propose(self) -> None:
        leader = self.cluster.leader
        if leader is not None:
            self.made += 1
            data = b"%d" % self.made + b"." * self.rng.below(200)
            refused(lambda: self.cluster.propose(leader.id, data, settle=False))

    def change(self) -> None:
        """A member joins, leaves, gets the vote or loses it."""
        leader = self.cluster.leader
        if leader is None:
            return
        last_id = last_id_of(leader.raft.membership)
        members = {member.id: member.voter for member in leader.raft.membership.members}
        if last_id < NODES and self.rng.chance(0.3):
            members[NodeId(last_id + 1)] = self.rng.chance(0.4)
        else:
            node = self.rng.pick(tuple(members))
            if self.rng.chance(0.2):
                del members[node]  # its id never comes back
            else:
                members[node] = not members[node]
        voters = [one for one in members if members[one]]
        new = group(voters, [one for one in members if not members[one]])._replace(last_id=last_id)
        self.changes += refused(lambda: self.cluster.propose_change(leader.id, new, settle=False)) is None

    def read(self) -> None:
        leader = self.cluster.leader
        if leader is not None:
            self.made += 1
            self.cluster.safety.read_asked(self.made)
            leader.raft.read_index(self.made)
            leader.pump()

    def transfer(self) -> None:
        leader = self.cluster.leader
        if leader is not None:
            refused(lambda: leader.raft.transfer_leadership(NodeId(self.rng.between(0, 5))))
            leader.pump()

    def cut(self) -> None:
        if self.rng.chance(0.5):
            self.cluster.cuts.clear()
        else:
            self.cluster.cut(self.any_node(), self.any_node())

    def crash(self) -> None:
        node = self.any_node()
        if self.cluster[node].is_up:
            self.cluster.crash(node, self.rng.pick((None, 0, 1, 3)))

    def start(self) -> None:
        node = self.any_node()
        if not self.cluster[node].is_up:
            self.cluster.restart(node)

    def snapshot(self) -> None:
        node = self.cluster[self.any_node()]
        if node.is_up and not node.jobs:
            node.take_snapshot(self.rng.below(5))


def test_raft_is_safe_and_lively_under_every_schedule() -> None:
    changes = 0
    for seed in SEEDS:
        schedule = Schedule(seed)
        schedule.run()
        changes += schedule.changes
    assert changes > len(SEEDS), "memberships hardly ever change: the schedules do not reach what they are for"


@pytest.mark.parametrize("seed", KNOWN)
def test_a_schedule_has_one_hash_on_every_python(seed: int) -> None:
    assert Schedule(seed).run() == KNOWN[seed]
