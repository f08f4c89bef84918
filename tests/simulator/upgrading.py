"""A release to come: the heap with one more command and one more thing to remember, from machine_version 2 on.

Owns the newer machine, and a simulated cluster whose nodes each run a release of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain
from typing import Any, ClassVar

import msgspec

from disheap.config.node_config import RaftConfig
from disheap.errors import DisheapError, VersionTooOld, VersionUnsupported
from disheap.plugins.registry import Registry
from disheap.protocol import broker
from disheap.protocol.broker.fields import Exact
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.rng import Rng
from disheap_heap.command_set import Handlers
from disheap_heap.machine import HANDLERS, HeapMachine
from disheap_heap.state.state import State
from tests.simulator.scripted import ScriptedCluster

OLD, NEW, LATER = "old", "new", "later"
TOPIC = "t"
MARK = b"NEW!"
BOUND_S = 60.0
RAFT = RaftConfig(
    tick_ms=100, heartbeat_ms=200, election_timeout_ms=1000, commit_timeout_ms=100,
    trailing_entries=0, trailing_bytes=0, chunk_bytes=4 << 10, snapshot_threshold=1000,
)  # fmt: skip


class Tally(Exact, tag=120, frozen=True):
    """The command of the newer release. Its reply is the sum so far."""

    number: int


class NewerHeap(HeapMachine):
    """`tally` is written into snapshots from version 2 on, in front of what version 1 writes."""

    versions: ClassVar[tuple[int, int]] = (1, 2)

    def __init__(self, settings: Any, context: Any) -> None:
        self.tally = 0
        super().__init__(settings, context)

    @property
    def handlers(self) -> Handlers:  # type: ignore[override]
        return {**HANDLERS, Tally: (2, self._count)}

    def _count(self, state: State, session: int, command: Tally) -> bytes:
        self.tally += command.number
        return msgspec.msgpack.encode(self.tally)

    def snapshot(self) -> Iterator[bytes]:
        pieces = super().snapshot()
        if self._state.version == 1:
            return pieces
        return chain([MARK + self.tally.to_bytes(8, "big")], pieces)

    def restore(self, chunks: Iterable[bytes]) -> None:
        data, tally = b"".join(chunks), 0
        if data.startswith(MARK):
            tally, data = int.from_bytes(data[4:12], "big"), data[12:]
        super().restore([data])
        self.tally = tally

    def state_hash(self) -> bytes:
        return blake2b(b"".join(self.snapshot()), digest_size=16).digest()

    def hashing(self) -> Iterator[bytes]:
        return self.snapshot()


class LaterHeap(NewerHeap):
    """The release after the newer one. It does not run version 1 any more."""

    versions: ClassVar[tuple[int, int]] = (2, 2)


class NewerRegistry(Registry):
    """The installed plugins, and another release's heap in the place of the heap."""

    heap: type[HeapMachine] = NewerHeap

    def get(self, kind: str, name: str) -> type[Any]:  # type: ignore[override]
        return self.heap if (kind, name) == ("machine", "heap") else super().get(kind, name)


class LaterRegistry(NewerRegistry):
    """Likewise."""

    heap = LaterHeap


