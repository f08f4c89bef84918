"""What a node keeps for its snapshots, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.storage.parts import entries, meta, opened, write_snapshot
from tests.support.nodes import FAST, Cluster
from tests.support.wire import wait_until

from disheap.errors import MalformedFrame, SnapshotDamaged
from disheap.kernel.types import (
    ChunkRead,
    ChunkWrite,
    Entry,
    Index,
    Message,
    NodeId,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
)
from disheap.runtime.replica.snapshots import SnapshotPolicy, Snapshotter
from disheap.runtime.state.installing import Installer
from disheap.runtime.state.snapshot_source import SnapshotSource
from disheap.testing.crashing_disk import CrashingDisk


async def test_the_record_of_sizes_stays_small_however_long_no_snapshot_is_due(tmp_path: Path) -> None:
    raft = msgspec.structs.replace(FAST, trailing_bytes=4096)
    async with Cluster(tmp_path, nodes=1, raft=raft) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        for count in range(400):
            await client.call(b"+1", confirmed=count)
        snapshotter = node.group.snapshotter
        assert len(snapshotter._sizes) < 100
        snapshotter.take()
        assert snapshotter._run is not None
        kept = snapshotter._storage.read(snapshotter._run.first, node.group.applied.index, 1 << 20)
        assert 4096 <= _bytes_of(kept) <= 4096 * 1.1, "and is exact enough for the margin"


def _bytes_of(entries: tuple[Entry, ...]) -> int:
    return sum(len(entry.data) for entry in entries)


async def test_a_snapshot_that_rotted_under_its_leader_is_replaced_by_a_new_one(
    tmp_path: Path,
) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        node.group.snapshotter.take()
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "a snapshot is taken")
        (path,) = (tmp_path / "n1").glob("groups/0/snapshot-*")
        content = bytearray(path.read_bytes())
        content[-90] ^= 1
        path.write_bytes(content)
        for more in (0, 1):  # at the same entry, and behind another
            for _ in range(more):
                await node.apply(b"+1")
            taken = node.group.counters.raft_snapshots_total
            node.group._catch_up.read_chunk(ChunkRead(NodeId(2), node.group.raft.snapshot_index, 0))
            await wait_until(lambda taken=taken: node.group.counters.raft_snapshots_total > taken, "another is taken")  # type: ignore[misc]
            newest = max((tmp_path / "n1").glob("groups/0/snapshot-*"))
            content = bytearray(newest.read_bytes())
            content[-90] ^= 1
            newest.write_bytes(content)
        await cluster.stop("n1")


# --- the order of things ---------------------------------------------------------------------------------------------


class Steps:
    """A disk whose thread does the next job when the test says so, and whose loop learns of it when it says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.jobs.append((work, done))

    def do(self) -> Callable[[], None]:
        """The next job; what is returned tells the loop."""
        work, done = self.jobs.pop(0)
        try:
            result, error = work(), None
        except Exception as failure:
            result, error = None, failure
        return lambda: done(result, error)


class State:
    """Sessions of which only the snapshot matters."""

    machine_version = log_version = 1

    def snapshot(self) -> Iterator[bytes]:
        return iter([b"state"])

    def restore(self, pieces: Iterator[bytes]) -> None:
        b"".join(pieces)


class Place:
    """A group at entry 5 that takes a snapshot while its leader's, of entry 10, comes in."""

    is_running = True

    def __init__(self) -> None:
        self.number = 0
        self.applier = SimpleNamespace(is_midway=False)
        self.disk = CrashingDisk()
        self.storage = opened(self.disk)
        self.storage.append(entries(1, 5))
        self.applied, self.sessions = meta(5), State()
        self.taken: list[int] = []
        self.steps = Steps()
        self.snapshotter = Snapshotter(cast("Any", self), self.storage, self.steps, SnapshotPolicy(1, 1, 0, 0))
        self.installer = Installer(self.storage, self.steps, 1 << 16, cast("Any", State))

    def snapshot_taken(self, snapshot: SnapshotMeta, first_index: Index, size_bytes: int) -> None:
        self.taken.append(snapshot.index)

    def fail(self, error: BaseException) -> None:
        raise error

    def install(self) -> None:
        def written(snapshot: SnapshotMeta, offset: int, sessions: object, error: BaseException | None) -> None:
            assert error is None and sessions is not None
            self.applied = snapshot
            self.snapshotter.installed(snapshot)

        self.installer.write(ChunkWrite(meta(10), 0, b"leader", True), written)

    def finish(self) -> None:
        while self.steps.jobs:
            self.steps.do()()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_snapshot_that_ends_behind_an_installed_one_is_nobodys(begun: bool, again: bool) -> None:
    """Its last piece was written, or it was just begun, when the disk's thread installed the leader's. The loop learns
    that later, and may have begun another."""
    place = Place()
    place.snapshotter.take()
    if begun:
        place.steps.do()()
    place.install()
    told = place.steps.do()
    installed = place.steps.do()
    told()
    installed()
    if again:
        place.snapshotter.take()
    place.finish()
    assert place.taken == [10] * again
    assert not place.snapshotter.running
    assert place.storage.holding().snapshot == 10
    newest = place.storage.open_snapshot()
    assert newest is not None and newest.meta.index == 10


