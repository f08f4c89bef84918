"""A simulated disk under the real file storage: what is not synced may be lost, in any part.

After a power cut, what was synced is there; of everything else any part may be. A write is torn at sectors, and each
sector arrives or does not, in any order. Where a size arrived and its data did not, there are zeros. Names change
independently of each other, a rename as a whole; `sync_directory` makes them durable. A process that is killed loses
nothing that it had written, but may be killed between any two writes.

`DiskImage` is what outlives processes; `SimFilesystem` is one process's way to it, and dies with the process.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from disheap.testing.simulator.world.rng import Rng

SECTOR = 512
ANYWHERE = ("a bit flipped", "a sector zeroed", "a sector stale")
AT_END = ("a bit flipped", "zeros to the end", "the end lost")
"""How a file is spoilt."""
END_BYTES = 250
"""What counts as the end of a file: a small block or two."""


class Crash(BaseException):
    """The process ends inside this call. Not an Exception: nothing may catch it and go on."""


class Inode:
    """The content of a file: what processes see (`now`), what is durable, and the unsynced changes in between."""

    __slots__ = ("before", "durable", "holder", "is_forgetful", "now", "pending")

    def __init__(self) -> None:
        self.now = bytearray()
        self.durable = b""
        self.before = b""  # what was durable before the last sync
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None) of a truncation
        self.is_forgetful = False  # a sync has failed: `now` shows what is not durable and passes for clean
        self.holder: SimFilesystem | None = None  # of a lock

    def synced(self) -> None:
        """What was written since a sync failed is durable; what that one was to write no sync will write any more."""
        self.before = self.durable
        self.durable = _applied(self.durable, self.pending) if self.is_forgetful else bytes(self.now)
        self.pending = []

    def sync_failed(self, rng: Rng) -> None:
        """Any part of it is durable."""
        self.durable = bytes(_after_power_cut(self, rng))
        self.pending, self.is_forgetful = [], True

    def found(self, content: bytearray) -> None:
        """After the power was gone."""
        self.now, self.durable = content, bytes(content)
        self.pending, self.is_forgetful = [], False


Change = Callable[[dict[str, Inode]], None]


class DiskImage:
    """The files of one machine. `rng` decides what a power cut and damage do to them."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.names: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.pending: list[Change] = []

    @property
    def is_dirty(self) -> bool:
        """Whether anything is not durable yet."""
        return bool(self.pending) or any(inode.pending for inode in self.names.values())

    def cut_power(self) -> None:
        """What is found when the power is back."""
        names = dict(self.durable)
        for change in self.pending:
            if self.rng.chance(0.5):
                change(names)
        for inode in {id(inode): inode for inode in names.values()}.values():
            inode.found(_after_power_cut(inode, self.rng))
        self.names, self.durable, self.pending = names, dict(names), []

    def wipe(self) -> None:
        """Removes all files, as a new disk."""
        self.names, self.durable, self.pending = {}, {}, []

    def damage(self, choose: Callable[[str], bool], at_end: bool = False, begins: bytes = b"") -> str:
        """Spoil one place of one file that `choose` agrees to. Returns what was done, or "" if there is nothing."""
        paths = sorted(path for path, inode in self.names.items() if choose(path) and inode.now)
        if not paths:
            return ""
        rng = self.rng
        path = rng.pick(paths)
        inode = self.names[path]
        place = _meaningful_place(inode.now, rng, at_end)
        how = rng.pick(AT_END if at_end else ANYWHERE)
        if how == "the end lost" and begins and inode.now.startswith(begins, place):
            place += 1  # where a record begins: without it the file would look as if it had never been written
        bit = 1 << rng.below(8)
        start = place - place % SECTOR
        durable = bytearray(inode.durable)
        for content in (inode.now, durable):
            end = min(start + SECTOR, len(content))
            if how == "the end lost":
                del content[place:]
            elif how == "zeros to the end":
                content[place:] = bytes(max(0, len(content) - place))
            elif how == "a bit flipped":
                content[place : place + 1] = bytes(byte ^ bit for byte in content[place : place + 1])
            elif how == "a sector zeroed" and end > start:
                content[start:end] = bytes(end - start)
            elif end > start:  # its last write went nowhere
                content[start:end] = inode.before[start:end].ljust(end - start, b"\0")
        inode.durable = bytes(durable)
        return f"{how} at byte {place} of {path}"


