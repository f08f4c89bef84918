"""File descriptors that are kept for the storage, so that sockets cannot take the last one.

A process may open so many files, and sockets are files. `SPARE` descriptors of /dev/null are held. When a file cannot
be opened for want of a descriptor, one of them is closed for it. When a file is closed, its descriptor becomes a spare
one again in the same system call (`dup2`), so nobody takes it in between. To open is safe to repeat: where there is no
spare one left, the disk's thread waits, as it does for a slow disk. A sync that failed is never repeated.

The limit is the process's, and so is this reserve: all storages of a process share it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from disheap.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)

SPARE = 8
"""A segment, its successor, two snapshots, a scrub's file, a small file, a directory, and one more."""
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
RETRY_S = 0.02
"""Between two attempts. Connections that are refused give their descriptors back within milliseconds."""


class Descriptors:
    """A reserve of file descriptors. Called by the disk's threads."""

    def __init__(self, spare: int = SPARE) -> None:
        self._wanted = spare
        self._spare: list[int] = []
        self._lock = threading.Lock()

    def open(self, opening: Callable[[], T]) -> T:
        """Returns what `opening` returns. Waits until there is a descriptor for it."""
        self._refill()
        is_logged = False
        while True:
            try:
                return opening()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise
                if not is_logged:
                    is_logged = True
                    log.error(
                        "there is no file descriptor left",
                        advice="raise the limit of open files, or lower limits.connections",
                        reason=str(error),
                    )
                if not self._release_spare():
                    time.sleep(RETRY_S)

    def close(self, descriptor: int) -> None:
        """Closes the descriptor, or keeps it as a spare one if one is missing."""
        with self._lock:
            if 0 < len(self._spare) < self._wanted:
                os.dup2(self._spare[0], descriptor, inheritable=False)
                self._spare.append(descriptor)
                return
        os.close(descriptor)

    def _release_spare(self) -> bool:
        """Closes one spare descriptor, but keeps the last, which `close` copies."""
        with self._lock:
            if len(self._spare) < 2:
                return False
            os.close(self._spare.pop())
            return True

    def _refill(self) -> None:
        with self._lock:
            while len(self._spare) < self._wanted:
                try:
                    self._spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
                except OSError:
                    return


DESCRIPTORS = Descriptors()
