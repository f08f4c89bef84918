"""Faults inside one process, by LD_PRELOAD: failing and slow fsyncs, failing writes, a wall clock that jumps.

The machine's own clock and disks are never touched.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
FIELDS = ("fsync_errno", "write_errno", "clock_offset_ms", "fsync_delay_ms", "fsyncs", "failures")
_NUMBER = struct.Struct("<q")


def why_not() -> str:
    """The reason for which there is no shim on this machine; "" if there is one."""
    if not sys.platform.startswith("linux"):
        return "LD_PRELOAD faults are made for Linux"
    return "" if shutil.which("cc") else "no C compiler (cc) is installed"


def build(directory: Path) -> Path:
    library = directory / "chaos-shim.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


class Control:
    """The page that one node's shim looks at. A fault set here is there at the node's next system call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(_NUMBER.size * len(FIELDS)))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)

    def set(self, **values: int) -> None:
        for name, value in values.items():
            _NUMBER.pack_into(self._page, FIELDS.index(name) * _NUMBER.size, value)

    def get(self, name: str) -> int:
        value: int = _NUMBER.unpack_from(self._page, FIELDS.index(name) * _NUMBER.size)[0]
        return value

    def heal(self) -> None:
        self.set(fsync_errno=0, write_errno=0, clock_offset_ms=0, fsync_delay_ms=0)

    def close(self) -> None:
        self._page.close()
