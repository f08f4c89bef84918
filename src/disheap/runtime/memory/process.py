"""What the operating system says about the memory of this process: how much it may take, and how much it takes.

Reads cgroups (v2 and v1, up the hierarchy), resource limits and /proc. Decides nothing: that is `memory.MemoryWatch`.
Where there is no /proc, as on macOS, only the limits are known.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

UNLIMITED = 1 << 60
"""Bytes. What is larger means "no limit": cgroup v1 and resource limits write it as a number close to 2^63."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of options, from malloc.h."""


class FreeBlocks(NamedTuple):
    """What the allocator keeps for reuse: the number of places, and the bytes, also of pages that went back before."""

    number: int
    size_bytes: int


class MemorySource(Protocol):
    """A constructor argument of the node, so that a test or a simulation says how much memory there is."""

    def limit_bytes(self) -> int | None:
        """The bytes that the process may use; None if no limit is known."""

    def resident_bytes(self) -> int | None:
        """The bytes that the process uses now; None if that is not known. It is asked ten times a second, so it must be
        cheap."""

    def keep_free_memory(self) -> None:
        """Have the allocator return nothing by itself, from now on."""

    def return_free_memory(self) -> float:
        """Return memory to the operating system that the process has freed and its allocator keeps. Returns the seconds
        of processor time that it took."""

    def free_blocks(self) -> FreeBlocks | None:
        """What `return_free_memory` would look through; None if that is not known. Takes 20 ns for each block."""


class ProcessMemory:
    """`root` is where /proc and /sys are."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._statm = root / "proc/self/statm"
        self._page_bytes = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        self._trim = _find_trim()
        self._mallinfo = _find_mallinfo()

    def limit_bytes(self) -> int | None:
        """The smallest of the limits that hold for this process."""
        limits = [*self._machine(), *self._cgroups(), *_resource_limits()]
        return min((limit for limit in limits if 0 < limit < UNLIMITED), default=None)

    def resident_bytes(self) -> int | None:
        """Returns the resident memory in bytes, or None if the system does not report it."""
        try:
            return int(self._statm.read_bytes().split()[1]) * self._page_bytes
        except (OSError, ValueError, IndexError):
            return None

    def keep_free_memory(self) -> None:
        """By itself, glibc returns what is free at the end of the heap all at once. That took 205 ms for 1.6 GiB. It
        came within the call that freed the last block. Blocks of 32 MiB are still mapped for themselves."""
        if self._trim is not None:
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_TRIM_THRESHOLD, -1)
            mallopt(M_MMAP_THRESHOLD, 32 << 20)

    def return_free_memory(self) -> float:
        """glibc keeps what lies below a block that is still in use, which is most of a drained queue. Measured: of 390
        MiB it gave back 40 by itself, and 350 when asked. Takes about 0.1 ms for each MiB that goes back. Takes
        0.8 us for each free block of more than a page, also if its pages went back before."""
        if self._trim is None:
            return 0.0
        started = time.thread_time()  # another process may have the processor meanwhile
        self._trim(0)
        return time.thread_time() - started

    def free_blocks(self) -> FreeBlocks | None:
        """Asks glibc (2.33 or later). Measured: 2 ms for 100,000 free blocks, and 8 ms for 500,000."""
        if self._mallinfo is None:
            return None
        info = self._mallinfo()
        return FreeBlocks(info.ordblks, info.fordblks)

    def _machine(self) -> Iterator[int]:
        try:
            yield os.sysconf("SC_PHYS_PAGES") * self._page_bytes
        except (AttributeError, ValueError, OSError):
            return

    def _cgroups(self) -> Iterator[int]:
        """Each line of /proc/self/cgroup is `number:controllers:path`; version 2 has no controllers."""
        for line in self._text(self._root / "proc/self/cgroup").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                    yield from self._up_the_hierarchy(mount, path, "memory.max", "memory.high")
            elif "memory" in controllers.split(","):
                yield from self._up_the_hierarchy("sys/fs/cgroup/memory", path, "memory.limit_in_bytes")

    def _up_the_hierarchy(self, mount: str, path: str, *files: str) -> Iterator[int]:
        """A group is bound by those above it, too. In a container the path may be one of the host: then the files of
        the mount itself count."""
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts), -1, -1):
            for name in files:
                text = self._text(self._root.joinpath(mount, *parts[:length], name)).strip()
                if text.isdigit():  # version 2 writes "max" for none
                    yield int(text)

    @staticmethod
    def _text(path: Path) -> str:
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError):
            return ""


def _resource_limits() -> Iterator[int]:
    """`ulimit -v` and `ulimit -d`."""
    if resource is None:
        return
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        if hasattr(resource, name):
            yield resource.getrlimit(getattr(resource, name))[0]  # -1 means no limit


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


def _find_mallinfo() -> ctypes._NamedFuncPointer | None:
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    mallinfo.restype = _Mallinfo
    return mallinfo


def _find_trim() -> ctypes._NamedFuncPointer | None:
    """glibc has it; musl and macOS have not."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
