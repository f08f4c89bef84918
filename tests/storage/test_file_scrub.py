"""A scrub reads everything that is there, a piece at a time, and finds every place that has rotted."""

from __future__ import annotations

import random

import pytest

from disheap.errors import DiskFailed, LogDamaged, SnapshotDamaged, StorageFull
from disheap.interfaces import KnownPeers
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap.testing.crashing_disk import CrashingDisk
from disheap_filelog.filesystem import TEMPORARY
from disheap_filelog.scrub import SMALL
from disheap_filelog.storage import FileStorage
from tests.storage.parts import DIRECTORY, IDENTITY, build, entries, meta, opened, read_snapshot, write_snapshot

PIECE = 4 << 10


def filled() -> tuple[CrashingDisk, FileStorage]:
    """A log of several blocks and two snapshots."""
    disk = CrashingDisk()
    storage = opened(disk, DIRECTORY)
    for first in range(1, 61, 10):
        storage.append(entries(first, first + 9, size=300))
    for index in (20, 40):
        writer = storage.begin_snapshot(meta(index), False)
        for number in range(4):
            writer.write(bytes([number]) * 3000)
        writer.commit()
    return disk, storage


def content(disk: CrashingDisk, path: str) -> bytearray:
    return disk.now[path].now


def rot(disk: CrashingDisk, name: str, place: int) -> None:
    inode = disk.now[f"{DIRECTORY}/{name}"]
    inode.now[place] ^= 1
    inode.durable[place] ^= 1


def a_pass(storage: FileStorage) -> tuple[int, int, list[str]]:
    """Bytes read, the most of them at once, and what was mended."""
    cursor: tuple[int, ...] = ()
    sizes: list[int] = []
    mended: list[str] = []
    while True:
        done = storage.scrub(cursor, PIECE)
        sizes.append(done.bytes)
        mended += [done.mended] if done.mended else []
        cursor = done.cursor
        if not cursor:
            return sum(sizes), max(sizes), mended


def test_a_pass_reads_log_and_snapshots_in_pieces() -> None:
    _, storage = filled()
    total, most, mended = a_pass(storage)
    assert total >= 60 * 300 + 2 * 4 * 3000
    assert most < 5 * PIECE
    assert mended == []
    storage.close()


def test_a_cursor_outlives_what_is_trimmed_meanwhile() -> None:
    _, storage = filled()
    cursor = storage.scrub((), 1).cursor
    storage.compact(storage.holding().last)
    while cursor:
        cursor = storage.scrub(cursor, PIECE).cursor
    storage.close()


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("part", ["header", "payload"])
def test_rot_in_any_block_is_found(number: int, part: str) -> None:
    disk, storage = filled()
    located = [block for block, _ in storage._log.index.backwards()][number]
    place = located.block.offset + 20 if part == "header" else located.block.end - 5
    content(disk, located.segment.path)[place] ^= 1
    with pytest.raises(LogDamaged) as caught:
        a_pass(storage)
    assert str(located.block.offset) in str(caught.value)
    storage.close()


@pytest.mark.parametrize("place", [5, 60, 4000, -70, -3])
def test_rot_in_the_newest_snapshot_is_found(place: int) -> None:
    disk, storage = filled()
    name = disk.list(DIRECTORY)[-1]
    content(disk, f"{DIRECTORY}/{name}")[place] ^= 1
    with pytest.raises(SnapshotDamaged, match=name):
        a_pass(storage)
    storage.close()


def test_an_older_snapshot_that_has_rotted_is_mended_and_said() -> None:
    disk, storage = filled()
    older = next(name for name in disk.list(DIRECTORY) if name.startswith("snapshot-"))
    content(disk, f"{DIRECTORY}/{older}")[60] ^= 1
    _, _, mended = a_pass(storage)
    assert len(mended) == 1 and older in mended[0]
    assert older not in disk.list(DIRECTORY)
    assert a_pass(storage)[2] == []
    storage.close()


SMALL_FILES = [
    ("meta", (5,)),
    ("meta", (4096 + 5,)),
    ("meta", (5, 4096 + 5)),
    ("members", (5,)),
    ("members", (4096 + 5,)),
    ("members", (5, 4096 + 5)),
    ("identity", (5,)),
]


@pytest.mark.parametrize(("name", "places"), SMALL_FILES)
def test_a_small_file_that_has_rotted_is_written_again(name: str, places: tuple[int, ...]) -> None:
    """This process knows what it says, though both copies may be gone."""
    disk, storage = filled()
    storage.save_known_peers(KnownPeers(True, ((2, 77),)))
    for place in places:
        rot(disk, name, place)
    mended = a_pass(storage)[2]
    assert len(mended) == 1 and f"{DIRECTORY}/{name}" in mended[0]
    assert a_pass(storage)[2] == []
    storage.close()
    again = build(disk.after_power_cut(random.Random(1)), DIRECTORY)
    assert again.open(IDENTITY, 0, alone=False).hard_state == HardState(Term(9), NodeId(1))
    assert again.known_peers() == KnownPeers(True, ((2, 77),))


