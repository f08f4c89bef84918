"""Reads asked of nodes that lead, or believe that they do, at the moments that matter (dissertation §6.4).

Clients come to a leader when it is well established. A probe asks the group itself. It asks right after an election,
before the leader's own no-op is committed. It asks a leader that is cut off or was frozen, while another one may have
been elected. And it asks at any time. What it is told must be at least as new as what was committed when it asked, and
it must be told something.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from disheap.testing.simulator.world.rng import Rng

if TYPE_CHECKING:
    from disheap.runtime.replica.group import Group
    from disheap.testing.simulator.cluster.cluster import Cluster
    from disheap.testing.simulator.cluster.hosts import Host
    from disheap.testing.simulator.world.loop import Process

ANSWER_BOUND_S = 20.0
"""Within which a process that runs answers a read, well or badly. Longer than any simulated disk or election takes."""


class Probe:
    """One read. `asked_at` is 0 until its process has come to ask it."""

    def __init__(self, process: Process, number: int, group: Group) -> None:
        self.process = process
        self.number = number  # of the group
        self.group = group
        self.asked_at = 0.0
        self.floor = 0


class Probes:
    """Asks nodes that believe they lead to read, and checks the answers."""

    def __init__(self, cluster: Cluster, rng: Rng, pace_s: float) -> None:
        self.cluster = cluster
        self.made = 0
        self._rng = rng
        self._pace_s = pace_s
        self._waiting: dict[Probe, None] = {}

    async def make(self) -> None:
        """Probes until it is cancelled."""
        while True:
            await asyncio.sleep(self._pace_s * self._rng.seconds(0.1, 2.0))
            for host in self.cluster.hosts:
                for one in self.cluster.groups:
                    if host.has_opened(one.number) and host.replica(one.number).group.raft.is_leader:
                        self.ask(host, one.number)

    def ask(self, host: Host, group: int = 0) -> None:
        """Asks one node. A process that is frozen answers as the first thing when it goes on."""
        probe = Probe(host.process, group, host.replica(group).group)
        host.process.soon(self._ask, probe)

    def _ask(self, probe: Probe) -> None:
        if not probe.group.is_running:
            return
        probe.asked_at, probe.floor = self.cluster.loop.now, self._last_committed(probe)
        self._waiting[probe] = None
        self.made += 1
        probe.group.read(lambda ok: self._answered(probe, ok))

    def _last_committed(self, probe: Probe) -> int:
        return self.cluster.groups[probe.number].safety.last_committed

    def _answered(self, probe: Probe, ok: bool) -> None:
        if probe not in self._waiting:
            self.cluster.fail("a read is answered twice")
        del self._waiting[probe]
        index = probe.group.applied.index
        if ok and index < probe.floor:
            self.cluster.fail(
                f"a stale read of {probe.process.name}: allowed at entry {index}, and {probe.floor} was committed when "
                "it was asked"
            )

    def check(self) -> None:
        """At the end, when everything runs: nobody waits for ever."""
        for probe in self._waiting:
            waited_s = self.cluster.loop.now - probe.asked_at
            if probe.process.alive and not probe.process.frozen and waited_s > ANSWER_BOUND_S:
                self.cluster.fail(f"a read of {probe.process.name} has no answer after {waited_s:.3f} s")
