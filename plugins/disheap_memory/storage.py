"""Storage `memory`: a log that lasts as long as its object.

For tests, simulations and clusters that may forget. It keeps every rule of the contract but durability. The codec it is
given is applied to what it keeps. Superseded entries are gone, and a snapshot becomes visible when it is committed.
Closing and opening the same object again finds everything as it was, which is how a simulator restarts a node; another
object starts empty.

Each append is one encoded block. Reading an entry decodes its block; the last one decoded is kept, because followers
that catch up read in sequence.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

from disheap.errors import SnapshotDamaged, StorageError, StorageLocked, WrongDirectory
from disheap.interfaces import Identity, Recovered, StorageContext, StorageUsage, Stream, StreamContext
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term, TermRun

SNAPSHOTS = 2
"""Generations kept; a follower may still be fetching the older."""

BLOCK_MEMORY_BYTES = 200
"""The memory of a block besides its bytes: a tuple, three numbers, its place in a list."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Entry, ...]).decode


class MemorySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to set."""


class Block(NamedTuple):
    """The encoded entries of one append."""

    first: int
    raw_bytes: int
    position: int
    stored: bytes


def _memory_of(block: Block) -> int:
    return len(block.stored) + BLOCK_MEMORY_BYTES


class Snapshot(NamedTuple):
    """A committed snapshot, encoded in chunks."""

    meta: SnapshotMeta
    stream: Stream
    chunks: tuple[bytes, ...]  # encoded; the position of a chunk is its number
    starts: tuple[int, ...]  # raw offset of each chunk, and the size of all at the end
    stored_bytes: int


class MemoryStorage:
    """The storage `memory`. Each method keeps the contract `disheap.interfaces.Storage`, but nothing outlives the
    object."""

    name: ClassVar[str] = "memory"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = MemorySettings
    durable: ClassVar[bool] = False

    def __init__(self, settings: MemorySettings, context: StorageContext) -> None:
        self._codec = context.codec
        self._stream = context.codec.new_stream(StreamContext("segment", "memory"))[1]
        self._identity: Identity | None = None
        self._is_open = False
        self._hard_state = HardState(Term(0), NodeId(0))
        self._snapshots: list[Snapshot] = []
        self._first, self._last = Index(1), Index(0)
        self._position = 0  # of the next block; never used twice
        self._blocks: list[Block] = []
        self._blocks_bytes = 0  # of memory
        self._runs: list[TermRun] = []
        self._memberships: list[tuple[Index, bytes]] = []
        self._decoded: tuple[int, tuple[Entry, ...]] = (-1, ())

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        """Opens the storage. An object that was closed finds everything as it was."""
        if self._is_open:
            raise StorageLocked("this memory storage is open already; close it first")
        fresh, own = self._identity is None, self._identity or identity
        if (own.cluster_id, own.node_id, own.name) != (identity.cluster_id, identity.node_id, identity.name):
            raise WrongDirectory(
                f"this memory storage belongs to node {own.node_id} ({own.name}) of cluster {own.cluster_id}, not to "
                f"node {identity.node_id} ({identity.name}) of cluster {identity.cluster_id}; give each node its own"
            )
        self._identity, self._is_open = own, True
        snapshot = self._snapshots[-1].meta if self._snapshots else None
        after = snapshot.index if snapshot else 0
        return Recovered(
            identity=own,
            fresh=fresh,
            hard_state=self._hard_state,
            snapshot=snapshot,
            first_index=self._first,
            last_index=self._last,
            runs=tuple(self._runs),
            memberships=tuple(item for item in self._memberships if item[0] > after),
            tail=self._tail(tail_bytes),
            ambiguous_after=None,
        )

    def save_hard_state(self, state: HardState) -> None:
        """Keeps term and vote."""
        self._check_open()
        self._hard_state = state

    def append(self, entries: Sequence[Entry]) -> None:
        """Keeps the entries as one encoded block. Drops the entries that they supersede."""
        self._check_open()
        if not entries:
            return
        first = entries[0].index
        assert self._first <= first <= self._last + 1, f"append at {first} to a log of {self._first}..{self._last}"
        assert max(entry.term for entry in entries) <= self._hard_state.term, "entries of a term that was not saved"
        self._supersede(first)
        self._add_block(first, entries)
        for entry in entries:
            if not self._runs or self._runs[-1].term != entry.term:
                self._runs.append(TermRun(entry.index, entry.term))
            if entry.kind == EntryKind.MEMBERSHIP:
                self._memberships.append((entry.index, entry.data))
        self._last = entries[-1].index

    def append_on_loop(self, entries: Sequence[Entry]) -> None:
        """Calls `append`, which never blocks."""
        self.append(entries)

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Decodes the blocks that hold the entries."""
        self._check_open()
        if first < self._first:
            return ()
        entries: list[Entry] = []
        size, index, last = 0, int(first), min(last, self._last)
        while index <= last:
            for entry in self._entries_from(index):
                size += len(entry.data)
                if entry.index > last or (entries and size > max_bytes):
                    return tuple(entries)
                entries.append(entry)
            index = entries[-1].index + 1
        return tuple(entries)

    def compact(self, first_index: Index) -> Index:
        """Drops whole blocks before `first_index`. Returns the first index that is left."""
        self._check_open()
        number = self._number_of(first_index)
        if first_index > self._last:
            number = len(self._blocks)
        if number > 0:
            self._blocks_bytes -= sum(map(_memory_of, self._blocks[:number]))
            del self._blocks[:number]
            self._first = Index(self._blocks[0].first if self._blocks else self._last + 1)
            self._trim_front()
        return self._first

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> MemorySnapshotWriter:
        """Begins a snapshot that becomes visible at its commit."""
        self._check_open()
        stream = self._codec.new_stream(StreamContext("snapshot", f"memory-{meta.index}"))[1]

        def commit(snapshot: Snapshot) -> None:
            self._check_open()
            kept = [old for old in self._snapshots if old.meta.index != meta.index]
            self._snapshots = sorted([*kept, snapshot], key=lambda item: item.meta.index)[-SNAPSHOTS:]
            if replaces_log:
                self._blocks, self._runs, self._memberships = [], [], []
                self._blocks_bytes = 0
                self._first, self._last = Index(meta.index + 1), meta.index

        return MemorySnapshotWriter(meta, stream, commit)

    def open_snapshot(self, index: Index | None = None) -> MemorySnapshotReader | None:
        """Opens the snapshot at `index`, or the newest."""
        self._check_open()
        found = [item for item in self._snapshots if index is None or item.meta.index == index]
        return MemorySnapshotReader(found[-1]) if found else None

    def flush(self) -> None:
        """Does nothing: nothing becomes durable here."""
        self._check_open()

    def clear_ambiguity(self) -> None:
        """Does nothing: the end of this log is never ambiguous."""
        self._check_open()

    def usage(self) -> StorageUsage:
        """The encoded sizes of log and snapshots."""
        self._check_open()
        after = self._snapshots[-1].meta.index if self._snapshots else 0
        return StorageUsage(
            log_bytes=sum(len(block.stored) for block in self._blocks),
            snapshot_bytes=sum(snapshot.stored_bytes for snapshot in self._snapshots),
            log_bytes_since_snapshot=sum(len(block.stored) for block in self._blocks if block.first > after),
        )

    def memory_bytes(self) -> int:
        """An estimate of the memory that log and snapshots take."""
        return self._blocks_bytes + sum(snapshot.stored_bytes for snapshot in self._snapshots)

    def close(self) -> None:
        """Closes the storage. Its data stay in the object."""
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise StorageError("this memory storage is not open; call open() first")

    def _number_of(self, index: int) -> int:
        """The block that holds `index`, by its place."""
        return bisect.bisect_right(self._blocks, index, key=lambda block: block.first) - 1

    def _entries_from(self, index: int) -> tuple[Entry, ...]:
        """The rest of the block that holds `index`, from there on."""
        block = self._blocks[self._number_of(index)]
        if self._decoded[0] != block.position:
            raw = self._stream.decode(block.stored, block.position, block.raw_bytes)
            self._decoded = (block.position, _decode(raw))
        return self._decoded[1][index - block.first :]

    def _supersede(self, first: int) -> None:
        """Drop the entries from `first` on. A block that `first` cuts in the middle is written anew without its end."""
        if first > self._last:
            return
        while self._blocks and self._blocks[-1].first >= first:
            self._drop_last_block()
        self._last = Index(first - 1)
        while self._runs and self._runs[-1].first >= first:
            self._runs.pop()
        while self._memberships and self._memberships[-1][0] >= first:
            self._memberships.pop()
        if self._blocks:
            self._shorten_last(first)

    def _shorten_last(self, first: int) -> None:
        start = self._blocks[-1].first
        kept = self._entries_from(start)[: first - start]
        self._drop_last_block()
        self._add_block(start, kept)

    def _add_block(self, first: int, entries: Sequence[Entry]) -> None:
        raw = _encode(entries)
        block = Block(first, len(raw), self._position, self._stream.encode(raw, self._position))
        self._blocks.append(block)
        self._blocks_bytes += _memory_of(block)
        self._position += 1

    def _drop_last_block(self) -> None:
        self._blocks_bytes -= _memory_of(self._blocks.pop())

    def _trim_front(self) -> None:
        while len(self._runs) > 1 and self._runs[1].first <= self._first:
            self._runs.pop(0)
        if self._runs:
            self._runs[0] = TermRun(self._first, self._runs[0].term)
        if self._first > self._last:
            self._runs = []
        self._memberships = [item for item in self._memberships if item[0] >= self._first]

    def _tail(self, tail_bytes: int) -> tuple[Entry, ...]:
        tail: list[Entry] = []
        for block in reversed(self._blocks):
            for entry in reversed(self._entries_from(block.first)):
                tail_bytes -= len(entry.data)
                if tail_bytes < 0:
                    return tuple(reversed(tail))
                tail.append(entry)
        return tuple(reversed(tail))


