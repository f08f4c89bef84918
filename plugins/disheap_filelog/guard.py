"""After one failure of the disk a storage refuses every call.

After an fsync that failed the kernel marks the pages clean: a second fsync succeeds and nothing is on the disk
(Rebello et al., ATC'20). So every public call runs inside the guard, which turns an `OSError` into `DiskFailed` and
refuses everything from there on.
"""

from __future__ import annotations

from types import TracebackType

from disheap.errors import DiskFailed, StorageError, StorageGone
from disheap_filelog.filesystem import File


class Guard:
    """Guards each call of a storage: it is refused while the storage is closed, and after an error of the disk."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._failure = ""
        self._is_closed = True
        self._lock: File | None = None

    def locked(self, lock: File) -> None:
        """The directory is locked. As long as the lock's file is in place, so is the directory."""
        self._lock = lock

    def check_directory(self) -> None:
        """Raises `StorageGone` if the directory or its lock file was removed or moved. A removed file takes writes and
        syncs like any other. A new file would be the only one in a directory that was emptied."""
        assert self._lock is not None
        if not self._lock.is_linked():
            raise self.lost("the directory or its file 'lock'")

    def opened(self) -> None:
        """Allows calls from now on."""
        self._is_closed = False

    def closed(self) -> None:
        """Refuses calls from now on with `StorageError`."""
        self._is_closed, self._lock = True, None

    @property
    def has_failed(self) -> bool:
        """Whether a call has met an error of the disk."""
        return bool(self._failure)

    def __enter__(self) -> None:
        if self._failure:
            raise DiskFailed(self._failure)
        if self._is_closed:
            raise StorageError(f"{self._directory} is not open; call open() first")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise self.fail(error) from error

    def fail(self, error: OSError) -> DiskFailed:
        """Refuses all calls from now on. Returns the error to raise."""
        self._failure = (
            f"{self._directory}: the disk failed ({error}). What was being written may or may not be there, so nothing "
            "more is written. Look at the disk (free space, the kernel's log), then start the node again: it recovers "
            "everything that was acknowledged"
        )
        return DiskFailed(self._failure)

    def lost(self, what: str) -> StorageGone:
        """A file that this process has open, or its directory, is not at its name any more."""
        self._failure = (
            f"{self._directory}: {what} was removed, moved or replaced while the node ran. Nothing more is written or "
            "confirmed. If the directory was moved, move it back and start the node again. If it was removed, what "
            "only this node had is lost: restore a copy of it, or leave the node out. A data directory must not be "
            "changed while its node runs"
        )
        return StorageGone(self._failure)
