"""What is read about the memory of the process: cgroups of both versions, resource limits, the real size."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from disheap.runtime.memory import process
from disheap.runtime.memory.process import ProcessMemory

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> ProcessMemory:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ProcessMemory(root)


@pytest.fixture(autouse=True)
def no_other_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests has none."""
    monkeypatch.setattr(ProcessMemory, "_machine", lambda self: iter([64 << 30]))
    monkeypatch.setattr(process, "_resource_limits", lambda: iter([-1, (1 << 63) - 1]))


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 64 << 30),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 64 << 30),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 * MIB),
        (
            {
                "proc/self/cgroup": "0::/system.slice/disheap.service\n",
                "sys/fs/cgroup/system.slice/disheap.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": "1073741824\n",
            },
            1024 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "1073741824\n",
                "sys/fs/cgroup/a/memory.high": "805306368\n",
            },
            768 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
            },
            256 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a/b\n0::/\n",
                "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "134217728\n",
                "sys/fs/cgroup/unified/memory.max": "max\n",
            },
            128 * MIB,
        ),
        ({"proc/self/cgroup": "rubbish\n4:memory\n0::/../../etc\n"}, 64 << 30),
    ],
)
def test_the_smallest_limit_holds_wherever_it_is_set(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert write(tmp_path, files).limit_bytes() == limit


def test_ulimit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_resource_limits", lambda: iter([1536 * MIB, -1]))
    assert ProcessMemory(tmp_path).limit_bytes() == 1536 * MIB


def test_the_real_size_is_read_where_there_is_proc(tmp_path: Path) -> None:
    source = write(tmp_path, {"proc/self/statm": "5000 1200 30 1 0 900 0\n"})
    assert source.resident_bytes() == 1200 * source._page_bytes
    assert ProcessMemory(tmp_path / "nothing").resident_bytes() is None
    (tmp_path / "proc/self/statm").write_text("?")
    assert source.resident_bytes() is None


def test_without_glibc_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert ProcessMemory().return_free_memory() == 0.0
    assert ProcessMemory().free_blocks() is None


def test_freed_memory_goes_back() -> None:
    """If one block above them is still in use, the allocator by itself gives none of the blocks of 1 KiB back."""
    source = ProcessMemory()
    blocks = [bytes([number % 256]) * 1000 for number in range(60_000)]
    full = source.resident_bytes() or 0
    kept = blocks[-1]
    del blocks
    source.return_free_memory()
    assert full - (source.resident_bytes() or 0) > 30 * MIB
    assert kept


def test_free_blocks_are_counted() -> None:
    source = ProcessMemory()
    before = source.free_blocks()
    blocks = [bytes(8_000) for _ in range(4_000)]
    kept = blocks[::2]
    del blocks
    after = source.free_blocks()
    assert before is not None and after is not None
    assert after.number - before.number > 1_500 and after.size_bytes >= 1_500 * 8_000
    assert kept
