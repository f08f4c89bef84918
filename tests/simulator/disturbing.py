"""Whole nodes with three groups, and random faults. Nodes die, with and without their power, are cut off and freeze.
Links lose messages, and leaders move."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from disheap.plugins.registry import Registry
from tests.simulator.several_groups import GROUPS, RAFT, GroupsCluster


class DisturbedCluster(GroupsCluster):
    """`disturb` makes one fault after another until `is_over`. `faults` counts them."""

    def __init__(
        self, seed: int, machines: tuple[str, ...], registry: Registry | None = None, raft: Any = RAFT
    ) -> None:
        super().__init__(seed, raft, machines, registry)
        self.faults: Counter[str] = Counter()
        self.is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start_task(self, work: Any) -> asyncio.Task[None]:
        """It is kept, so that nobody collects it."""
        self._tasks.append(self.loop.create_task(work))
        return self._tasks[-1]

    async def disturb(self) -> None:
        """One fault after another, until `is_over`. Each of them ends by itself."""
        faults = (self._kill, self._kill, self._move, self._move, self._partition, self._spoil_links, self._freeze)
        while not self.is_over:
            await asyncio.sleep(self.rng.seconds(0.2, 1.0))
            fault = self.rng.pick(faults)
            self.faults[fault.__name__] += 1
            await fault()

    async def _kill(self) -> None:
        host = self.leader(self.rng.pick(GROUPS)) if self.rng.chance(0.7) else self.rng.pick(self.hosts)
        if host is None or host.state != "up":
            return
        self.kill(host, power=self.rng.chance(0.5))
        await asyncio.sleep(self.rng.seconds(0.0, 2.0))
        self.start(host)

    async def _move(self) -> None:
        group, target = self.rng.pick(GROUPS), self.rng.pick(self.hosts)
        leader = self.leader(group)
        if leader is not None and leader is not target:
            leader.process.run(self._transfer, leader, target, group)

    async def _partition(self) -> None:
        """One node cannot reach the others, or is not reached by them, or both."""
        alone = self.rng.pick(self.hosts).name
        ways = self.rng.pick(((True, True), (True, False), (False, True)))
        for other in [host.name for host in self.hosts if host.name != alone]:
            if ways[0]:
                self.network.cut(alone, other)
            if ways[1]:
                self.network.cut(other, alone)
        await asyncio.sleep(self.rng.seconds(1.0, 5.0))
        self.network.heal_all()

    async def _spoil_links(self) -> None:
        """Messages between nodes are lost, come twice, or late."""
        for source in self.hosts:
            for target in self.hosts:
                if source is not target:
                    link = self.network.link(source.name, target.name)
                    link.drop, link.double, link.reorder = 0.1, 0.1, 0.1
        await asyncio.sleep(self.rng.seconds(2.0, 6.0))
        self.network.heal_all()

    async def _freeze(self) -> None:
        host = self.leader(self.rng.pick(GROUPS))
        if host is not None:
            self.freeze(host)
            await asyncio.sleep(self.rng.seconds(1.0, 4.0))
            self.thaw(host)
