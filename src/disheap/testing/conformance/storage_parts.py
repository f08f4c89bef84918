"""What the suites of storages put into a storage, and how they read it back."""

from __future__ import annotations

from itertools import zip_longest

from disheap.interfaces import Identity, SnapshotReader, Storage
from disheap.kernel.types import Entry, EntryKind, Index, Member, Membership, NodeId, SnapshotMeta, Term

IDENTITY = Identity(cluster_id="c0ffee", node_id=1, name="n1", incarnation=42)
MEMBERS = Membership((Member(NodeId(1), True, b"one"), Member(NodeId(2), False, b"two")))
PIECE_BYTES = 1 << 20
"""What a snapshot writer has to take at once."""


def entry(index: int, term: int = 1, size: int = 20, kind: EntryKind = EntryKind.COMMANDS) -> Entry:
    """An entry whose content follows from its index and term, padded to `size` bytes."""
    data = f"{term}/{index}:".encode().ljust(size, b".")
    return Entry(Term(term), Index(index), kind, index * 1000, data)


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[Entry]:
    """The entries from `first` to `last`, inclusive."""
    return [entry(index, term, size) for index in range(first, last + 1)]


def meta(index: int, term: int = 1) -> SnapshotMeta:
    """The meta of a snapshot at `index`, with the two members `MEMBERS`."""
    return SnapshotMeta(Index(index), Term(term), index * 1000, MEMBERS)


def write_snapshot(
    storage: Storage, index: int, raw: bytes = b"state", term: int = 1, replaces_log: bool = False
) -> None:
    """Writes `raw` in pieces of 1 MiB and commits the snapshot."""
    writer = storage.begin_snapshot(meta(index, term), replaces_log)
    for start in range(0, len(raw), PIECE_BYTES):
        writer.write(raw[start : start + PIECE_BYTES])
    writer.commit()


def read_log(storage: Storage, first: int, last: int, max_bytes: int = 1 << 30) -> list[Entry]:
    """All of [first, last] that is there, in as many reads as it takes."""
    found: list[Entry] = []
    while first <= last and (part := storage.read(Index(first), Index(last), max_bytes)):
        found += part
        first = part[-1].index + 1
    return found


def check_entries(found: list[Entry], expected: list[Entry]) -> None:
    """Compares two logs. Tells the first place in which they differ: pytest would look for all of them for minutes."""
    pairs = zip_longest(found, expected)
    differing = next(((one, other) for one, other in pairs if one != other), None)
    assert differing is None, f"{str(differing[0])[:200]} was read, where {str(differing[1])[:200]} was appended"


def read_all(reader: SnapshotReader | None, size: int = 100_000) -> bytes:
    """Reads a snapshot to its end in pieces of `size` bytes, and closes the reader."""
    assert reader is not None
    parts: list[bytes] = []
    while part := reader.read(sum(map(len, parts)), size):
        parts.append(part)
    reader.close()
    return b"".join(parts)


def read_snapshot(storage: Storage) -> bytes | None:
    """The bytes of the newest snapshot, or None if there is none."""
    reader = storage.open_snapshot()
    return None if reader is None else read_all(reader, 7000)
