"""A disk in memory that loses power, has no room, or fails on command.

`CrashingDisk` is a filesystem of few words; `interfaces.OnFilesystem` says which storages run on it:

| method | what it does |
|---|---|
| `make_directory(path)` | with its parents |
| `list(path)` | the names in a directory, sorted |
| `open(path)`, `create(path)` | a file; `FileNotFoundError`; a file that is created is empty |
| `rename(source, target)`, `remove(path)` | durable with `sync_directory` |
| `sync_directory(path)` | names are durable when it returns |
| `free_bytes(path)` | room left |
| `lock(path)` | a file that nobody else holds until it is closed, or None |

A file has `read(size, offset)`, `write(data, offset)`, `sync()`, `size()`, `truncate(size)`,
`drop_cached(size, offset)` and `close()`. Contents and size are durable when `sync` returns. All raise `OSError`.

What was synced is there after the crash; of everything else any part may be. A write is torn at sectors. Each of its
sectors, and each change of a file's size, arrives or does not, in any order. Where a size arrived and its data did not,
there are zeros. Names change independently of each other; a rename is whole or not at all.

A write that fails may have written a part. After an fsync that failed, what it should have written passes for written,
and no later one writes it (Rebello et al., ATC'20).
"""

from __future__ import annotations

import copy
import errno
import random
from collections.abc import Callable

SECTOR = 512

Change = tuple[tuple[str, "Inode | None"], ...]
"""Names, and what each stands for from then on."""


class PowerCut(BaseException):
    """The power is cut. It is no Exception, so that nothing catches it and goes on."""


