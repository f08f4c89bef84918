"""The few things a log asks of a disk, so that a simulator can take its place.

Owns system calls and nothing else: no formats, no translation of errors. An `OSError` passes through. The storage
decides, and `needs_room` tells it which one can be survived. Only one operation is tried again: to open a file or a
directory while no descriptor is left (`descriptors.py`). Nothing has happened then. A failed fsync is never tried
again: the kernel marks the pages clean (Rebello et al., ATC'20).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from disheap.errors import StorageFull
from disheap_filelog.descriptors import DESCRIPTORS

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_DIRECTORY_LOCKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP})


class File(Protocol):
    """An open file. All methods raise `OSError`."""

    def read(self, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset`; fewer only at the end of the file."""

    def write(self, data: bytes, offset: int) -> None:
        """All of `data` at `offset`. Not durable before `sync`."""

    def sync(self) -> None:
        """Contents and size are durable when it returns; the name is not (`Filesystem.sync_directory`)."""

    def drop_cached(self, size: int, offset: int) -> None:
        """The next read of these bytes comes from the disk, where the system can be told so."""

    def size(self) -> int:
        """The size in bytes."""

    def truncate(self, size: int) -> None:
        """Cut off what is behind `size`. Durable with what is synced next."""

    def is_linked(self) -> bool:
        """Whether some name still leads to this file. Of a lock: whether its own name and its directory's name do."""

    def close(self) -> None:
        """Closes the file. May be called again."""


class Filesystem(Protocol):
    """Paths are strings. Names become durable with `sync_directory`, contents with `File.sync`."""

    def make_directory(self, path: str) -> None:
        """With its parents, each durable."""

    def list(self, path: str) -> list[str]:
        """Names in the directory, sorted."""

    def open(self, path: str) -> File:
        """An existing file, for reading and writing."""

    def create(self, path: str) -> File:
        """A new, empty file; one that was there is emptied."""

    def rename(self, source: str, target: str) -> None:
        """Gives a file another name, and replaces a file that has it. Durable with `sync_directory`."""

    def remove(self, path: str) -> None:
        """Removes a name. Durable with `sync_directory`."""

    def sync_directory(self, path: str) -> None:
        """Makes the names in a directory durable."""

    def free_bytes(self, path: str) -> int:
        """What this process may still write to the filesystem that holds the directory."""

    def lock(self, path: str) -> File | None:
        """Hold `path` (created if need be) and the directory that it is in against everybody else until the file is
        closed. Returns None if somebody holds one of them. The file may be removed: the directory is still held
        then."""


class OsFile:
    """A file of the operating system."""

    def __init__(self, path: str, flags: int) -> None:
        self.descriptor = DESCRIPTORS.open(lambda: os.open(path, flags | os.O_CLOEXEC, 0o600))

    def read(self, size: int, offset: int) -> bytes:
        """Reads with `pread`, and repeats it after a short read."""
        data = os.pread(self.descriptor, size, offset)
        if len(data) in (0, size):
            return data
        return data + self.read(size - len(data), offset + len(data))

    def write(self, data: bytes, offset: int) -> None:
        """Writes with `pwrite`, and repeats it after a short write."""
        written = os.pwrite(self.descriptor, data, offset)
        if written < len(data):
            self.write(data[written:], offset + written)

    def sync(self) -> None:
        """Syncs contents and size."""
        _sync(self.descriptor)

    def drop_cached(self, size: int, offset: int) -> None:
        """Asks the system to drop these bytes from its cache, so that the next read comes from the disk."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, size, os.POSIX_FADV_DONTNEED)

    def size(self) -> int:
        """The size in bytes."""
        return os.fstat(self.descriptor).st_size

    def truncate(self, size: int) -> None:
        """Cuts the file to `size` bytes."""
        os.ftruncate(self.descriptor, size)

    def is_linked(self) -> bool:
        """Whether the file still has a name."""
        return os.fstat(self.descriptor).st_nlink > 0

    def close(self) -> None:
        """Closes the descriptor. May be called again."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            DESCRIPTORS.close(descriptor)


class OsLock(OsFile):
    """flock belongs to the open file, not to the process: two openings in one process conflict as well."""

    def __init__(self, path: str) -> None:
        """Raises `BlockingIOError` where somebody else holds the file or its directory."""
        directory = str(Path(path).parent)
        super().__init__(path, os.O_RDWR | os.O_CREAT)
        self._directory = -1
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _lock_directory(self._directory)
        except BaseException:
            self.close()
            raise
        self._path, self._place = path, _place(os.fstat(self.descriptor))

    def is_linked(self) -> bool:
        """False after a directory was moved, removed or covered by a mount, and after the lock itself was replaced. The
        way to the lock leads through all of its directories, so one look is enough."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  # each append
            return (found.st_dev, found.st_ino) == self._place
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Frees the lock on the file and on its directory."""
        super().close()
        if self._directory >= 0:
            descriptor, self._directory = self._directory, -1
            os.close(descriptor)


