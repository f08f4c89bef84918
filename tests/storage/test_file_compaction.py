"""Compaction takes away what a snapshot stands for, and nothing else, whatever is asked (storage rule 8)."""

from __future__ import annotations

from disheap.kernel.types import Index
from disheap.testing.crashing_disk import CrashingDisk
from tests.storage.parts import IDENTITY, build, entries, meta, opened, read_log, write_snapshot


def test_compaction_never_goes_beyond_the_newest_snapshot() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    for first in range(1, 200, 2):
        storage.append(entries(first, first + 1, size=2000))
    write_snapshot(storage, 100, b"state")
    held = storage.compact(Index(190))
    assert 1 < held <= 101
    storage.close()
    storage = build(disk)
    recovered = storage.open(IDENTITY, 0, alone=False)
    assert recovered.first_index <= 101
    assert read_log(storage, 101, 200) == entries(101, 200, size=2000)


def test_without_a_snapshot_compaction_takes_nothing() -> None:
    storage = opened(CrashingDisk())
    for first in range(1, 200, 2):
        storage.append(entries(first, first + 1, size=2000))
    assert storage.compact(Index(190)) == 1


def test_what_a_snapshot_stands_for_can_go_though_it_is_all_in_one_file() -> None:
    """The file that is being written is ended when a snapshot of much of it begins."""
    storage = opened(CrashingDisk())
    for first in range(1, 20, 2):
        storage.append(entries(first, first + 1, size=2000))
    assert len(storage._log.segments) == 1
    before = storage.usage().log_bytes
    writer = storage.begin_snapshot(meta(20), False)
    storage.append(entries(21, 21))
    writer.write(b"state")
    writer.commit()
    assert storage.compact(Index(21)) == 21
    assert storage.usage().log_bytes < before / 2
    assert read_log(storage, 21, 21) == entries(21, 21)


def test_the_older_snapshot_goes_where_there_is_no_room_for_another() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 30))
    write_snapshot(storage, 10, b"x" * 50_000)
    write_snapshot(storage, 20, b"x" * 10)
    assert storage.open_snapshot(Index(10)) is not None
    disk.room = 40_000
    write_snapshot(storage, 30, b"y" * 20_000)
    assert storage.open_snapshot(Index(20)) is not None, "it is small"
    disk.room = 15_000
    write_snapshot(storage, 31, b"y" * 10)
    assert storage.open_snapshot(Index(30)) is None
    assert storage.open_snapshot(Index(31)) is not None
