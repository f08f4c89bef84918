"""Compaction takes away what a snapshot stands for, and nothing else, whatever is asked (storage rule 8)."""

from __future__ import annotations

from disheap.kernel.types import Index
from tests.storage.crashing_disk import CrashingDisk
from tests.storage.parts import IDENTITY, build, entries, opened, read_log, write_snapshot


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
