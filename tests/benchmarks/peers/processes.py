"""What processes of this machine have used, by Linux' /proc."""

from __future__ import annotations

from pathlib import Path


def processes(pids: tuple[int, ...]) -> set[int]:
    """These processes, and all that they have forked."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_after_name(int(entry.name))[1])
            except OSError:
                continue
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_s(pids: tuple[int, ...]) -> float:
    """Seconds of processor time of these processes and all that they have forked, of threads that still run. In
    /proc/PID/stat it would be counted in steps of 10 ms."""
    total_ns = 0
    for pid in processes(pids):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def written_bytes(pids: tuple[int, ...]) -> int:
    """What these processes and all that they have forked have caused to be written to disks, by /proc/PID/io."""
    total = 0
    for pid in processes(pids):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            name, _, number = line.partition(": ")
            total += int(number) if name == "write_bytes" else 0
    return total


def _after_name(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the program's name, which may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
