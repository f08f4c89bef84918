"""Reads what is stored, a piece at a time (storage-rules 10). The log's live blocks come first, then snapshots, then
the small files and the heads of the segments.

Owns the order, and where the next piece begins. Compares checksums and decodes nothing. The caller repairs a block or
the newest snapshot that does not match. An older snapshot is dropped here, since the newest replaces it. The rest is
written again here, since this process has it in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from disheap.errors import SnapshotDamaged
from disheap.interfaces import Scrubbed
from disheap.kernel.types import Index
from disheap_filelog.segments.index import LogIndex
from disheap_filelog.snapshots.snapshot_files import SnapshotFiles

LOG, SNAPSHOTS, SMALL = 0, 1, 2
"""The first number of a cursor: (LOG, index, 0), (SNAPSHOTS, index of the snapshot, byte) or (SMALL, number, 0)."""


class Small(Protocol):
    """A file, or the head of one, that is held in memory, too."""

    def renew(self) -> str:
        """Compare what is on the disk with what should be there, and write it again where it differs: what was wrong,
        or ""."""


def step(
    index: LogIndex, snapshots: SnapshotFiles, small: Sequence[Small], cursor: tuple[int, ...], max_bytes: int
) -> Scrubbed:
    """Raises `LogDamaged`, `SnapshotDamaged`, and `StorageFull` where a small file cannot be written again now."""
    stage, place, position = cursor or (LOG, 0, 0)
    if stage == LOG:
        return _log(index, place, max_bytes)
    if stage == SNAPSHOTS:
        return _snapshots(snapshots, place, position, max_bytes)
    if place < len(small):
        return Scrubbed((SMALL, place + 1, 0), 0, small[place].renew())
    return Scrubbed((), 0)


def _log(index: LogIndex, place: int, max_bytes: int) -> Scrubbed:
    at, done = max(place, index.first), 0
    while at <= index.last and done < max_bytes:
        located, live_last = index.find(at)
        located.segment.check_block(located.block)
        done += located.block.stored_bytes
        at = live_last + 1
    return Scrubbed((LOG, at, 0) if at <= index.last else (SNAPSHOTS, 0, 0), done)


def _snapshots(snapshots: SnapshotFiles, place: int, position: int, max_bytes: int) -> Scrubbed:
    at = next((held for held in snapshots.held() if held >= place), None)
    if at is None:
        return Scrubbed((SMALL, 0, 0), 0)
    try:
        position, done = snapshots.check(at, position if at == place else 0, max_bytes)
    except SnapshotDamaged as error:
        if at == snapshots.index:
            raise
        snapshots.drop(Index(at))
        return Scrubbed((SNAPSHOTS, at + 1, 0), 0, str(error))
    return Scrubbed((SNAPSHOTS, at, position) if position else (SNAPSHOTS, at + 1, 0), done)
