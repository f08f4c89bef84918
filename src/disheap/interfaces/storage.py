"""The contract of storages: the log, the hard state and the snapshots of one replica."""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import msgspec

from disheap.interfaces.codec import Codec
from disheap.interfaces.plugin import Clock, Plugin
from disheap.kernel.types import Entry, HardState, Index, SnapshotMeta, Term, TermRun


class Identity(msgspec.Struct, frozen=True):
    """Whose data these are. `incarnation` is drawn when the data directory is made, and never again."""

    cluster_id: str
    node_id: int
    name: str
    incarnation: int


class KnownPeers(NamedTuple):
    """Which members a node has met, and whether it has taken part since its directory was made."""

    takes_part: bool
    incarnations: tuple[tuple[int, int], ...]  # (member, incarnation), by member


class Damage(NamedTuple):
    """Entries that were durable, or may have been, and cannot be read: all of one term, in one place of one file."""

    first: Index
    last: Index
    term: Term
    file: str
    offset: int  # bytes


class LostSnapshot(NamedTuple):
    """No snapshot can be read that the log goes on from. One at `needed` or later makes up for it."""

    needed: Index
    reason: str


class Recovered(NamedTuple):
    """What `Storage.open` found. Field by field as `kernel.types.Restored`; `snapshot` is None where there is none."""

    identity: Identity
    fresh: bool  # the storage was empty and is now initialised
    hard_state: HardState
    snapshot: SnapshotMeta | None
    first_index: Index
    last_index: Index
    runs: tuple[TermRun, ...]
    memberships: tuple[tuple[Index, bytes], ...]
    tail: tuple[Entry, ...]
    ambiguous_after: Index | None  # entries behind it may be lost; what those superseded, before it, shows again
    damaged: tuple[Damage, ...] = ()  # by index; only from a `Repairable` storage that is not alone
    lost_snapshot: LostSnapshot | None = None

    @property
    def is_damaged(self) -> bool:
        """Then `tail` and `memberships` say nothing, and the storage takes no entries before it is repaired and opened
        anew."""
        return bool(self.damaged) or self.lost_snapshot is not None


class Holding(NamedTuple):
    """What a node's storage holds, readable or not: the terms are known of damaged entries too."""

    hard_state: HardState
    snapshot: Index
    snapshot_term: Term
    first: Index
    last: Index  # first - 1 when the log is empty
    runs: tuple[TermRun, ...]
    damaged: tuple[Damage, ...]
    ambiguous: bool  # entries behind `last` may have been lost
    lost_snapshot: LostSnapshot | None

    @property
    def is_damaged(self) -> bool:
        return bool(self.damaged) or self.lost_snapshot is not None

    def term_at(self, index: int) -> Term | None:
        """None where the log does not reach."""
        if not self.first <= index <= self.last:
            return None
        return self.runs[bisect.bisect_right(self.runs, index, key=lambda run: run.first) - 1].term

    def is_damaged_at(self, index: int) -> bool:
        return any(place.first <= index <= place.last for place in self.damaged)


class SnapshotWriter(Protocol):
    """A snapshot on its way to the disk. Nobody sees it before `commit` returns. Appends go on between its calls."""

    def write(self, chunk: bytes) -> None:
        """Append raw bytes, at most 1 MiB. Bounded work: it syncs as it goes, so that no call waits long. Raises
        `StorageFull`, after which only `abort` is called, and `DiskFailed`."""

    def commit(self) -> None:
        """Contents and name are durable when it returns. Older snapshots beyond two are removed. Raises `StorageFull`,
        and `DiskFailed`."""

    def abort(self) -> None:
        """Leaves nothing behind. May be called after a failed `write` or `commit`."""