class Faults(Protocol):
    """Asked before each operation; may raise `OSError` or `Crash`."""

    free_bytes: int

    def happens(self, operation: str, path: str) -> None:
        """Called before an operation that changes something."""

    def closes(self, path: str) -> None:
        """Apart from the others: nothing changes on the disk, and no crash makes a difference there."""


class NoFaults:
    """A disk that never fails."""

    free_bytes = 1 << 50

    def happens(self, operation: str, path: str) -> None:
        """Does nothing."""

    def closes(self, path: str) -> None:
        """Does nothing."""


class SimFilesystem:
    """Implements the file storage's `Filesystem`."""

    def __init__(self, disk_image: DiskImage, faults: Faults) -> None:
        self.disk_image = disk_image
        self.operations = 0
        self._faults = faults

    def happens(self, operation: str, path: str) -> None:
        """Counts an operation, and asks the faults about it."""
        self.operations += 1
        self._faults.happens(operation, path)

    def closes(self, path: str) -> None:
        """Asks the faults about the closing of a file."""
        self._faults.closes(path)

    def make_directory(self, path: str) -> None:
        """Does nothing: directories exist by the names of their files."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        start = f"{path}/"
        return sorted(name.removeprefix(start) for name in self.disk_image.names if name.startswith(start))

    def open(self, path: str) -> SimFile:
        """Opens a file. Raises `FileNotFoundError` if there is none."""
        inode = self.disk_image.names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return SimFile(self, inode, path)

    def create(self, path: str) -> SimFile:
        """A file that is there is emptied, under whoever has it open."""
        known = self.disk_image.names.get(path)
        if known is not None:
            file = SimFile(self, known, path)
            file.truncate(0)
            return file
        inode = Inode()
        self._change("create", path, lambda names: names.update({path: inode}))
        return SimFile(self, inode, path)

    def rename(self, source: str, target: str) -> None:
        """Renames a file, and replaces the target. Durable with `sync_directory`."""
        inode = self.disk_image.names[source]

        def change(names: dict[str, Inode]) -> None:
            names.pop(source, None)
            names[target] = inode

        self._change("rename", target, change)

    def remove(self, path: str) -> None:
        """Removes a name. Durable with `sync_directory`."""
        if path not in self.disk_image.names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        self._change("remove", path, lambda names: _forget(names, path))

    def sync_directory(self, path: str) -> None:
        """Makes all names durable."""
        self.happens("sync_directory", path)
        self.disk_image.durable, self.disk_image.pending = dict(self.disk_image.names), []

    def free_bytes(self, path: str) -> int:
        """How many bytes are free, as the faults say."""
        return self._faults.free_bytes

    def lock(self, path: str) -> SimFile | None:
        """A lock on `path` that this process holds, or None if another one holds it."""
        inode = self.disk_image.names.get(path)
        if inode is None:
            inode = self.disk_image.names[path] = self.disk_image.durable[path] = Inode()
        if inode.holder is not None and inode.holder is not self:
            return None
        inode.holder = self
        return SimFile(self, inode, path, is_lock=True)

    def died(self) -> None:
        """The process is gone: its locks are free."""
        for inode in self.disk_image.names.values():
            if inode.holder is self:
                inode.holder = None

    def _change(self, operation: str, path: str, change: Change) -> None:
        self.happens(operation, path)
        change(self.disk_image.names)
        self.disk_image.pending.append(change)


class SimFile:
    """An open file."""

    __slots__ = ("_filesystem", "_inode", "_is_lock", "_path")

    def __init__(self, filesystem: SimFilesystem, inode: Inode, path: str, is_lock: bool = False) -> None:
        self._filesystem, self._inode, self._path, self._is_lock = filesystem, inode, path, is_lock

    def read(self, size: int, offset: int) -> bytes:
        """Returns up to `size` bytes from `offset`, fewer at the end of the file."""
        return bytes(self._inode.now[offset : offset + size])

    def write(self, data: bytes, offset: int) -> None:
        """On a full disk what makes the file grow arrives in part."""
        grows = offset + len(data) > len(self._inode.now)
        try:
            self._filesystem.happens("extend" if grows else "write", self._path)
        except OSError:
            self._put(data[: len(data) // 2], offset)
            raise
        self._put(data, offset)

    def _put(self, data: bytes, offset: int) -> None:
        inode, now = self._inode, self._inode.now
        if offset > len(now):
            now.extend(bytes(offset - len(now)))
        now[offset : offset + len(data)] = data
        inode.pending.append((offset, bytes(data)))

    def sync(self) -> None:
        """After an error the pages are marked clean: no later sync writes them (Rebello et al., ATC'20)."""
        try:
            self._filesystem.happens("sync", self._path)
        except OSError:
            self._inode.sync_failed(self._filesystem.disk_image.rng)
            raise
        self._inode.synced()

    def drop_cached(self, size: int, offset: int) -> None:
        """Does nothing: the simulation has no cache."""

    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self._inode.now)

    def truncate(self, size: int) -> None:
        """Cuts the file to `size` bytes. Durable with the next `sync`."""
        self._filesystem.happens("truncate", self._path)
        del self._inode.now[size:]
        self._inode.pending.append((size, None))

    def is_linked(self) -> bool:
        """Whether a name still refers to this file."""
        return any(inode is self._inode for inode in self._filesystem.disk_image.names.values())

    def close(self) -> None:
        """Closes the file, and frees the lock if it is one."""
        if self._is_lock and self._inode.holder is self._filesystem:
            self._inode.holder = None
        self._filesystem.closes(self._path)


