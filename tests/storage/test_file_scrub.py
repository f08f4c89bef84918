"""A scrub reads everything that is there, a piece at a time, and finds every place that has rotted."""

from __future__ import annotations

import pytest

from disheap.errors import LogDamaged, SnapshotDamaged
from disheap_filelog.storage import FileStorage
from tests.storage.crashing_disk import CrashingDisk
from tests.storage.parts import DIRECTORY, entries, meta, opened

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


def a_pass(storage: FileStorage) -> tuple[int, int, list[str]]:
    """Bytes read, the most of them at once, and what was dropped."""
    cursor: tuple[int, ...] = ()
    sizes: list[int] = []
    dropped: list[str] = []
    while True:
        done = storage.scrub(cursor, PIECE)
        sizes.append(done.bytes)
        dropped += [done.dropped] if done.dropped else []
        cursor = done.cursor
        if not cursor:
            return sum(sizes), max(sizes), dropped


def test_a_pass_reads_log_and_snapshots_in_pieces() -> None:
    _, storage = filled()
    total, most, dropped = a_pass(storage)
    assert total >= 60 * 300 + 2 * 4 * 3000
    assert most < 5 * PIECE
    assert dropped == []
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
    located = [block for block, _ in storage._index.backwards()][number]
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


def test_an_older_snapshot_that_has_rotted_is_dropped_and_said() -> None:
    disk, storage = filled()
    older = next(name for name in disk.list(DIRECTORY) if name.startswith("snapshot-"))
    content(disk, f"{DIRECTORY}/{older}")[60] ^= 1
    _, _, dropped = a_pass(storage)
    assert len(dropped) == 1 and older in dropped[0]
    assert older not in disk.list(DIRECTORY)
    assert a_pass(storage)[2] == []
    storage.close()