class Inode:
    """The content of a file: what a process sees (`now`), what is durable, and the unsynced changes in between."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.now = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None) of a truncation
        self.lock_held = False


class MemoryFile:
    """An open file of a `CrashingDisk`. The module's docstring lists its methods."""

    def __init__(self, disk: CrashingDisk, inode: Inode, path: str, is_lock: bool = False) -> None:
        self.disk, self.inode, self.path, self.is_lock, self.is_open = disk, inode, path, is_lock, True

    def read(self, size: int, offset: int) -> bytes:
        """Returns up to `size` bytes from `offset`, fewer at the end of the file."""
        assert self.is_open, f"{self.path}: read after close"
        self.disk.on_query("read", self.path)
        return bytes(self.inode.now[offset : offset + size])

    def write(self, data: bytes, offset: int) -> None:
        """Writes `data` at `offset`. Raises ENOSPC if the file cannot grow that far, after it has written what fits."""
        assert self.is_open, f"{self.path}: write after close"
        now, room = self.inode.now, self.disk.room
        grows = offset + len(data) - len(now)
        if grows > room >= 0:
            if room:
                self.write(data[: len(data) - grows + room], offset)
            raise OSError(errno.ENOSPC, "No space left on device", self.path)
        self.disk.room -= max(0, grows) if room > 0 else 0
        try:
            self.disk.happens("write", self.path, offset)
        except OSError:
            self._put(data[: len(data) // 2], offset)
            raise
        self._put(data, offset)
        self.disk.happened()

    def _put(self, data: bytes, offset: int) -> None:
        _write(self.inode.now, data, offset)
        self.inode.pending.append((offset, bytes(data)))

    def sync(self) -> None:
        """Makes content and size durable. If it fails, any part is durable, and no later sync writes the rest."""
        assert self.is_open, f"{self.path}: sync after close"
        inode = self.inode
        try:
            self.disk.happens("sync", self.path, 0)
        except OSError:
            inode.durable, inode.pending = _survivor(inode, self.disk.generator), []
            raise
        for offset, data in inode.pending:
            if data is None:
                del inode.durable[offset:]
            else:
                _write(inode.durable, data, offset)
        inode.pending = []
        self.disk.happened()

    def drop_cached(self, size: int, offset: int) -> None:
        """Does nothing: this disk has no cache."""

    def size(self) -> int:
        """The size of the file in bytes."""
        self.disk.on_query("size", self.path)
        return len(self.inode.now)

    def truncate(self, size: int) -> None:
        """Cuts the file to `size` bytes. Durable with the next `sync`."""
        self.disk.happens("truncate", self.path, size)
        del self.inode.now[size:]
        self.inode.pending.append((size, None))
        self.disk.happened()

    def is_linked(self) -> bool:
        """Whether a name still refers to this file."""
        assert self.is_open, f"{self.path}: looked at after close"
        return any(inode is self.inode for inode in self.disk.now.values())

    def close(self) -> None:
        """Closes the file, and frees the lock if it is one. May be called again."""
        if self.is_open:
            self.disk.happens("close", self.path, 0)
            self.is_open = False
            self.inode.lock_held = self.inode.lock_held and not self.is_lock


class CrashingDisk:
    """A `Filesystem`. `watch(operation, path, offset)` sees each change before it happens. `on_query(operation, path)`
    sees what changes nothing. Both may raise."""

    def __init__(self, names: dict[str, Inode] | None = None) -> None:
        self.now: dict[str, Inode] = dict(names or {})
        self.durable: dict[str, Inode] = dict(names or {})
        self.pending: list[Change] = []
        self.cut_after = -1  # changes until the power goes; -1: never
        self.room = -1  # bytes by which files may still grow; -1: without bound
        self.watch: Callable[[str, str, int], None] = lambda operation, path, offset: None
        self.on_query: Callable[[str, str], None] = lambda operation, path: None
        self.generator = random.Random(1)  # decides what a failed fsync has made durable all the same

    def happens(self, operation: str, path: str, offset: int) -> None:
        """Called before each change. Raises `PowerCut` if the power is off, or what `watch` raises."""
        if self.cut_after == 0:
            raise PowerCut(operation, path)
        self.watch(operation, path, offset)

    def happened(self) -> None:
        """Called after each change. Cuts the power if this was the last one before the cut."""
        if self.cut_after > 0:
            self.cut_after -= 1
            if self.cut_after == 0:
                raise PowerCut

    def after_power_cut(self, generator: random.Random) -> CrashingDisk:
        """The disk that is found when the power is back."""
        names = dict(self.durable)
        for change in self.pending:
            if generator.random() < 0.5:
                _rename(names, change)
        return CrashingDisk({name: Inode(_survivor(inode, generator)) for name, inode in names.items()})

    def killed(self) -> CrashingDisk:
        """What the next process finds when this one has ended, with all that is not durable yet."""
        disk = CrashingDisk()
        disk.now, disk.durable, disk.pending = copy.deepcopy((self.now, self.durable, self.pending))
        for inode in disk.now.values():
            inode.lock_held = False
        return disk

    def without_unsynced(self) -> CrashingDisk:
        """The disk after a power cut that lost all that was not synced, names included."""
        return CrashingDisk({name: Inode(inode.durable) for name, inode in self.durable.items()})

    def copy(self) -> CrashingDisk:
        """What a process that is killed leaves behind: all that was written."""
        return CrashingDisk({name: Inode(inode.now) for name, inode in self.now.items()})

    # --- Filesystem ---

    def make_directory(self, path: str) -> None:
        """Does nothing but call `look`: directories exist by the names of their files."""
        self.on_query("make_directory", path)

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        self.on_query("list", path)
        return sorted(name.removeprefix(f"{path}/") for name in self.now if name.startswith(f"{path}/"))

    def open(self, path: str) -> MemoryFile:
        """Opens a file. Raises `FileNotFoundError` if there is none."""
        self.on_query("open", path)
        if path not in self.now:
            raise FileNotFoundError(2, "No such file or directory", path)
        return MemoryFile(self, self.now[path], path)

    def free_bytes(self, path: str) -> int:
        """By how many bytes files may still grow."""
        self.on_query("free_bytes", path)
        return self.room if self.room >= 0 else 1 << 50

    def create(self, path: str) -> MemoryFile:
        """A file that is there is emptied, under whoever has it open."""
        if path in self.now:
            file = MemoryFile(self, self.now[path], path)
            file.truncate(0)
            return file
        inode = Inode()
        self._change("create", path, ((path, inode),))
        return MemoryFile(self, inode, path)

    def rename(self, source: str, target: str) -> None:
        """Renames a file, and replaces the target. Durable with `sync_directory`."""
        self._change("rename", target, ((source, None), (target, self.now[source])))

    def remove(self, path: str) -> None:
        """Removes a name. Durable with `sync_directory`."""
        assert path in self.now, f"{path}: removed and not there"
        self._change("remove", path, ((path, None),))

    def sync_directory(self, path: str) -> None:
        """Makes all names durable."""
        self.happens("sync_directory", path, 0)
        self.durable, self.pending = dict(self.now), []
        self.happened()

    def lock(self, path: str) -> MemoryFile | None:
        """A lock on `path` until it is closed, or None if somebody holds it."""
        self.on_query("lock", path)
        inode = self.now.setdefault(path, Inode())
        if inode.lock_held:
            return None
        inode.lock_held = True
        return MemoryFile(self, inode, path, is_lock=True)

    def _change(self, operation: str, path: str, change: Change) -> None:
        self.happens(operation, path, 0)
        _rename(self.now, change)
        self.pending.append(change)
        self.happened()


def _rename(names: dict[str, Inode], change: Change) -> None:
    for name, inode in change:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _write(content: bytearray, data: bytes, offset: int) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _survivor(inode: Inode, generator: random.Random) -> bytearray:
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
                _write(content, data[low - offset : high - offset], low)
    if len(inode.now) > len(content) and generator.random() < 0.3:
        content.extend(bytes(generator.randint(0, len(inode.now) - len(content))))
    return content
