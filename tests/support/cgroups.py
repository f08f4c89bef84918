"""A memory cgroup for a process of a test, of version 1 or 2. Needs root, and a kernel that lets it be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")
MIB = 1 << 20


class Cgroup(NamedTuple):
    """`outer` has the limit; `inner` is below it, has none, and takes the processes."""

    outer: Path
    inner: Path

    def oom_kills(self) -> int:
        """How many processes in it the kernel has killed for want of memory."""
        files = (self.inner / "memory.oom_control", self.inner / "memory.events")
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def why_no_memory_cgroup() -> str:
    if os.geteuid() != 0:
        return "making a cgroup needs root"
    try:
        with memory_cgroup(64 * MIB):
            return ""
    except OSError as error:
        return f"this kernel or its owner allows no memory cgroup: {error}"


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Cgroup]:
    is_v1 = V1.is_dir()
    outer = (V1 if is_v1 else V2) / f"disheap-test-{os.getpid()}"
    inner = outer / "node"
    try:
        outer.mkdir()
        if is_v1:
            (outer / "memory.limit_in_bytes").write_text(str(limit_bytes))
        else:
            (outer / "memory.max").write_text(str(limit_bytes))
            (outer / "cgroup.subtree_control").write_text("+memory")
        inner.mkdir()
        yield Cgroup(outer, inner)
    finally:
        for group in (inner, outer):
            with suppress(FileNotFoundError):
                group.rmdir()