class Refuses(State):
    def restore(self, pieces: Iterator[bytes]) -> None:
        raise SnapshotDamaged(f"{b''.join(pieces)!r} is no state")


def test_a_sent_snapshot_that_is_none_costs_neither_log_nor_state() -> None:
    """It had replaced both before it was read: the node ended, and never started again."""
    place = Place()
    place.installer = Installer(place.storage, place.steps, 1 << 16, cast("Any", Refuses))
    told: list[BaseException | None] = []
    for piece in (b"rubbish", b"more of it"):
        place.installer.write(ChunkWrite(meta(10), 0, piece, True), lambda *outcome: told.append(outcome[-1]))
        place.finish()
    assert all(isinstance(error, MalformedFrame) and "is none" in str(error) for error in told)
    assert [entry.index for entry in place.storage.read(Index(1), Index(5), 1 << 20)] == [1, 2, 3, 4, 5]
    assert place.storage.open_snapshot() is None
    assert not any("snapshot-" in path for path in place.disk.now)


async def test_a_node_that_is_sent_rubbish_as_a_snapshot_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        leader = await cluster.wait_leader()
        await leader.apply(b"+1")
        victim = cluster.followers()[0]
        rubbish = victim.group.applied._replace(index=Index(99), term=leader.group.raft.term)
        message = SnapshotRequest(leader._id, victim._id, leader.group.raft.term, rubbish, 0, b"rubbish", True)
        answers: list[Message] = []
        monkeypatch.setattr(victim.group, "_send", answers.append)
        victim._peering.received(0, message)
        await wait_until(lambda: any(isinstance(m, SnapshotReply) and m.failed for m in answers), "it is refused")
        monkeypatch.undo()
        await leader.apply(b"+1")
        await cluster.wait_equal()
        await cluster.stop(victim.name)
        await cluster.start(victim.name)
        await cluster.wait_equal()


def test_a_snapshot_that_is_taken_again_under_its_name_is_read() -> None:
    """The one before it rotted while a peer was sent it."""
    place = Place()
    write_snapshot(place.storage, 5, b"the state" * 100)
    (path,) = (path for path in place.disk.now if "snapshot-" in path)
    place.disk.now[path].now[-90] ^= 1
    source = SnapshotSource(1 << 16)
    with pytest.raises(SnapshotDamaged):
        source.read(place.storage, Index(5), 0)
    write_snapshot(place.storage, 5, b"the state" * 100)
    assert source.read(place.storage, Index(5), 0) == (meta(5), b"the state" * 100, True)


def test_a_snapshot_that_was_read_to_its_end_is_let_go() -> None:
    """An open file keeps its room on the disk after it was removed."""
    place, source = Place(), SnapshotSource(400)
    write_snapshot(place.storage, 5, b"the state" * 100)
    reader = None
    for offset in (0, 400, 800):
        piece = source.read(place.storage, None if reader is None else Index(5), offset)
        assert piece is not None and piece.is_last == (offset == 800)
        reader = source._reader
        assert (reader is None) == piece.is_last


def test_a_snapshot_for_a_backup_has_begun_when_its_moment_is_over() -> None:
    """An older one is being written first."""
    place, told = Place(), []
    place.snapshotter.take()
    place.applied = meta(6)
    wanted = place.snapshotter.take_for(lambda taken, reason: told.append(taken))
    assert wanted == 6 and not place.snapshotter.has_begun(wanted)
    assert place.snapshotter.has_begun(Index(5)), "the older one has"
    while not place.snapshotter.has_begun(wanted):
        assert not told
        place.steps.do()()
    assert place.taken == [5] and not told
    place.finish()
    assert place.taken == [5, 6] and told and place.snapshotter.has_begun(wanted)
