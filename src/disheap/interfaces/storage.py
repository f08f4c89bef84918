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
    """The owner of the data. `incarnation` is drawn when the data directory is made, and never again."""

    cluster_id: str
    node_id: int
    name: str
    incarnation: int


class KnownPeers(NamedTuple):
    """The members that a node has met, and whether it has taken part since its directory was made. `voters` are those
    of the newest membership that was appended to the log, () before there was one. They are saved before the append. So
    a log whose end is torn never hides that there are other voters. `listed` is how many members the static list had
    with which the directory was made, 0 without one."""

    takes_part: bool
    incarnations: tuple[tuple[int, int], ...]  # (member, incarnation), by member
    voters: tuple[int, ...] = ()  # in ascending order
    is_removed: bool = False  # the cluster has removed this node: it takes no part any more
    listed: int = 0


class StoredIdentity(NamedTuple):
    """What a storage says of itself before it is opened."""

    identity: Identity
    peers: KnownPeers


class Damage(NamedTuple):
    """Entries that were durable, or may have been, and cannot be read. They are of one term, in one place of one
    file."""

    first: Index
    last: Index
    term: Term
    file: str
    offset: int  # bytes


class LostSnapshot(NamedTuple):
    """No readable snapshot joins the log. A snapshot at `needed` or later replaces it."""

    needed: Index
    reason: str


class Recovered(NamedTuple):
    """What `Storage.open` found. The fields are those of `kernel.types.Restored`. `snapshot` is None if there is
    none."""

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
        """Whether the storage is damaged. Then `tail` and `memberships` mean nothing. The storage accepts no entries
        before it is repaired and opened again."""
        return bool(self.damaged) or self.lost_snapshot is not None


class Holding(NamedTuple):
    """What a node's storage holds, readable or not. The terms of damaged entries are known too."""

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
        """Whether anything is damaged or lost."""
        return bool(self.damaged) or self.lost_snapshot is not None

    def term_at(self, index: int) -> Term | None:
        """The term of the entry at `index`. None if the log does not reach it."""
        if not self.first <= index <= self.last:
            return None
        return self.runs[bisect.bisect_right(self.runs, index, key=lambda run: run.first) - 1].term

    def is_damaged_at(self, index: int) -> bool:
        """Whether the entry at `index` is damaged."""
        return any(place.first <= index <= place.last for place in self.damaged)


class SnapshotWriter(Protocol):
    """A snapshot that is being written. Nobody sees it before `commit` returns. Appends may come between its calls."""

    def write(self, chunk: bytes) -> None:
        """Appends raw bytes, at most 1 MiB. The work is bounded: the writer syncs from time to time, so that no call
        waits long. Raises `DiskFailed`, and `StorageFull`. After `StorageFull` only `abort` is called."""

    def commit(self) -> None:
        """Contents and name are durable when it returns. Older snapshots beyond two are removed. Raises `StorageFull`,
        and `DiskFailed`."""

    def abort(self) -> None:
        """Removes everything that was written. May be called after a failed `write` or `commit`."""


class SnapshotReader(Protocol):
    """A snapshot that is being read. It can be read to its end although newer snapshots remove it meanwhile."""

    meta: SnapshotMeta

    def read(self, offset: int, size: int) -> bytes:
        """Returns exactly `size` raw bytes from raw `offset`. Returns fewer only at the end of the snapshot, and b""
        behind it. Sequential offsets are cheap. Raises `SnapshotDamaged`, and `DiskFailed`."""

    def close(self) -> None:
        """May be called twice. Called before the storage is closed."""


@runtime_checkable
class Rereadable(Protocol):
    """Optional power of a `SnapshotWriter`: a leader's snapshot is read back before it replaces a good log. Without it,
    a node that receives an unreadable snapshot ends, and has neither."""

    def reread(self) -> SnapshotReader:
        """Returns a reader of what was written, before `commit`. Nothing is written until the reader is closed."""


class StorageUsage(NamedTuple):
    """How much a storage holds, and how much space is free."""

    log_bytes: int  # on disk, all segments
    snapshot_bytes: int  # on disk, all snapshots
    log_bytes_since_snapshot: int  # on disk, for deciding when the next is due
    free_bytes: int | None = None  # room left where it is kept; None if that is not bounded by a disk


class StorageContext(NamedTuple):
    """What a storage is built with. `directory` is the group's own: `<data>/groups/<group>`. A storage without files
    ignores it."""

    directory: str
    codec: Codec
    codec_name: str
    clock: Clock
    random: random.Random


