"""Whether a node may end by itself, by what was done to its host."""

from __future__ import annotations

from disheap.errors import CodecError, DiskFailed, LogDamaged, SnapshotDamaged, StorageError, StorageGone
from disheap.testing.simulator.cluster.hosts import Host

DAMAGE_ERRORS = (LogDamaged, SnapshotDamaged, CodecError)
"""What a node may end with, if somebody spoilt its files."""


def state_after(host: Host, error: BaseException, is_damaged: bool) -> str:
    """What the host is after its node has ended with `error`: "down" or "lost"; "" if that has no cause. `is_damaged`:
    somebody has spoilt its files."""
    if isinstance(error, StorageGone) and host.lost_files:
        return "down"
    if isinstance(error, StorageError) and host.lost_files:
        return "lost"  # a part of what it was writing then is in its directory: it is refused, and rightly
    if isinstance(error, DiskFailed) and host.faults.has_failed:
        return "down"
    if isinstance(error, DiskFailed) and host.faults.has_been_full:
        return "down"  # it was making its directory, or had taken in a snapshot in the place of its log: no way back
    return "lost" if isinstance(error, DAMAGE_ERRORS) and is_damaged else ""
