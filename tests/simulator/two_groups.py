"""Two groups of three nodes each, whose machine forwards, and an unreliable way between them.

The way belongs to this test: it loses messages and answers, delivers some twice and late, and can be cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from disheap.errors import DisheapError
from disheap.interfaces import Effects, MachineContext
from disheap.plugins.registry import Registry
from disheap.runtime.replica.forwarding import Done, Forwarder
from disheap.testing.simulator.cluster import Cluster
from disheap.testing.simulator.hosts import Host
from disheap.testing.simulator.loop import Process, SimLoop
from disheap.testing.simulator.rng import Rng
from tests.simulator.upgrading import RAFT
from tests.support.relay import Relay

PUMP_S = 0.05
ANSWER_S = 2.0
"""After so long the outcome of a command is not known."""


class StoodIn(Relay):
    """Its node does not see the power, because the test stands in for the way to the other group."""

    waiting = None  # type: ignore[assignment]

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        return super().apply(index, time_ms, 0, command)


class Outbox:
    """The power of a machine that hides it."""

    def __init__(self, machine: Any) -> None:
        self.waiting = lambda: Relay.waiting(machine)
        self.outbox, self.forget = machine.outbox, machine.forget


class RelayRegistry(Registry):
    def get(self, kind: str, name: str) -> type[Any]:  # type: ignore[override]
        return StoodIn if (kind, name) == ("machine", "relay") else super().get(kind, name)


class RelayCluster(Cluster):
    """The nodes of one group."""

    def __init__(self, group: int, rng: Rng, loop: SimLoop) -> None:
        super().__init__(rng, RelayRegistry.load(), 3, loop=loop)
        self.group = group
        for host in self.hosts:
            raft = msgspec.structs.replace(RAFT, snapshot_threshold=40)
            host.config = msgspec.structs.replace(host.config, raft=raft, machine="relay")

    def _registry_of(self, host: Host, process: Process) -> Registry:
        registry: Any = super()._registry_of(host, process)
        registry._made["machine", "relay"] = lambda settings, _: StoodIn(settings, MachineContext(self.group))
        return registry  # type: ignore[no-any-return]

    def machine(self) -> Any:
        leader = self.leader()
        assert leader is not None
        return leader.node.group.sessions.machine

    def is_whole(self) -> bool:
        leader = self.leader()
        if leader is None or not all(host.has_group and host.node.group.is_running for host in self.hosts):
            return False
        groups = [host.node.group for host in self.hosts]
        is_led = leader.node.group.applied.term == leader.node.group.raft.term
        return is_led and len({(group.applied.index, group.raft.commit) for group in groups}) == 1

    async def ask(self, command: bytes) -> bytes | None:
        """The reply of whoever leads; None when there is none, or the outcome is not known."""
        leader = self.leader()
        if leader is None:
            return None
        asked = leader.process.start(leader.node.apply(command, ANSWER_S))
        over_at = self.loop.now + 2 * ANSWER_S
        while not asked.done() and leader.process.alive and self.loop.now < over_at:
            await asyncio.sleep(0.02)
        if not asked.done():
            return None
        try:
            return bytes(asked.result())
        except DisheapError:
            return None


class Way:
    """From one leader to the other group; one for each life of a node."""

    def __init__(self, world: TwoGroups, host: Host, own: RelayCluster) -> None:
        self.world, self.process, self.own = world, host.process, own
        self._queue: deque[tuple[int, bytes, Done]] = deque()
        self._is_carrying = False

    def drop(self) -> None: ...

    def send(self, group: int, number: int, command: bytes, done: Done) -> None:
        self._queue.append((group, command, done))
        if not self._is_carrying:
            self._is_carrying = True
            self.world.start(self._carry())

    def apply(self, command: bytes, done: Done) -> None:
        self.world.start(self._exchange(self.own, command, done))

    async def _carry(self) -> None:
        """In order, several at a time."""
        while self._queue:
            group, command, done = self._queue.popleft()
            await asyncio.sleep(self.world.rng.seconds(0.0, 0.01))
            self.world.start(self._cross(group, command, done))
        self._is_carrying = False

    async def _cross(self, group: int, command: bytes, done: Done) -> None:
        world, rng = self.world, self.world.rng
        if world.is_cut or rng.chance(world.loss):
            await asyncio.sleep(ANSWER_S)
            self._tell(done, "lost")
            return
        if rng.chance(world.loss):
            await asyncio.sleep(rng.seconds(0.0, 3.0))  # late
        if rng.chance(world.loss):
            world.start(self._repeat(group, command))
        await self._exchange(world.groups[group], command, done)

    async def _repeat(self, group: int, command: bytes) -> None:
        await asyncio.sleep(self.world.rng.seconds(0.0, 5.0))
        self.world.repeated += 1
        await self.world.groups[group].ask(command)

    async def _exchange(self, cluster: RelayCluster, command: bytes, done: Done) -> None:
        reply = await cluster.ask(command)
        is_lost = cluster is not self.own and (self.world.is_cut or self.world.rng.chance(self.world.loss))
        self._tell(done, "" if reply is not None and not is_lost else "no answer")

    def _tell(self, done: Done, problem: str) -> None:
        if self.process.alive:
            self.process.soon(done, problem)


class TwoGroups:
    """`put` is what was promised: for each source group, the word that has the number."""

    def __init__(self, seed: int) -> None:
        self.loop = SimLoop()  # type: ignore[abstract]
        self.rng = Rng(seed)
        self.groups = {group: RelayCluster(group, self.rng.fork(), self.loop) for group in (0, 1)}
        self.loss = 0.05
        self.is_cut = self.has_ended = False
        self.repeated = self.kills = 0
        self.put: dict[int, dict[int, str]] = {0: {}, 1: {}}
        self._tasks: list[asyncio.Task[None]] = []
        self._forwarders: dict[tuple[int, int, int], Forwarder] = {}

    def start(self, work: Any) -> asyncio.Task[None]:
        self._tasks.append(self.loop.create_task(work))
        return self._tasks[-1]

    def run(self, work: Any) -> None:
        task = self.loop.create_task(work)
        try:
            self.loop.run_until(task.done)
            task.result()
            for cluster in self.groups.values():
                cluster.check_errors()
        finally:
            for cluster in self.groups.values():
                for host in cluster.hosts:
                    if host.state in ("up", "frozen"):
                        cluster._end(host, silently=False)
            self.loop.close()

    async def wait(self, holds: Callable[[], bool], otherwise: Callable[[], str], bound_s: float = 90.0) -> None:
        over_at = self.loop.now + bound_s
        while not holds():
            assert self.loop.now < over_at, otherwise()
            await asyncio.sleep(0.1)

    # --- what a node does at its tick ---

    async def forward(self) -> None:
        while not self.has_ended:
            for cluster in self.groups.values():
                for host in cluster.hosts:
                    if host.is_up and host.has_group:
                        host.process.run(self._pump, cluster, host)
            await asyncio.sleep(PUMP_S)

    def _pump(self, cluster: RelayCluster, host: Host) -> None:
        key, group = (cluster.group, host.number, host.lives), host.node.group
        if key not in self._forwarders:
            self._forwarders[key] = Forwarder(
                lambda: Outbox(host.node.group.sessions.machine),  # type: ignore[arg-type, return-value]
                Way(self, host, cluster), host.clock.monotonic, self.rng.generator.random, lambda: None,
            )  # fmt: skip
        self._forwarders[key].lead(int(group.raft.term) if group.leads else 0)
        self._forwarders[key].pump()

    # --- clients and faults ---

    async def work(self, source: int, count: int) -> None:
        """Words that are never sent twice: a lost answer leaves a word that nobody was promised."""
        for number in range(count):
            word = f"g{source}w{number}"
            reply = await self.groups[source].ask(b">%d:%s" % (1 - source, word.encode()))
            if reply is not None:
                self.put[source][int(reply)] = word
            await asyncio.sleep(self.rng.seconds(0.0, 0.3))

    async def disturb(self) -> None:
        while not self.has_ended:
            await asyncio.sleep(self.rng.seconds(0.3, 1.5))
            cluster = self.groups[self.rng.pick((0, 1))]
            await self.rng.pick((self._kill, self._transfer, self._partition, self._cut))(cluster)

    async def _kill(self, cluster: RelayCluster) -> None:
        host = cluster.leader() if self.rng.chance(0.6) else self.rng.pick(cluster.hosts)
        if host is None or host.state != "up":
            return
        self.kills += 1
        cluster.kill(host, power=self.rng.chance(0.5))
        await asyncio.sleep(self.rng.seconds(0.0, 2.0))
        cluster.start(host)

    async def _transfer(self, cluster: RelayCluster) -> None:
        leader, target = cluster.leader(), self.rng.pick(cluster.hosts)
        if leader is not None and leader is not target:
            leader.process.run(leader.node.group.transfer, cluster.node_id(target))

    async def _partition(self, cluster: RelayCluster) -> None:
        """One node, with or without the leader, cannot reach the others."""
        alone = self.rng.pick(cluster.hosts).name
        others = [host.name for host in cluster.hosts if host.name != alone]
        for other in others:
            cluster.network.cut(alone, other)
            cluster.network.cut(other, alone)
        await asyncio.sleep(self.rng.seconds(1.0, 5.0))
        cluster.network.heal_all()

    async def _cut(self, _: RelayCluster) -> None:
        self.is_cut = True
        await asyncio.sleep(self.rng.seconds(0.5, 4.0))
        self.is_cut = False