class Storage(Plugin, Protocol):
    """Keeps the log, the term and the vote, and the snapshots of one group. Blocking, and called from one thread at a
    time. The caller owns what it returns.

    A write that finds no free space raises `StorageFull`. Nothing of it counts, and the storage continues. Any other
    error of a write, a sync or a close is a `DiskFailed`. After that every call but `close` raises `DiskFailed`, and
    nothing more is written. A failed sync is never tried again. Every block passes through the codec of the context.
    The preamble of a stream is kept with it.

    The data of some storages can be taken away while they are open, for example when files are removed or moved. Such a
    storage raises `StorageGone`, a `DiskFailed`. It raises it from `append`, `save_hard_state` and the commit of a
    snapshot, instead of confirming them, and from `usage`.
    """

    durable: ClassVar[bool]  # survives the end of the process; then it is `PeerStore`, too

    def __init__(self, settings: Any, context: StorageContext) -> None: ...

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        """Locks, checks and recovers. An empty storage takes `identity` as its own, durably. The given incarnation is
        ignored if one is stored. `tail_bytes` bounds the data of `Recovered.tail`. `alone` says that the cluster has no
        other voter. Then an ambiguous last block is dropped, and damage is refused.

        Raises `StorageLocked` when it is already open, here or in another process. Raises `WrongDirectory` when
        cluster, node id or name differ from those stored, and `WrongCodec` when another codec wrote it. Raises
        `LogDamaged` and `SnapshotDamaged` for damage that `Recovered` does not report. A refused storage is unchanged.
        Raises `StorageFull`, and `DiskFailed`."""

    def save_hard_state(self, state: HardState) -> None:
        """Saves term and vote. Durable when it returns. Survives any truncation or loss of log files. Called before
        entries of its term are appended. On a full disk it has the space that it needs, or raises `StorageFull`. Raises
        `DiskFailed`."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Appends contiguous entries. All are durable when it returns. The first index is at most last_index + 1. If it
        is less, the stored entries from there on are superseded, and never come back. A crash inside the call leaves
        the first entries of it, or none.

        Raises `StorageFull` when there is no free space. Then nothing of the call counts, everything before it is
        unchanged, and the same call may succeed later. Raises `DiskFailed`."""

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Returns entries from `first` on, in order, up to `last` and `max_bytes` of data, but at least one. Returns ()
        if the log does not hold `first`. The caller owns them. Raises `LogDamaged`, and `DiskFailed`."""

    def compact(self, first_index: Index) -> Index:
        """Entries below `first_index` are no longer needed. The storage may drop them at any time. Returns the oldest
        index that can still be read, at most `first_index`. Called behind a durable snapshot. Raises `DiskFailed`."""

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> SnapshotWriter:
        """Returns a writer. With `replaces_log` (a snapshot from the leader) its commit drops the whole log, which
        continues at meta.index + 1. That is atomic. After a crash there is either the old log and no snapshot, or the
        snapshot and an empty log. Raises `StorageFull`, and `DiskFailed`."""

    def open_snapshot(self, index: Index | None = None) -> SnapshotReader | None:
        """Opens the snapshot at `index`, or the newest. Returns None if there is none. The caller closes it. Raises
        `SnapshotDamaged`, and `DiskFailed`."""

    def clear_ambiguity(self) -> None:
        """The node has caught up past `Recovered.ambiguous_after`, so the storage forgets it, durably. Until this call
        every `open` reports it again. So a second crash does not hide what the first one may have lost. Raises
        `DiskFailed`."""

    def flush(self) -> None:
        """Writes down what would otherwise be written with the next append. Called after 100 ms without an append, or
        after three seconds if the last append held only transient commands. Nothing depends on it. Raises
        `StorageFull`, and `DiskFailed`."""

    def usage(self) -> StorageUsage:
        """The usage at this moment. Cheap, because it is called many times a second. Here a storage also notices that
        its data are gone while nothing is written. Raises `DiskFailed`."""

    def close(self) -> None:
        """Flushes and unlocks. May be called twice, and after an error. Every other call after it raises
        `StorageError`."""


@runtime_checkable
class Repairable(Protocol):
    """Optional power of a storage: it reports damage instead of refusing it, and good entries can replace damaged ones.
    After an `open` that found damage, only these methods, `read`, `save_hard_state`, snapshots and `close` are
    called."""

    def holding(self) -> Holding:
        """What is there, readable or not. Raises `DiskFailed`."""

    def mend(self, entries: Sequence[Entry]) -> None:
        """Replaces damaged entries by good ones of the same index and term. Durable when all entries of a file are
        there. Good entries are never cut off. Raises `StorageFull`, and `DiskFailed`."""

    def cut(self, first: Index) -> None:
        """Drops the entries from `first` on, durably, because they never were a majority's. All damage before them is
        mended. Raises `DiskFailed`."""


@runtime_checkable
class Preallocating(Protocol):
    """Optional power of a storage: it allocates space before appends need it, so that an append changes no metadata of
    the filesystem. No append depends on it."""

    def preallocate(self) -> None:
        """Allocates space if the next appends are likely to need it. Called about once a second between other calls,
        and not while the disk is short of space. It takes a few milliseconds at most. A full disk is no error here:
        nothing is allocated then. Raises `DiskFailed`."""


@runtime_checkable
class LoopAppending(Protocol):
    """Optional power of a storage: entries may be appended on the loop's thread, too. The node does so for a single
    command while the last writes were quick. It saves the time of the way to the disk's thread and back."""

    def append_on_loop(self, entries: Sequence[Entry]) -> None:
        """`append`, with everything that it promises. Called on the loop's thread while no other call is under way.
        So the storage must not be bound to one thread."""