@pytest.mark.parametrize("place", [0, 20, 70])
@pytest.mark.parametrize("newest", [False, True])
def test_a_head_that_has_rotted_is_written_again(newest: bool, place: int) -> None:
    disk, storage = filled()
    for first in range(61, 400, 20):
        storage.append(entries(first, first + 19, size=300))
    names = [segment.path.rsplit("/", 1)[1] for segment in storage._log.segments]
    assert len(names) > 1
    name = names[-1] if newest else names[0]
    rot(disk, name, place)
    assert [name in reason for reason in a_pass(storage)[2]] == [True]
    assert a_pass(storage)[2] == []
    storage.close()
    found = build(disk.after_power_cut(random.Random(1)), DIRECTORY).open(IDENTITY, 0, alone=False)
    assert found.last_index == 400 and not found.is_damaged


def test_a_pass_ends_though_files_of_the_log_go_meanwhile() -> None:
    _, storage = filled()
    for first in range(61, 400, 20):
        storage.append(entries(first, first + 19, size=300))
    cursor = (SMALL, 3 + len(storage._log.segments), 0)
    write_snapshot(storage, 400, b"state")
    storage.compact(Index(400))
    assert storage.scrub(cursor, PIECE).cursor == ()
    storage.close()


@pytest.mark.parametrize("name", ["members", "identity"])
def test_a_small_file_that_is_gone_is_written_again(name: str) -> None:
    disk, storage = filled()
    disk.remove(f"{DIRECTORY}/{name}")
    disk.sync_directory(DIRECTORY)
    assert len(a_pass(storage)[2]) == 1
    assert name in disk.after_power_cut(random.Random(1)).list(DIRECTORY)


@pytest.mark.parametrize("name", ["members", "identity"])
def test_without_room_a_small_file_is_left_as_it_is_and_written_again_later(name: str) -> None:
    disk, storage = filled()
    content(disk, f"{DIRECTORY}/{name}")[5] ^= 1
    disk.room = 10
    with pytest.raises(StorageFull, match=name):
        a_pass(storage)
    assert not any(found.endswith(TEMPORARY) for found in disk.list(DIRECTORY))
    disk.room = -1
    assert len(a_pass(storage)[2]) == 1
    storage.close()


@pytest.mark.parametrize("slot", [0, 4096])
@pytest.mark.parametrize("failing", range(4))
def test_a_term_that_can_only_be_written_in_part_stays_readable(slot: int, failing: int) -> None:
    """Whichever copy has rotted, the other one is not written before it is whole again."""
    disk, storage = filled()
    rot(disk, "meta", slot + 5)
    seen: list[str] = []

    def watch(operation: str, path: str, offset: int) -> None:
        if not path.endswith("meta"):
            return
        seen.append(operation)
        if len(seen) == failing + 1:
            raise OSError(5, "Input/output error", path)

    disk.watch = watch
    with pytest.raises(DiskFailed):
        a_pass(storage)
    assert seen == ["write", "sync", "write", "sync"][: failing + 1]
    for found in (disk.killed(), *(disk.after_power_cut(random.Random(seed)) for seed in range(16))):
        assert build(found).open(IDENTITY, 0, alone=False).hard_state == HardState(Term(9), NodeId(1))


def test_a_snapshot_that_ends_behind_a_newer_one_is_the_older_of_the_two() -> None:
    """A node's own, while its leader's is taken in. The log begins behind the leader's: when that one has rotted the
    node needs another, and does not drop it."""
    disk, storage = filled()
    own = storage.begin_snapshot(meta(60), False)
    own.write(b"own")
    write_snapshot(storage, 80, b"the leader's", replaces_log=True)
    own.commit()
    assert storage.holding().snapshot == 80
    newest = max(name for name in disk.list(DIRECTORY) if name.startswith("snapshot-"))
    content(disk, f"{DIRECTORY}/{newest}")[60] ^= 1
    with pytest.raises(SnapshotDamaged, match=newest):
        a_pass(storage)


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_two_snapshots_of_one_entry_do_not_disturb_each_other(end: str) -> None:
    """A node's own, and its leader's, which is given up or taken in (found by the simulator, seed 7006629)."""
    disk, storage = filled()
    own, leaders = storage.begin_snapshot(meta(60), False), storage.begin_snapshot(meta(60), True)
    own.write(b"o" * 5000)
    leaders.write(b"l" * 3000)
    own.commit()
    assert read_snapshot(storage) == b"o" * 5000
    getattr(leaders, end)()
    assert read_snapshot(storage) == (b"l" * 3000 if end == "commit" else b"o" * 5000)
    storage.close()
    found = build(disk.after_power_cut(random.Random(1))).open(IDENTITY, 0, alone=False)
    assert found.snapshot == meta(60)


def test_a_snapshot_under_way_is_closed_with_its_storage() -> None:
    disk, storage = filled()
    storage.begin_snapshot(meta(60), False).write(b"own")
    closed: list[str] = []
    disk.watch = lambda operation, path, offset: closed.append(path) if operation == "close" else None
    storage.close()
    assert sum("snapshot-" in path for path in closed) == 1
