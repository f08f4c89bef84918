"""What is checked when a directory is opened: the lock, the newest snapshot, and that the log continues it.

Changes no file of a node. `storage` calls these in order, and repairs afterwards.
"""

from __future__ import annotations

import errno

from disheap.errors import RESTORE, LogDamaged, StorageLocked, WrongDirectory
from disheap.interfaces import LostSnapshot
from disheap.kernel.types import Index
from disheap_filelog.filesystem import File, Filesystem
from disheap_filelog.segments.recovery import ScanResult
from disheap_filelog.snapshots.snapshot_files import SnapshotFiles

LOCK = "lock"
UNUSABLE = frozenset(
    {errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
)
"""Errors of a path that cannot be a data directory. Other errors mean that the disk fails."""


def lock_directory(filesystem: Filesystem, directory: str) -> File:
    """Make the directory and lock it. Raises `WrongDirectory` and `StorageLocked`."""
    try:
        filesystem.make_directory(directory)
        lock = filesystem.lock(f"{directory}/{LOCK}")
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        raise WrongDirectory(
            f"{directory} cannot be this node's data directory ({error.strerror}). Point data_dir (--data) at a "
            "directory that this user may make and write to"
        ) from error
    if lock is None:
        raise StorageLocked(
            f"{directory} is in use by another process (it holds {directory}/{LOCK}). Stop that node first, or give "
            "this one a data_dir of its own"
        )
    return lock


def list_directory(filesystem: Filesystem, directory: str) -> list[str]:
    """Returns the names of the files. There are none if the path is no directory: `lock_directory` reports that."""
    try:
        return filesystem.list(directory)
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        return []


def lost_snapshot(snapshots: SnapshotFiles, found: ScanResult, alone: bool) -> LostSnapshot | None:
    """Returns what other nodes have to replace: a damaged snapshot that an older one and the log do not replace. Raises
    `SnapshotDamaged` if there are no other nodes, or no log."""
    bad = snapshots.uncovered(found.log)
    if bad is None:
        return None
    if alone or not found.segments:
        raise bad.error
    is_in_log = found.log.term_at(bad.at) == bad.term
    needed = max(found.log.first - 1, 0 if is_in_log else bad.at)
    return LostSnapshot(Index(needed), str(bad.error))


def check_log(
    directory: str, snapshots: SnapshotFiles, found: ScanResult, oldest: int, lost: LostSnapshot | None
) -> None:
    """Raises `LogDamaged` unless the log continues where the snapshot ends, and agrees with it."""
    after, snapshot_meta, reason = snapshots.index, snapshots.meta, ""
    if not found.segments and not oldest:
        reason = "every file of the log is missing"
    elif lost is None and found.segments and found.log.first > after + 1:
        reason = f"the log begins at entry {found.log.first}, entries from {after + 1} on are missing"
    elif snapshot_meta and found.log.term_at(snapshot_meta.index) not in (None, snapshot_meta.term):
        reason = f"entry {after} has another term than in the snapshot that stands for it"
    if reason:
        raise LogDamaged(directory, 0, reason, RESTORE)