class SnapshotReader(Protocol):
    """A snapshot that is read. It goes on to its end although newer snapshots remove it meanwhile."""

    meta: SnapshotMeta

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` raw bytes from raw `offset`. Fewer only where the snapshot ends, and b"" behind its end.
        Sequential offsets are cheap. Raises `SnapshotDamaged`, and `DiskFailed`."""

    def close(self) -> None:
        """May be called twice. Called before the storage is closed."""


@runtime_checkable
class Rereadable(Protocol):
    """Optional power of a `SnapshotWriter`: a leader's snapshot is tried before it takes the place of a log that was
    good. Without it, a node that is sent what it cannot read ends, and has neither."""

    def reread(self) -> SnapshotReader:
        """What was written, before `commit`. Nothing is written until it is closed."""


class StorageUsage(NamedTuple):
    """How much a storage holds, and how much room there is."""

    log_bytes: int  # on disk, all segments
    snapshot_bytes: int  # on disk, all snapshots
    log_bytes_since_snapshot: int  # on disk, for deciding when the next is due
    free_bytes: int | None = None  # room left where it is kept; None where that is not bounded by a disk


class StorageContext(NamedTuple):
    """`directory` is the group's own: `<data>/groups/<group>`; a storage without files ignores it."""

    directory: str
    codec: Codec
    codec_name: str
    clock: Clock
    random: random.Random


class Storage(Plugin, Protocol):
    """Keeps the log, the term and the vote, and the snapshots of one group. Blocking, and called from one thread at a
    time. What it returns belongs to the caller.

    A write for which there is no room raises `StorageFull`: nothing of it counts, and the storage goes on. Any other
    error of a write, a sync or a close is a `DiskFailed`. After that every call but `close` raises `DiskFailed`, and
    nothing more is written: a sync that failed is never tried again. Every block passes through the codec of the
    context; a stream's preamble is kept with it.

    A storage whose data can be taken away under it (files removed or moved) raises `StorageGone`, a `DiskFailed`, from
    `append`, `save_hard_state` and the commit of a snapshot instead of confirming them, and from `usage`.
    """

    durable: ClassVar[bool]  # survives the end of the process; then it is `PeerStore`, too

    def __init__(self, settings: Any, context: StorageContext) -> None: ...

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        """Lock, check and recover. An empty storage takes `identity` for its own, durably. The incarnation given is
        ignored where one is stored. `tail_bytes` bounds the data of `Recovered.tail`. `alone` says that the cluster has
        no other voter: then an ambiguous last block is dropped, and damage is refused.

        Raises `StorageLocked` when it is open already, here or in another process. Raises `WrongDirectory` when
        cluster, node id or name are others than those stored, and `WrongCodec` when another codec wrote it. Raises
        `LogDamaged` and `SnapshotDamaged` for damage that is not told by `Recovered`. Whatever it refuses is as it was
        before. Raises `StorageFull`, and `DiskFailed`."""

    def save_hard_state(self, state: HardState) -> None:
        """Durable when it returns. Survives any truncation or loss of log files. Called before entries of its term are
        appended. Raises `DiskFailed`; on a full disk, too, it has the room that it needs, or raises `StorageFull`."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Contiguous entries, all durable when it returns. The first index is at most last_index + 1. Where it is less,
        the stored entries from there on are superseded, and never come back. A crash inside the call leaves the first
        entries of it, or none.

        Raises `StorageFull` when there is no room: then nothing of the call counts, what was there before is as it was,
        and the same call may succeed later. Raises `DiskFailed`."""

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `first` on, in order, up to `last` and `max_bytes` of data, but at least one. () where the log
        does not hold `first`. The caller owns them. Raises `LogDamaged`, and `DiskFailed`."""

    def compact(self, first_index: Index) -> Index:
        """Entries below `first_index` are no longer needed, and may go when it suits the storage. Returns the oldest
        index that can still be read, at most `first_index`. Called behind a snapshot that is durable. Raises
        `DiskFailed`."""

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> SnapshotWriter:
        """A writer. With `replaces_log` (a snapshot from the leader) its commit drops the whole log, which goes on at
        meta.index + 1. That is atomic: after a crash there is either the old log and no snapshot, or the snapshot and
        an empty log. Raises `StorageFull`, and `DiskFailed`."""

    def open_snapshot(self, index: Index | None = None) -> SnapshotReader | None:
        """The snapshot at `index`, or the newest; None where there is none. The caller closes it. Raises
        `SnapshotDamaged`, and `DiskFailed`."""

    def clear_ambiguity(self) -> None:
        """The node has caught up past `Recovered.ambiguous_after`: forget it, durably. Until this is called, every
        `open` reports it again, so that a second crash does not hide what the first one may have lost. Raises
        `DiskFailed`."""

    def flush(self) -> None:
        """Called after 100 ms without an append, or after three seconds if the last append held only transient
        commands. Write down what would otherwise ride on the next append. Nothing depends on it. Raises `StorageFull`,
        and `DiskFailed`."""

    def usage(self) -> StorageUsage:
        """Of this moment. Cheap: called many times a second. It is also where a storage notices that its data are gone
        while nothing is written. Raises `DiskFailed`."""

    def close(self) -> None:
        """Flush and unlock. May be called twice, and after an error. After it every other call raises
        `StorageError`."""


@runtime_checkable
class Repairable(Protocol):
    """Optional power of a storage: damage is told instead of refused, and good entries can be put in its place. After
    an `open` that found damage, nothing but these, `read`, `save_hard_state`, snapshots and `close` is called."""

    def holding(self) -> Holding:
        """What is there, readable or not. Raises `DiskFailed`."""

    def mend(self, entries: Sequence[Entry]) -> None:
        """Good entries in the place of damaged ones, of the same index and term. Durable when all of a file's are
        there; nothing that is good is ever cut off. Raises `StorageFull`, and `DiskFailed`."""

    def cut(self, first: Index) -> None:
        """Entries from `first` on never were a majority's: drop them, durably. All damage before it is mended.
        Raises `DiskFailed`."""


class Scrubbed(NamedTuple):
    """One piece was read. `cursor` is where to go on, () at the end; `mended` says what was damaged and needs nobody's
    help: it was written again from memory, or removed because something newer stands for it."""

    cursor: tuple[int, ...]
    bytes: int
    mended: str = ""


@runtime_checkable
class Scrubbable(Protocol):
    """Optional power of a storage: what it holds can be read and compared with its checksums, a piece at a time."""

    def scrub(self, cursor: tuple[int, ...], max_bytes: int) -> Scrubbed:
        """From `cursor` on, () for the beginning, about `max_bytes`, from the disk itself where that is possible. A
        cursor stays good while the log grows and is trimmed. Raises `LogDamaged` and `SnapshotDamaged` for what is
        needed, `StorageFull` when there is no room to write something again, and `DiskFailed`."""


@runtime_checkable
class PeerStore(Protocol):
    """Required of a storage whose `durable` is True; no other has it. It keeps whom its node has met, so that a member
    that was wiped is known by its new incarnation. A storage that was just made has met nobody and takes no part."""

    def known_peers(self) -> KnownPeers:
        """What was remembered last. Allowed while the storage is damaged. Raises `DiskFailed`."""

    def save_known_peers(self, peers: KnownPeers) -> None:
        """Durable when it returns, as a whole. Allowed while the storage is damaged. Raises `StorageFull`, and
        `DiskFailed`."""


@runtime_checkable
class OnFilesystem(Protocol):
    """Optional power of a storage, for tests: it runs on a filesystem that it is given. With it the conformance suite
    can cut the power, fill the disk and let it fail. Without it the suite cannot tell whether the storage syncs."""

    @classmethod
    def on_filesystem(cls, context: StorageContext, filesystem: Any) -> Storage:
        """A storage that keeps all its files there; `disheap.testing.crashing_disk` has the methods. It is built with
        small files, so that a short test sees the storage begin and drop some."""
