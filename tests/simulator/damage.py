"""A small cluster of whole nodes whose files are spoilt while it is down, and what comes of it.

Owns the making of the cluster, the spoiling, and the verdict. Nothing of the nodes is replaced. The safety checker is:
it follows one life of a cluster from its first entry, and these begin in the middle.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from disheap.config.node_config import RaftConfig
from disheap.plugins.registry import Registry
from disheap.protocol import broker
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.world.filesystem import DiskImage, Inode
from disheap.testing.simulator.world.rng import Rng

Files = dict[str, bytes]
TOPIC = "t"
BOUND_S = 60.0
"""Virtual time within which a cluster is whole again, or says what it waits for."""
RAFT = RaftConfig(
    tick_ms=100, heartbeat_ms=200, election_timeout_ms=1000, commit_timeout_ms=100,
    trailing_entries=0, trailing_bytes=0, chunk_bytes=4 << 10,
)  # fmt: skip
RECOVER = Path(__file__).parents[2] / "docs" / "how-to" / "recover-a-node.md"


class NoSafetyChecker:
    """In the place of the safety checker."""

    def __init__(self, durable_models: Any) -> None:
        self.durable_models = durable_models
        self.last_committed = 0
        self.tables: dict[int, Any] = {}
        self.spoilt_states: set[int] = set()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class DamagedCluster(Cluster):
    def __init__(self, registry: Registry, codec: str, disks: list[Files] | None = None) -> None:
        super().__init__(Rng(7), registry, 3)
        checks = self.groups[0]
        checks.safety = NoSafetyChecker(checks.safety.durable_models)  # type: ignore[assignment]
        self.refusals: dict[str, str] = {}
        self.slept: dict[str, None] = {}
        for host in self.hosts:
            host.config = msgspec.structs.replace(host.config, raft=RAFT, codec=codec)
            self.safety.durable_models[host.number].spoil()
            if disks is not None:
                host.disk_image = disk_image(disks[host.number - 1])

    def _failed(self, host: Host, error: BaseException) -> None:
        self.refusals[host.name] = str(error)
        super()._failed(host, error)

    def run(self, work: Any) -> Any:
        with quiet():
            task = self.loop.create_task(work)
            try:
                self.loop.run_until(task.done)
                return task.result()
            finally:
                self.check_errors()

    async def wait(self, holds: Callable[[], bool], otherwise: str, bound_s: float = BOUND_S) -> None:
        over_at = self.loop.now + bound_s
        while not holds():
            for host in self.up():
                if not host.node.group.is_running:
                    self.slept[host.name] = None
            assert self.loop.now < over_at, f"{otherwise}: {[(h.name, h.state, self.says(h)) for h in self.hosts]}"
            await asyncio.sleep(0.05)

    async def start_all(self) -> None:
        for host in self.hosts:
            self.start(host)
        await self.wait(lambda: all(h.has_group or h.state == "lost" for h in self.hosts), "a node does not start")

    def up(self) -> list[Host]:
        return [host for host in self.hosts if host.has_group]

    def says(self, host: Host) -> dict[str, Any]:
        return host.node.maintenance.repair_status() if host.has_group else {}

    def waits(self) -> bool:
        """All that are up wait, and say for what and for whom."""
        return all(self.says(host).get("missing") and self.says(host).get("waiting_for") for host in self.up())

    def is_whole(self) -> bool:
        """Somebody leads, whoever is up takes part, and all of them have the same."""
        if any(not host.has_group for host in self.hosts if host.is_up):
            return False  # one of them opens its storage again
        leader = self.leader()
        if leader is None or leader.node.group.applied.term != leader.node.group.raft.term:
            return False
        groups = [host.node.group for host in self.up()]
        is_sure = all(g.is_running and not g.raft.is_ambiguous for g in groups)
        return is_sure and len({g.applied.index for g in groups}) == 1

    def content(self) -> bytes:
        """What all that are up hold; they hold the same."""
        hashes = {host.node.group.sessions.state_hash() for host in self.up()}
        assert len(hashes) == 1, "one index, and two states"
        found = {h.node.group.sessions.machine.query(0, 0, broker.encode(broker.Peek(TOPIC, 100))) for h in self.up()}
        assert len(found) == 1
        return found.pop()

    async def end(self) -> None:
        """All at once, as if each had been told alone."""
        leaving = [host.process.start(host.node.stop(hand_over=False)) for host in self.up()]
        await asyncio.gather(*leaving)
        self.die()

    def die(self) -> None:
        for host in self.hosts:
            if host.state == "up":
                self._end(host, silently=False)

    def files(self) -> list[Files]:
        return [{path: bytes(inode.now) for path, inode in host.disk_image.names.items()} for host in self.hosts]


def made(registry: Registry, codec: str, is_closed: bool) -> tuple[list[Files], bytes]:
    """The files of three nodes with a snapshot, segments and a handful of entries; and what they hold."""
    cluster = DamagedCluster(registry, codec)

    async def life() -> bytes:
        await cluster.start_all()
        await cluster.wait(cluster.is_whole, "nobody leads")
        await apply(cluster, broker.CreateTopic(TOPIC, broker.TopicSettings()))
        for number in range(3):
            await apply(cluster, broker.Enqueue(TOPIC, broker.NewMessage(b"first %d" % number, number)))
        await cluster.wait(cluster.is_whole, "they differ")
        await cluster.end()
        await cluster.start_all()  # each start begins a segment, so that the snapshot leaves one behind
        await cluster.wait(cluster.is_whole, "they differ")
        for host in cluster.hosts:
            host.process.run(host.node.group.snapshotter.take)
        await cluster.wait(lambda: all(h.node.group.raft.snapshot_index for h in cluster.hosts), "no snapshot")
        for number in range(4):
            await apply(cluster, broker.Enqueue(TOPIC, broker.NewMessage(b"later %d" % number, number)))
        await cluster.wait(cluster.is_whole, "they differ")
        content = cluster.content()
        if is_closed:
            await cluster.end()
        cluster.die()
        return content

    try:
        content = cluster.run(life())
        return cluster.files(), content
    finally:
        cluster.loop.close()


async def apply(cluster: DamagedCluster, command: Any) -> None:
    leader = cluster.leader()
    assert leader is not None
    await leader.process.start(leader.node.apply(broker.encode(command)))


def outcome(
    registry: Registry, codec: str, disks: list[Files], content: bytes, after: list[Files] | None = None
) -> str:
    """What becomes of a cluster on these disks: `same`, `repaired`, `waits` or `refused`. Raises for anything else.
    `after` gets the files as they are then."""
    cluster = DamagedCluster(registry, codec, disks)

    async def life() -> str:
        await cluster.start_all()
        lost = [host for host in cluster.hosts if host.state == "lost"]
        for host in lost:
            assert is_documented(cluster.refusals[host.name]), cluster.refusals[host.name]
        await cluster.wait(lambda: cluster.is_whole() or cluster.waits(), "it is stuck, and does not say so")
        await asyncio.sleep(2.0)  # whoever takes part after all by then did not only wait
        if not cluster.is_whole():
            await cluster.wait(lambda: cluster.is_whole() or cluster.waits(), "it is stuck, and does not say so")
        if not cluster.is_whole():
            return "waits"
        assert cluster.content() == content, "wrong data"
        return "refused" if lost else "repaired" if cluster.slept else "same"

    try:
        return str(cluster.run(life()))
    finally:
        cluster.die()
        if after is not None:
            after.extend(cluster.files())
        cluster.loop.close()
        cluster.forget()


VARIES = re.compile(r"…|FILE|DIRECTORY|WHAT IS WRONG|\d+|'[^']*'|\([^)]*\)")
"""What the how-to has only an example of."""


def is_documented(refusal: str) -> bool:
    """Whether the how-to says what to do about it."""
    rows = [line.split("|")[1] for line in RECOVER.read_text().splitlines() if line.startswith("| `")]
    phrases = [phrase for row in rows for phrase in re.findall("`([^`]+)`", row)]
    return any(re.search(".*".join(map(re.escape, VARIES.split(phrase))), refusal) for phrase in phrases)


def disk_image(files: Files) -> DiskImage:
    found = DiskImage(Rng(1))
    for path, data in files.items():
        inode = found.names[path] = Inode()
        inode.now, inode.durable = bytearray(data), data
    found.durable = dict(found.names)
    return found


def flipped(files: Files, path: str, position: int) -> Files:
    data = bytearray(files[path])
    data[position] ^= 1 << position % 8
    return {**files, path: bytes(data)}


def places(data: bytes) -> list[int]:
    """Every byte that says something and its neighbours, and some of the padding."""
    return [at for at in range(len(data)) if any(data[max(0, at - 2) : at + 3]) or at % 1021 == 0]


@contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