class MixedCluster(ScriptedCluster):
    """`release` says which release each host runs from its next start on."""

    def __init__(self, seed: int) -> None:
        self.registries = {OLD: Registry.load(), NEW: NewerRegistry.load(), LATER: LaterRegistry.load()}
        super().__init__(Rng(seed), self.registries[OLD], 3)
        self.release = {host.name: OLD for host in self.hosts}
        self.too_old: dict[str, str] = {}  # why a node ended
        self.away: set[str] = set()
        self.accepted = self.refused = 0
        for host in self.hosts:
            host.config = msgspec.structs.replace(host.config, raft=RAFT)

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def _registry_of(self, host: Host, process: Process) -> Registry:
        self._registry = self.registries[self.release[host.name]]
        return super()._registry_of(host, process)

    def _failed(self, host: Host, error: BaseException) -> None:
        """A node that is too old says so, and ends. Anything else is a violation."""
        if isinstance(error, VersionUnsupported):
            self.too_old[host.name] = str(error)
            self._end(host, silently=False)
            return
        super()._failed(host, error)

    # --- steps ---

    async def wait(self, holds: Callable[[], bool], otherwise: str, bound_s: float = BOUND_S) -> None:
        over_at = self.loop.now + bound_s
        while not holds():
            if self.loop.now > over_at:
                self.fail(f"{otherwise}: {[(host.name, host.state, self.release[host.name]) for host in self.hosts]}")
            await asyncio.sleep(0.05)

    def up(self) -> list[Host]:
        return [host for host in self.hosts if host.name not in self.away]

    def is_whole(self) -> bool:
        """Somebody leads, and all that should be up have applied the same."""
        leader, hosts = self.leader(), self.up()
        if leader is None or not all(host.has_group and host.node.group.is_running for host in hosts):
            return False
        groups = [host.node.group for host in hosts]
        is_led = leader.node.group.applied.term == leader.node.group.raft.term
        return is_led and len({(group.applied.index, group.raft.commit) for group in groups}) == 1

    async def whole(self) -> None:
        await self.wait(self.is_whole, "the nodes differ, or nobody leads")
        hashes = {host.node.group.sessions.state_hash() for host in self.up()}
        assert len(hashes) == 1, "one index, and two states"

    def versions(self) -> set[int]:
        return {host.node.group.sessions.machine_version for host in self.up() if host.has_group}

    async def change(self, name: str, release: str, power: bool = False) -> None:
        """Stop the node, or kill it, and start it with that release."""
        await self.leave(name, power)
        await self.come_back(name, release)

    async def leave(self, name: str, power: bool = False) -> None:
        host = self.host(name)
        self.away.add(name)
        if power:
            self.kill(host, power=True)
        else:
            self.stop(host)
        await self.wait(lambda: host.state == "down", f"{name} does not stop")

    async def come_back(self, name: str, release: str) -> None:
        self.release[name] = release
        self.start(self.host(name))
        self.away.discard(name)
        await self.whole()

    async def lead(self, name: str) -> None:
        host = self.host(name)
        while self.leader() is not host:
            await self.wait(lambda: self.leader() is not None, "nobody leads")
            leader = self.leader()
            if leader is not None and leader is not host:
                leader.process.run(lambda leader=leader: leader.node.group.transfer(self.node_id(host)))
            await asyncio.sleep(1.0)
        await self.whole()

    async def snapshots(self) -> None:
        """Takes a snapshot on each node that is up, at the index where it stands."""
        await self.whole()
        index = max(host.node.group.applied.index for host in self.up())
        for host in self.up():
            host.process.run(host.node.group.snapshotter.take)
        await self.wait(lambda: all(host.node.group.raft.snapshot_index >= index for host in self.up()), "no snapshot")

    async def ask(self, command: Any) -> bytes:
        """Asks until a leader answers. Raises what the machine refuses."""
        while True:
            await self.wait(lambda: self.leader() is not None, "nobody leads")
            leader = self.leader()
            assert leader is not None
            process = leader.process
            done = process.start(leader.node.apply(broker.encode(command)))
            await self.wait(lambda done=done, process=process: done.done() or not process.alive, "no reply")
            if not done.done():
                continue
            try:
                return bytes(done.result())
            except VersionTooOld:
                raise
            except DisheapError:
                await asyncio.sleep(0.2)

    async def work(self, expects_new: bool) -> None:
        """A few old commands and a new one."""
        for number in range(3):
            await self.ask(broker.Enqueue(TOPIC, broker.NewMessage(b"x" * 300, number)))
        try:
            await self.ask(Tally(1))
            self.accepted += 1
            assert expects_new, "a command of a later version was taken"
        except VersionTooOld as error:
            self.refused += 1
            assert not expects_new, str(error)
            assert "tag 120 at machine_version 1" in str(error)
        await self.whole()
