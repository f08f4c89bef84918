"""What the storage tests share: how a `FileStorage` is made, and what is put into it."""

from __future__ import annotations

import random
from typing import NamedTuple

from disheap.interfaces import Codec, CodecContext, Identity, StorageContext
from disheap.kernel.types import Entry, EntryKind, HardState, Index, Member, Membership, NodeId, SnapshotMeta, Term
from disheap_codecs.plain import NoneCodec, NoneSettings
from disheap_codecs.zstd import ZstdCodec, ZstdSettings
from disheap_filelog.filesystem import Filesystem
from disheap_filelog.settings import FileSettings
from disheap_filelog.storage import FileStorage

IDENTITY = Identity("c0ffee", 1, "n1", 42)
DIRECTORY = "/data/groups/0"
SMALL = FileSettings(segment_bytes=64 << 10, block_bytes=4 << 10)
MEMBERS = Membership((Member(NodeId(1), True, b"one"),))


class StillClock(NamedTuple):
    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 0


def codec(name: str) -> Codec:
    context = CodecContext(random.Random(1))
    return NoneCodec(NoneSettings(), context) if name == "none" else ZstdCodec(ZstdSettings(), context)


def build(
    filesystem: Filesystem | None = None,
    directory: str = DIRECTORY,
    codec_name: str = "none",
    settings: FileSettings = SMALL,
    seed: int = 1,
) -> FileStorage:
    context = StorageContext(directory, codec(codec_name), codec_name, StillClock(), random.Random(seed))
    return FileStorage(settings, context, filesystem=filesystem)


def opened(filesystem: Filesystem | None = None, directory: str = DIRECTORY, term: int = 9) -> FileStorage:
    storage = build(filesystem, directory)
    storage.open(IDENTITY, 1 << 20, alone=False)
    storage.save_hard_state(HardState(Term(term), NodeId(1)))
    return storage


def entry(index: int, term: int = 1, size: int = 30, kind: EntryKind = EntryKind.COMMANDS) -> Entry:
    data = f"{term}/{index}:".encode().ljust(size, b".")
    return Entry(Term(term), Index(index), kind, index * 1000, data)


def entries(first: int, last: int, term: int = 1, size: int = 30) -> list[Entry]:
    return [entry(index, term, size) for index in range(first, last + 1)]


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), index * 1000, MEMBERS)


def write_snapshot(storage: FileStorage, index: int, raw: bytes, term: int = 1, replaces_log: bool = False) -> None:
    writer = storage.begin_snapshot(meta(index, term), replaces_log)
    writer.write(raw)
    writer.commit()


def read_log(storage: FileStorage, first: int, last: int) -> list[Entry]:
    found: list[Entry] = []
    while first <= last and (part := storage.read(Index(first), Index(last), 10_000)):
        found += part
        first = part[-1].index + 1
    return found


def read_snapshot(storage: FileStorage) -> bytes | None:
    reader = storage.open_snapshot()
    if reader is None:
        return None
    parts: list[bytes] = []
    while part := reader.read(sum(map(len, parts)), 7000):
        parts.append(part)
    reader.close()
    return b"".join(parts)