class OsFilesystem:
    """The files of the operating system."""

    def make_directory(self, path: str) -> None:
        """One that is there may have been made by a run that ended before it was durable. So its name is synced, too,
        unless it lies where this process has no business."""
        parent = str(Path(path).absolute().parent)
        if Path(path).is_dir():
            with contextlib.suppress(PermissionError):
                self.sync_directory(parent)
            return
        self.make_directory(parent)
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir(mode=0o700)
        self.sync_directory(parent)

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(DESCRIPTORS.open(lambda: os.listdir(path)))  # noqa: PTH208  # names, not paths

    def open(self, path: str) -> OsFile:
        """Opens a file for reading and writing. Raises `FileNotFoundError` if there is none."""
        return OsFile(path, os.O_RDWR)

    def create(self, path: str) -> OsFile:
        """Creates an empty file, or empties the one that is there."""
        return OsFile(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def rename(self, source: str, target: str) -> None:
        """Renames with `rename(2)`, which replaces the target."""
        Path(source).replace(target)

    def remove(self, path: str) -> None:
        """Removes a name."""
        Path(path).unlink()

    def sync_directory(self, path: str) -> None:
        """Syncs the directory, so that its names are durable."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = DESCRIPTORS.open(lambda: os.open(path, flags))
        try:
            os.fsync(descriptor)
        finally:
            DESCRIPTORS.close(descriptor)

    def free_bytes(self, path: str) -> int:
        """The space that an ordinary user may still take."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def lock(self, path: str) -> OsFile | None:
        """Locks a file and its directory. Returns None if another process holds the lock."""
        try:
            return OsLock(path)
        except BlockingIOError:
            return None


def create_file(filesystem: Filesystem, path: str) -> File:
    """Raises `StorageFull`."""
    with needs_room(path, lambda: None):
        return filesystem.create(path)


def write_file(filesystem: Filesystem, directory: str, name: str, data: bytes) -> None:
    """A whole small file that is either there with its contents or not there: temporary name, sync, rename, sync.
    Raises `StorageFull`, and what was there stays."""
    temporary = f"{directory}/{name}{TEMPORARY}"
    file = create_file(filesystem, temporary)
    try:
        with needs_room(temporary, lambda: filesystem.remove(temporary)):
            file.write(data, 0)
        file.sync()
    finally:
        file.close()
    filesystem.rename(temporary, f"{directory}/{name}")
    filesystem.sync_directory(directory)


def read_file(filesystem: Filesystem, directory: str, name: str, limit_bytes: int) -> bytes:
    """Reads up to `limit_bytes` from the disk and not from the cache. Returns b"" if there is no such file."""
    try:
        file = filesystem.open(f"{directory}/{name}")
    except FileNotFoundError:
        return b""
    try:
        file.drop_cached(0, 0)
        return file.read(limit_bytes, 0)
    finally:
        file.close()


class needs_room:  # a generator would take 2 us more for each append
    """Around writes that make a file grow. Where there is no room for them, `undo` leaves nothing of them, and
    `StorageFull` says that they may be tried again. A sync has no place in here: what it could not write is lost
    (storage-rules 6)."""

    def __init__(self, path: str, undo: Callable[[], None]) -> None:
        self._path, self._undo = path, undo

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, OSError) or error.errno not in NO_ROOM:
            return
        self._undo()
        raise StorageFull(
            f"{self._path}: the disk is full. Nothing is lost, and nothing is confirmed that is not on it; free space "
            "on its filesystem, and the node goes on by itself"
        ) from error


TEMPORARY = ".tmp"
"""The end of every name that is not yet true. Files with such names are removed at open."""


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _lock_directory(descriptor: int) -> None:
    """NFS has no locks on directories; there the file alone is held."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_DIRECTORY_LOCKS:
            raise


def _sync_fully(descriptor: int) -> None:
    """macOS: fsync alone stops at the drive's cache."""
    fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]


_sync = _sync_fully if hasattr(fcntl, "F_FULLFSYNC") else getattr(os, "fdatasync", os.fsync)
"""Syncs a descriptor. For `fdatasync`, a changed size is part of the data."""
