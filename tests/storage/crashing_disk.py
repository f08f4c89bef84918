"""A disk in memory that loses power on command.

What was synced is there after the crash; of everything else any part may be. A write is torn at sectors; each of its
sectors, and each change of a file's size, arrives or does not, in any order; where a size arrived and its data did not,
there are zeros. Names change independently of each other; a rename is whole or not at all.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

SECTOR = 512


class PowerCut(BaseException):
    """Not an Exception: nothing may catch it and go on."""


class Inode:
    def __init__(self) -> None:
        self.now = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None) of a truncation
        self.lock_held = False


class MemoryFile:
    def __init__(self, disk: CrashingDisk, inode: Inode, path: str, is_lock: bool = False) -> None:
        self.disk, self.inode, self.path, self.is_lock, self.is_open = disk, inode, path, is_lock, True

    def read(self, size: int, offset: int) -> bytes:
        assert self.is_open, f"{self.path}: read after close"
        return bytes(self.inode.now[offset : offset + size])

    def write(self, data: bytes, offset: int) -> None:
        assert self.is_open, f"{self.path}: write after close"
        now, room = self.inode.now, self.disk.room
        grows = offset + len(data) - len(now)
        if grows > room >= 0:
            if room:
                self.write(data[: len(data) - grows + room], offset)
            raise OSError(errno.ENOSPC, "No space left on device", self.path)
        self.disk.room -= max(0, grows) if room > 0 else 0
        self.disk.happens("write", self.path, offset)
        now.extend(bytes(max(0, offset + len(data) - len(now))))
        now[offset : offset + len(data)] = data
        self.inode.pending.append((offset, bytes(data)))
        self.disk.happened()

    def sync(self) -> None:
        assert self.is_open, f"{self.path}: sync after close"
        self.disk.happens("sync", self.path, 0)
        self.inode.durable, self.inode.pending = bytearray(self.inode.now), []
        self.disk.happened()

    def drop_cached(self, size: int, offset: int) -> None: ...

    def size(self) -> int:
        return len(self.inode.now)

    def truncate(self, size: int) -> None:
        self.disk.happens("truncate", self.path, size)
        del self.inode.now[size:]
        self.inode.pending.append((size, None))
        self.disk.happened()

    def close(self) -> None:
        if self.is_open:
            self.disk.happens("close", self.path, 0)
            self.is_open = False
            self.inode.lock_held = self.inode.lock_held and not self.is_lock


class CrashingDisk:
    """A `Filesystem`. `watch(operation, path, offset)` sees each change before it happens, and may raise."""

    def __init__(self, names: dict[str, Inode] | None = None) -> None:
        self.now: dict[str, Inode] = dict(names or {})
        self.durable: dict[str, Inode] = dict(names or {})
        self.pending: list[Callable[[dict[str, Inode]], None]] = []
        self.cut_after = -1  # changes until the power goes; -1: never
        self.room = -1  # bytes by which files may still grow; -1: without bound
        self.watch: Callable[[str, str, int], None] = lambda operation, path, offset: None

    def happens(self, operation: str, path: str, offset: int) -> None:
        if self.cut_after == 0:
            raise PowerCut(operation, path)
        self.watch(operation, path, offset)

    def happened(self) -> None:
        if self.cut_after > 0:
            self.cut_after -= 1
            if self.cut_after == 0:
                raise PowerCut

    def after_power_cut(self, generator: random.Random) -> CrashingDisk:
        """The disk that is found when the power is back."""
        names = dict(self.durable)
        for change in self.pending:
            if generator.random() < 0.5:
                change(names)
        return CrashingDisk({name: _survivor(inode, generator) for name, inode in names.items()})

    def copy(self) -> CrashingDisk:
        """What a process that is killed leaves behind: all that was written."""
        copies = {}
        for name, inode in self.now.items():
            copies[name] = Inode()
            copies[name].now, copies[name].durable = bytearray(inode.now), bytearray(inode.now)
        return CrashingDisk(copies)

    # --- Filesystem ---

    def make_directory(self, path: str) -> None:
        pass

    def list(self, path: str) -> list[str]:
        return sorted(name.removeprefix(f"{path}/") for name in self.now if name.startswith(f"{path}/"))

    def open(self, path: str) -> MemoryFile:
        if path not in self.now:
            raise FileNotFoundError(2, "No such file or directory", path)
        return MemoryFile(self, self.now[path], path)

    def free_bytes(self, path: str) -> int:
        return self.room if self.room >= 0 else 1 << 50

    def create(self, path: str) -> MemoryFile:
        inode = Inode()
        self._change("create", path, lambda names: names.update({path: inode}))
        return MemoryFile(self, inode, path)

    def rename(self, source: str, target: str) -> None:
        inode = self.now[source]

        def change(names: dict[str, Inode]) -> None:
            names.pop(source, None)
            names[target] = inode

        self._change("rename", target, change)

    def remove(self, path: str) -> None:
        assert path in self.now, f"{path}: removed and not there"
        self._change("remove", path, lambda names: names.pop(path, None) and None)

    def sync_directory(self, path: str) -> None:
        self.happens("sync_directory", path, 0)
        self.durable, self.pending = dict(self.now), []
        self.happened()

    def lock(self, path: str) -> MemoryFile | None:
        inode = self.now.setdefault(path, Inode())
        if inode.lock_held:
            return None
        inode.lock_held = True
        return MemoryFile(self, inode, path, is_lock=True)

    def _change(self, operation: str, path: str, change: Callable[[dict[str, Inode]], None]) -> None:
        self.happens(operation, path, 0)
        change(self.now)
        self.pending.append(change)
        self.happened()


def _survivor(inode: Inode, generator: random.Random) -> Inode:
    content = bytearray(inode.durable)
    for offset, data in inode.pending:
        chance = generator.choice((0.0, 0.5, 0.9, 1.0))
        if data is None:
            if generator.random() < chance:
                del content[offset:]
            continue
        for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
            if generator.random() < chance:
                low, high = max(start, offset), min(start + SECTOR, offset + len(data))
                content.extend(bytes(max(0, high - len(content))))
                content[low:high] = data[low - offset : high - offset]
    if len(inode.now) > len(content) and generator.random() < 0.3:
        content.extend(bytes(generator.randint(0, len(inode.now) - len(content))))
    found = Inode()
    found.now, found.durable = bytearray(content), bytearray(content)
    return found
