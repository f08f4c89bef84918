"""One node loses the last write that it acknowledged, and is told that it may have (storage-rules 4).

What that write had superseded shows again. In random schedules leaders are cut off and written to, so that writes
supersede. Every invariant of `SafetyChecker` holds after each step, and the cluster goes on at the end.
"""

from __future__ import annotations

import random
from functools import partial

import pytest

from disheap.kernel.types import Entry, HardState, Index, Membership, NodeId, SnapshotMeta

from .harness import ELECTION_TICKS, Cluster, Disk, group, refused

STEPS = 220


class ForgetfulDisk(Disk):
    """Remembers what its newest write of entries replaced, as long as nothing else happened to it."""

    def __init__(self, membership: Membership) -> None:
        super().__init__(membership)
        self.before: list[Entry] | None = None
        self.ambiguity: Index | None = None
        self.has_lost = False

    def holds(self, index: int, term: int) -> bool:
        return self.has_lost or super().holds(index, term)  # what it has lost was durable when it was counted

    def write(self, hard_state: HardState | None, entries: tuple[Entry, ...]) -> None:
        if entries:
            self.before = list(self.entries)
        super().write(hard_state, entries)

    def compact(self, first_index: int) -> None:
        self.before = None
        super().compact(first_index)

    def install(self, meta: SnapshotMeta) -> None:
        self.before = None
        super().install(meta)

    @property
    def has_superseded(self) -> bool:
        """Whether its newest write took the place of other entries."""
        return self.before is not None and any(old != new for old, new in zip(self.before, self.entries, strict=False))

    def lose_newest_write(self) -> None:
        assert self.before is not None
        self.entries, self.before, self.has_lost = self.before, None, True
        self.ambiguity = max(self.last_index, self.snapshot.index)


class Schedule:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        voters = range(1, self.random.choice((3, 3, 5)) + 1)
        self.disks = {number: ForgetfulDisk(group(voters)) for number in voters}
        self.cluster = Cluster(voters, disks=dict(self.disks), seed=seed)
        self.proposed = 0
        self.has_lost = False

    def run(self) -> None:
        for _ in range(STEPS):
            self._step(self.random.random())
            if not self.has_lost:
                self._lose(self.random.random() < 0.5)
            self.cluster.safety.check(self.cluster)
        for number in self.disks:
            self._start(number)
        self.cluster.check_liveness()

    def _step(self, draw: float) -> None:
        cluster, dice = self.cluster, self.random
        numbers = list(self.disks)
        if draw < 0.35:
            for number in numbers:
                cluster.tick_one(number)
            self._deliver(dice.randrange(25))
        elif draw < 0.45:
            cluster.tick_one(dice.choice(numbers), dice.randrange(1, 2 * ELECTION_TICKS))
        elif draw < 0.65:
            self._propose()
        elif draw < 0.72:
            leader = cluster.leader
            cluster.isolate(leader.id if leader and dice.random() < 0.7 else dice.choice(numbers))
        elif draw < 0.82:
            cluster.cuts.clear()
        elif draw < 0.92:
            self._deliver(40)
        elif draw < 0.95:
            self._crash(dice.choice(numbers))
        else:
            for number in numbers:
                self._start(number)

    def _propose(self) -> None:
        for node in self.cluster.nodes.values():
            if node.is_up and node.raft.is_leader:
                for _ in range(self.random.randrange(1, 4)):
                    self.proposed += 1
                    refused(partial(self.cluster.propose, node.id, b"%d" % self.proposed, settle=False))

    def _deliver(self, count: int) -> None:
        for _ in range(count):
            network = self.cluster.network
            if network:
                self.cluster.deliver(self.random.randrange(len(network)) if self.random.random() < 0.1 else 0)
            for node in self.cluster.nodes.values():
                for queue, run in ((node.jobs, node.run_job), (node.to_apply, node.run_apply)):
                    if node.is_up and queue and self.random.random() < 0.8:
                        run()

    def _lose(self, is_wanted: bool) -> None:
        """Loses the end of a follower whose newest write, which is acknowledged, superseded something."""
        for number, disk in self.disks.items():
            node = self.cluster[number]
            if is_wanted and node.is_up and not node.jobs and not node.raft.is_leader and disk.has_superseded:
                self._deliver(self.random.choice((0, 5, 30)))
                if node.is_up and disk.has_superseded and not node.jobs:
                    self._crash(number)
                    disk.lose_newest_write()
                    self.has_lost = True
                    self._start(number)
                return

    def _crash(self, number: int) -> None:
        """Its links break: what was on them is gone, and the others hear of it."""
        node, disk = self.cluster[number], self.disks[number]
        if not node.is_up:
            return
        if not node.raft.is_ambiguous:
            disk.ambiguity = None
        self.cluster.crash(number)
        self._break_links(number)
        for other in self.cluster.nodes.values():
            if other.is_up:
                other.raft.unreachable(NodeId(number))
                other.pump()
        self._break_links(number)  # what was sent on hearing it went nowhere either

    def _break_links(self, number: int) -> None:
        self.cluster.network = [one for one in self.cluster.network if number not in (one.source, one.target)]

    def _start(self, number: int) -> None:
        if not self.cluster[number].is_up:
            self.cluster.restart(number, self.disks[number].ambiguity)


def test_the_schedules_lose_what_superseded() -> None:
    schedules = [Schedule(seed) for seed in range(1, 41)]
    for schedule in schedules:
        schedule.run()
    assert sum(schedule.has_lost for schedule in schedules) >= 10


@pytest.mark.parametrize("first", [101, *(pytest.param(first, marks=pytest.mark.proof) for first in (121, 141, 161))])
def test_whatever_one_node_loses_the_cluster_commits_nothing_else_twice(first: int) -> None:
    for seed in range(first, first + 20):
        Schedule(seed).run()