class MemorySnapshotWriter:
    """A snapshot that is being written."""

    def __init__(self, meta: SnapshotMeta, stream: Stream, commit: Callable[[Snapshot], None]) -> None:
        self._meta, self._stream, self._commit = meta, stream, commit
        self._chunks: list[bytes] = []
        self._starts = [0]

    def write(self, chunk: bytes) -> None:
        """Encodes a piece and keeps it."""
        if chunk:
            self._chunks.append(self._stream.encode(chunk, len(self._chunks)))
            self._starts.append(self._starts[-1] + len(chunk))

    def reread(self) -> MemorySnapshotReader:
        """A reader of everything that was written so far."""
        return MemorySnapshotReader(self._written())

    def commit(self) -> None:
        """Makes the snapshot visible. It may replace the log."""
        self._commit(self._written())

    def abort(self) -> None:
        """Drops what was written."""
        self._chunks, self._starts = [], [0]

    def _written(self) -> Snapshot:
        size = sum(len(chunk) for chunk in self._chunks)
        return Snapshot(self._meta, self._stream, tuple(self._chunks), tuple(self._starts), size)


class MemorySnapshotReader:
    """Reads one snapshot, also after newer ones have replaced it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.meta = snapshot.meta
        self._snapshot: Snapshot | None = snapshot

    def read(self, offset: int, size: int) -> bytes:
        """Returns up to `size` raw bytes from `offset`, fewer at the end."""
        snapshot = self._snapshot
        if snapshot is None:
            raise SnapshotDamaged("this snapshot reader is closed; open the snapshot again")
        number = bisect.bisect_right(snapshot.starts, offset) - 1
        parts: list[bytes] = []
        while size > 0 and number < len(snapshot.chunks):
            start, end = snapshot.starts[number], snapshot.starts[number + 1]
            raw = snapshot.stream.decode(snapshot.chunks[number], number, end - start)
            parts.append(raw[offset - start : offset - start + size])
            size, offset, number = size - len(parts[-1]), end, number + 1
        return b"".join(parts)

    def close(self) -> None:
        """Closes the reader. Later reads raise `SnapshotDamaged`."""
        self._snapshot = None


if TYPE_CHECKING:
    from disheap.interfaces import LoopAppending, MemoryEstimating, Rereadable, Storage

    _fits: type[Storage] = MemoryStorage
    _estimates: type[MemoryEstimating] = MemoryStorage
    _appends: type[LoopAppending] = MemoryStorage
    _rereads: type[Rereadable] = MemorySnapshotWriter