class Scrubbed(NamedTuple):
    """The result of reading one piece. `cursor` says where to continue, () at the end. `mended` names damage that the
    storage has repaired itself. It wrote the data again from memory, or removed data that something newer replaces."""

    cursor: tuple[int, ...]
    bytes: int
    mended: str = ""


@runtime_checkable
class Scrubbable(Protocol):
    """Optional power of a storage: its data can be read and compared with their checksums, one piece at a time."""

    def scrub(self, cursor: tuple[int, ...], max_bytes: int) -> Scrubbed:
        """Reads about `max_bytes` from `cursor` on, () for the beginning, from the disk itself if possible. A cursor
        stays valid while the log grows and is trimmed. Raises `LogDamaged` and `SnapshotDamaged` for data that is
        needed. Raises `StorageFull` when there is no space to write something again, and `DiskFailed`."""


class Inspected(NamedTuple):
    """What `inspect` found. `torn` says what is wrong with the end of the log; "" if nothing is. Entries may have been
    lost there. `snapshots` are all that are stored, the oldest first, those that cannot be read included. `snapshot` is
    the newest one that can. `is_removed` is that of the known peers."""

    identity: Identity
    hard_state: HardState
    snapshot: SnapshotMeta | None
    first_index: Index
    last_index: Index  # first_index - 1 when the log is empty
    memberships: tuple[tuple[Index, bytes], ...]  # of the MEMBERSHIP entries behind the snapshot that can be read
    last_term: Term  # of the last entry, or of the snapshot if there is none
    damaged: tuple[Damage, ...]  # by index
    lost_snapshot: LostSnapshot | None
    torn: str
    snapshots: tuple[tuple[Index, Term], ...] = ()
    is_removed: bool = False


@runtime_checkable
class Inspectable(Protocol):
    """Optional power of a storage: an operator looks at the data of a node that does not run, and nothing of them
    changes. `open` would repair what it finds. Without this power a directory cannot be verified, and a cluster cannot
    be recovered from it."""

    def inspect(self) -> Inspected | None:
        """Locks the data, reads everything that is needed and compares it with its checksums. Changes nothing, now and
        at `close`. Called instead of `open`. Afterwards only `read`, `open_snapshot` and `close` are called. Returns
        None if the storage is empty.

        Raises `StorageLocked` and `WrongCodec` as `open` does, `VersionUnsupported` for a newer format, and
        `LogDamaged` and `SnapshotDamaged` for damage that `Inspected` does not report. Raises `DiskFailed`."""


@runtime_checkable
class PeerStore(Protocol):
    """Required of a storage whose `durable` is True. No other storage has it. It keeps the members that its node has
    met, so that a wiped member is recognised by its new incarnation. A new storage has met no members and takes no
    part."""

    def known_peers(self) -> KnownPeers:
        """What was saved last. Allowed while the storage is damaged. Raises `DiskFailed`."""

    def save_known_peers(self, peers: KnownPeers) -> None:
        """Replaces what was saved before, as a whole. Durable when it returns. Allowed while the storage is damaged.
        Raises `StorageFull`, and `DiskFailed`."""


@runtime_checkable
class IdentityStore(Protocol):
    """Required of a durable storage for a node that founds a cluster of its own (`bootstrap`) or joins one. Such a node
    learns from its storage who it is. Without it, a node can be a member of a static list only."""

    def stored(self) -> StoredIdentity | None:
        """What an earlier run has stored; None if there is nothing. Called before `open`, without a lock. Changes
        nothing. Raises `LogDamaged` if it cannot be read, and `DiskFailed`."""


@runtime_checkable
class OnFilesystem(Protocol):
    """Optional power of a storage, for tests: it runs on a given filesystem. With it the conformance suite can cut the
    power, fill the disk and make it fail. Without it the suite cannot tell whether the storage syncs."""

    @classmethod
    def on_filesystem(cls, context: StorageContext, filesystem: Any) -> Storage:
        """Returns a storage that keeps all its files on `filesystem`. `disheap.testing.crashing_disk` has the methods.
        It is built with small files, so that a short test sees the storage begin and drop some."""
