"""A data directory in memory, mangled, and opened. What comes of it is an error of the storage's, or the truth.

The input is a script. The first byte says which file. The second says whether checksums are made right again
afterwards, as if a program had written the bytes so. The rest are changes of 4 bytes: place (3), value.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from disheap.errors import StorageError, VersionUnsupported
from disheap.kernel.types import Entry, HardState, Index, NodeId, SnapshotMeta, Term
from disheap_filelog.segments import blocks, identities, segment
from disheap_filelog.small_files import meta
from disheap_filelog.snapshots import snapshot
from tests.storage.parts import IDENTITY, MEMBERS, build, entries, entry

CODEC = "zstd"
CHANGE_BYTES = 4
READ_MAX = 64 << 20
"""More than this at once is memory taken on a damaged number's word."""
TERM = Term(9)


class MemoryFile:
    def __init__(self, data: bytearray) -> None:
        self._data = data

    def read(self, size: int, offset: int) -> bytes:
        assert size <= READ_MAX, f"{size} bytes are read at once"
        return bytes(self._data[offset : offset + size])

    def write(self, data: bytes, offset: int) -> None:
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def sync(self) -> None: ...

    def drop_cached(self, size: int, offset: int) -> None: ...

    def size(self) -> int:
        return len(self._data)

    def truncate(self, size: int) -> None:
        del self._data[size:]

    def is_linked(self) -> bool:
        return True

    def close(self) -> None: ...


class MemoryFilesystem:
    def __init__(self, files: dict[str, bytearray] | None = None) -> None:
        self.files = files or {}

    def make_directory(self, path: str) -> None: ...

    def list(self, path: str) -> list[str]:
        return sorted(name.rpartition("/")[2] for name in self.files)

    def open(self, path: str) -> MemoryFile:
        if path not in self.files:
            raise FileNotFoundError(path)
        return MemoryFile(self.files[path])

    def create(self, path: str) -> MemoryFile:
        self.files[path] = bytearray()
        return MemoryFile(self.files[path])

    def rename(self, source: str, target: str) -> None:
        self.files[target] = self.files.pop(source)

    def remove(self, path: str) -> None:
        del self.files[path]

    def free_bytes(self, path: str) -> int:
        return 1 << 50

    def sync_directory(self, path: str) -> None: ...

    def lock(self, path: str) -> MemoryFile:
        return MemoryFile(self.files.setdefault(path, bytearray()))


def _written() -> dict[str, bytes]:
    """A directory with a snapshot, two segments, entries of two terms, and a superseded end."""
    filesystem = MemoryFilesystem()
    storage = build(filesystem, codec_name=CODEC)
    storage.open(IDENTITY, 1 << 20, alone=False)
    storage.save_hard_state(HardState(TERM, NodeId(1)))
    storage.append(entries(1, 6))
    writer = storage.begin_snapshot(SnapshotMeta(Index(4), Term(1), 4000, MEMBERS), replaces_log=False)
    writer.write(b"state " * 1000)
    writer.commit()
    storage.append(entries(7, 9, size=1500))
    storage.close()
    storage = build(filesystem, codec_name=CODEC, seed=2)
    storage.open(IDENTITY, 1 << 20, alone=False)
    storage.append([entry(9, term=2), entry(10, term=2, size=400)])
    storage.append([entry(11, term=2), entry(12, term=3)])
    storage.close()
    return {name: bytes(data) for name, data in filesystem.files.items()}


GOOD = _written()
NAMES = sorted(name for name in GOOD if GOOD[name])
FILE_SEEDS = [bytes([number, repair, 1, 2, 3, 4]) for number in range(len(NAMES)) for repair in (0, 1)]


def truth() -> list[Entry]:
    storage = build(MemoryFilesystem(_copy()), codec_name=CODEC)
    storage.open(IDENTITY, 1 << 20, alone=False)
    return [found for index in range(1, 13) for found in storage.read(Index(index), Index(index), 1)]