def used_bytes(content: bytearray) -> int:
    """The size of a file without the zeros at its end: there may be space that is allocated and not used."""
    return len(content.rstrip(b"\0"))


def _forget(names: dict[str, Inode], path: str) -> None:
    names.pop(path, None)


def _meaningful_place(content: bytearray, rng: Rng, at_end: bool) -> int:
    """Mostly a byte that is not zero: most of a small log is room for more."""
    if at_end:
        return max(0, used_bytes(content) - rng.between(1, END_BYTES))
    telling = [place for place, byte in enumerate(content) if byte] if rng.chance(0.8) else []
    return rng.pick(telling) if telling else rng.below(len(content))


def _applied(content: bytes, writes: list[tuple[int, bytes | None]]) -> bytes:
    now = bytearray(content)
    for offset, data in writes:
        if data is None:
            del now[offset:]
            continue
        now.extend(bytes(max(0, offset - len(now))))
        now[offset : offset + len(data)] = data
    return bytes(now)


def _after_power_cut(inode: Inode, rng: Rng) -> bytearray:
    content = bytearray(inode.durable)
    for offset, data in inode.pending:
        chance = rng.pick((0.0, 0.5, 0.9, 1.0))
        if data is None:
            if rng.chance(chance):
                del content[offset:]
            continue
        for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
            if rng.chance(chance):
                low, high = max(start, offset), min(start + SECTOR, offset + len(data))
                if low > len(content):
                    content.extend(bytes(low - len(content)))
                content[low:high] = data[low - offset : high - offset]
    if len(inode.now) > len(content) and rng.chance(0.3):
        content.extend(bytes(rng.below(len(inode.now) - len(content) + 1)))
    return content