def open_mangled(data: bytes) -> None:
    """Without repaired checksums an entry that can be read is the one that was written."""
    if len(data) < 2:
        return
    name, repaired = NAMES[data[0] % len(NAMES)], data[1] % 2 == 1
    files = _copy()
    _mangle(files[name], data[2:])
    if repaired:
        _repair(name, files[name])
    _look_at(files, repaired)
    storage = build(MemoryFilesystem(files), codec_name=CODEC, seed=3)
    try:
        found = storage.open(IDENTITY, 1 << 20, alone=False)
        got = list(storage.read(found.first_index, found.last_index, 1 << 20)) if found.last_index else []
        reader = storage.open_snapshot()
        state = reader.read(0, 1 << 20) if reader is not None else b""
    except StorageError:
        return
    except VersionUnsupported:
        assert repaired, f"{name}: what rotted is taken for a newer format"
        return
    finally:
        storage.close()
    if not repaired:
        assert all(entry in TRUTH for entry in got), f"{name}: an entry that nobody wrote"
        assert state in (b"", b"state " * 1000), f"{name}: a snapshot that nobody wrote"


def _look_at(files: dict[str, bytearray], repaired: bool) -> None:
    """An operator looks at the files before the node does. He sees damage or the truth, and changes nothing."""
    before = {name: bytes(data) for name, data in files.items()}
    storage = build(MemoryFilesystem(files), codec_name=CODEC, seed=4)
    try:
        found = storage.inspect()
        if found is not None and not (found.damaged or found.lost_snapshot or repaired):
            got = storage.read(found.first_index, found.last_index, 1 << 20)
            assert all(entry in TRUTH for entry in got), "an entry that nobody wrote"
    except (StorageError, VersionUnsupported):
        pass
    finally:
        storage.close()
    assert {name: bytes(data) for name, data in files.items()} == before, "a look has changed the data"


def _copy() -> dict[str, bytearray]:
    return {name: bytearray(data) for name, data in GOOD.items()}


def _mangle(data: bytearray, script: bytes) -> None:
    """A place beyond the end cuts the file there, counted from its beginning again."""
    for at in range(0, len(script) - CHANGE_BYTES + 1, CHANGE_BYTES):
        place, value = int.from_bytes(script[at : at + 3], "little"), script[at + 3]
        if not data:
            return
        if place >> 20 == 15:
            del data[place % len(data) :]
        else:
            data[place % len(data)] = value


def _repair(name: str, data: bytearray) -> None:
    """Each checksum where the good file has one, in the order in which later ones cover earlier ones."""
    for start, end, where in _checksums(name, GOOD[name]):
        if where + 4 <= len(data):
            data[where : where + 4] = crc32(data[start:end]).to_bytes(4, "big")


def _checksums(path: str, good: bytes) -> Iterator[tuple[int, int, int]]:
    name = path.rpartition("/")[2]
    if name == "identity":
        yield 0, len(good) - 4, len(good) - 4
    elif name == meta.NAME:
        for at in meta.SLOT_AT:
            yield at, at + 40, at + 40
    elif name.startswith(segment.PREFIX):
        yield from _of_segment(good)
    elif name.startswith(snapshot.PREFIX):
        yield from _of_snapshot(good)


def _of_segment(good: bytes) -> Iterator[tuple[int, int, int]]:
    head = segment._HEAD.size + int.from_bytes(good[6:8], "big") + int.from_bytes(good[56:60], "big")
    yield 0, head, head
    yield segment.SEAL_AT, segment.SEAL_AT + 12, segment.SEAL_AT + 12
    offset = segment.data_start(int.from_bytes(good[52:56], "big"))
    for number in range((offset - segment.SLOTS_AT) // identities.SLOT_BYTES):
        at = segment.SLOTS_AT + number * identities.SLOT_BYTES
        if good[at : at + identities.SLOT_BYTES] != identities.EMPTY:
            yield at, at + 28, at + 28
    while block := blocks.parse_header(good[offset : offset + blocks.HEADER_BYTES], offset):
        yield offset + blocks.HEADER_BYTES, block.end, offset + 52
        yield offset, offset + 64, offset + 64
        offset = block.end


def _of_snapshot(good: bytes) -> Iterator[tuple[int, int, int]]:
    head = 40 + sum(int.from_bytes(good[at : at + size], "big") for at, size in ((6, 2), (32, 4), (36, 4)))
    yield 0, head, head
    at = head + 4
    while at < len(good) - 60:
        stored = int.from_bytes(good[at + 16 : at + 20], "big")
        yield at + 28, at + 28 + stored, at + 20
        yield at, at + 24, at + 24
        at += 28 + stored
    yield len(good) - 60, len(good) - 4, len(good) - 4


TRUTH = [*truth(), *entries(1, 9), *entries(7, 9, size=1500)]
