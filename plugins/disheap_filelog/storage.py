"""Storage `file`: a log in segments, hard state, snapshots, in one directory of one group.

    lock                     held while open
    identity                 whose data these are (`owner`); written last, so a directory without it was never finished
    members                  the members that this node has met (`members`)
    meta                     term and vote (`meta`)
    log-<number>             segments (`segment`) of blocks (`blocks`) with their identities (`identities`)
    snapshot-<index>-<term>  snapshots (`snapshot`), two generations (`snapshot_files`)
    *.tmp                    not complete; removed at open

Owns the order in which these change, which is what makes them durable. Hard state is written before any block of its
term, and a block before its identity. A snapshot is written before the log it replaces is dropped, and a file before
its name. Refuses to know what entries mean, when to take a snapshot, and what to do about a failed disk (the node
stops).

Nothing is changed before the whole directory was read and found sound; so a directory that is refused is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap.errors import RESTORE, LogDamaged, StorageLocked
from disheap.interfaces import (
    Holding,
    Identity,
    Inspected,
    KnownPeers,
    LostSnapshot,
    Recovered,
    Scrubbed,
    StorageContext,
    StorageUsage,
    StoredIdentity,
)
from disheap.kernel.types import Entry, HardState, Index, SnapshotMeta, Term
from disheap.logs import get_logger
from disheap_filelog import opening, scrub
from disheap_filelog.filesystem import TEMPORARY, File, Filesystem, OsFilesystem
from disheap_filelog.guard import Guard
from disheap_filelog.segments import recovery, segment
from disheap_filelog.segments.log_files import LogFiles
from disheap_filelog.segments.recovery import ScanResult
from disheap_filelog.segments.segment import Segment
from disheap_filelog.segments.segment_repair import SegmentRepair
from disheap_filelog.settings import FileSettings
from disheap_filelog.small_files import members, meta, owner
from disheap_filelog.small_files.members import Members
from disheap_filelog.small_files.meta import Meta
from disheap_filelog.small_files.owner import Owner
from disheap_filelog.snapshots.snapshot import FileSnapshotReader, FileSnapshotWriter, Stored
from disheap_filelog.snapshots.snapshot_files import SnapshotFiles

ROTATE_SHARE = 8
"""A file of the log that is filled by this part is ended when a snapshot begins."""

_log = get_logger(__name__)


class FileStorage:
    """The storage `file`. Each method keeps the contract `disheap.interfaces.Storage`, which says what is durable when
    it returns."""

    name: ClassVar[str] = "file"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = FileSettings
    durable: ClassVar[bool] = True

    def __init__(self, settings: FileSettings, context: StorageContext, filesystem: Filesystem | None = None) -> None:
        self._settings, self._context = settings, context
        self._directory = context.directory.rstrip("/") or "/"
        self._filesystem: Filesystem = filesystem or OsFilesystem()
        self._guard = Guard(self._directory)
        self._lock: File | None = None
        self._metas: list[Meta] = []  # open: one, or none
        self._owner: Owner
        self._meta: Meta
        self._members: Members
        self._has_members = False
        self._snapshots: SnapshotFiles
        self._log = LogFiles(self._filesystem, self._directory, context, settings, self._guard)
        self._lost: LostSnapshot | None = None
        self._segment_repair: SegmentRepair
        self._is_inspected = False  # and so nothing is written
        self._is_writable = False  # nothing is damaged, and the files are as they should be: they may be written to
        self._writers: list[FileSnapshotWriter] = []
        self._writers_begun = 0

    @classmethod
    def on_filesystem(cls, context: StorageContext, filesystem: Filesystem) -> FileStorage:
        """A storage over another filesystem, with small segments and blocks, for tests."""
        return cls(FileSettings(segment_bytes=64 << 10, block_bytes=4 << 10), context, filesystem)

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        """Takes the lock, reads all files, and repairs what this node may repair by itself."""
        if self._lock is not None:
            raise StorageLocked(f"{self._directory} is open already; close it first")
        self._guard.opened()
        try:
            with self._guard:
                return self._open(identity, tail_bytes, alone)
        except BaseException:
            self._release()
            raise

    def save_hard_state(self, state: HardState) -> None:
        """Writes term and vote into both slots of `meta`, with a sync for each."""
        with self._guard:
            self._meta.save_hard_state(state)
            self._check_in_place(self._meta)

    def append(self, entries: Sequence[Entry]) -> None:
        """Splits the entries into blocks and writes them with one sync. Begins a new segment if this one is full."""
        with self._guard:
            if not entries:
                return
            self._log.append(entries, self._meta.state.hard_state.term)
            self._check_in_place(self._log.active)

    def preallocate(self) -> None:
        """Writes zeros behind the last block, with one sync, if the next appends are likely to need the space."""
        with self._guard:
            if self._is_writable:
                self._log.preallocate()

    def append_on_loop(self, entries: Sequence[Entry]) -> None:
        """Calls `append`: nothing here is bound to one thread."""
        self.append(entries)

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Decodes the blocks that hold the entries. Superseded entries are never returned."""
        with self._guard:
            return self._log.read(first, last, max_bytes)

    def compact(self, first_index: Index) -> Index:
        """Drops only entries that the newest snapshot replaces. The segment being written stays."""
        with self._guard:
            return self._log.drop_entries_before(Index(min(first_index, self._snapshots.index + 1)))

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> FileSnapshotWriter:
        """Begins a snapshot under a temporary name."""

        def oldest_segment() -> int:
            return self._log.active.number + 1 if replaces_log else 0

        def committed(stored: Stored) -> None:
            self._snapshots.add(stored)
            if replaces_log:
                self._log.replace_by(stored.meta, stored.oldest_segment)
            self._check_in_place()
            self._log.count_bytes_after(self._snapshots.index)

        with self._guard:
            self._check_in_place()
            share = self._settings.segment_bytes // ROTATE_SHARE
            if not replaces_log and self._is_writable and self._log.active.holds(share):
                self._log.rotate()  # so that what the snapshot stands for is in files that can go
            self._writers_begun += 1
            writer = FileSnapshotWriter(
                self._filesystem, self._guard, self._directory, self._context.codec, self._context.codec_name, meta,
                self._writers_begun, oldest_segment, committed,
            )  # fmt: skip
            self._writers = [*(known for known in self._writers if not known.is_done), writer]
            return writer

    def open_snapshot(self, index: Index | None = None) -> FileSnapshotReader | None:
        """Opens the snapshot at `index`, or the newest."""
        with self._guard:
            return self._snapshots.open(index)

    def clear_ambiguity(self) -> None:
        """The end of the log is certain from now on. Durable when it returns."""
        with self._guard:
            self._meta.save_ambiguity(None)

    def memory_bytes(self) -> int:
        """An estimate of the memory for the index of the log."""
        return self._log.index.memory_bytes()

    def holding(self) -> Holding:
        """What is here and what is missing, for the other nodes."""
        with self._guard:
            index, newest, state = self._log.index, self._snapshots.meta, self._meta.state
            return Holding(
                state.hard_state, newest.index if newest else Index(0), newest.term if newest else Term(0),
                index.first, index.last, tuple(index.runs), self._log.damage(), state.ambiguous_after is not None,
                self._lost,
            )  # fmt: skip

    def mend(self, entries: Sequence[Entry]) -> None:
        """Puts entries of another node in the place of damaged ones."""
        with self._guard:
            self._segment_repair.put(entries)
            self._log.forget_decoded()

    def cut(self, first: Index) -> None:
        """During the cut the end of the log is marked as ambiguous. After a crash, superseded entries may be read
        again."""
        with self._guard:
            ambiguity = self._meta.state.ambiguous_after
            self._meta.save_ambiguity(Index(min(first - 1, ambiguity if ambiguity is not None else first)))
            self._segment_repair.cut(first)
            self._meta.save_ambiguity(ambiguity)
            self._log.forget_decoded()

    def known_peers(self) -> KnownPeers:
        """The members that this node has met."""
        with self._guard:
            return self._members.state

    def save_known_peers(self, peers: KnownPeers) -> None:
        """Replaces the members that this node has met. Durable when it returns."""
        with self._guard:
            self._check_in_place()
            self._members.save(peers)

    def stored(self) -> StoredIdentity | None:
        """Reads the files `identity` and `members`."""
        try:
            names = opening.list_directory(self._filesystem, self._directory)
            if owner.NAME not in names:
                return None
            peers = Members.load(self._filesystem, self._directory, names).state
            return StoredIdentity(owner.read(self._filesystem, self._directory), peers)
        except OSError as error:
            raise self._guard.fail(error) from error

    def scrub(self, cursor: tuple[int, ...], max_bytes: int) -> Scrubbed:
        """Reads the next `max_bytes` of what is stored, and checks them."""
        with self._guard:
            self._check_in_place(self._meta)  # else a small file would be written anew where all are gone
            small: list[scrub.Small] = [self._meta, self._members, self._owner, *self._log.segments]
            return scrub.step(self._log.index, self._snapshots, small, cursor, max_bytes)

    def flush(self) -> None:
        """Writes the identity of the last block, so that a restart is certain of it."""
        with self._guard:
            self._log.active.identify()

    def usage(self) -> StorageUsage:
        """The node asks once a second. So a file that is gone is noticed here while nothing is written."""
        with self._guard:
            self._check_all_in_place()
            free_bytes = self._filesystem.free_bytes(self._directory)
            return StorageUsage(
                self._log.total_bytes(), self._snapshots.usage(), self._log.bytes_since_snapshot, free_bytes
            )

    def inspect(self) -> Inspected | None:
        """Takes the lock and reads all files. Writes none, but for `lock` if it is missing."""
        if self._lock is not None:
            raise StorageLocked(f"{self._directory} is open already; close it first")
        self._guard.opened()
        try:
            with self._guard:
                return self._inspect()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Writes the identity of the last block, closes all files and frees the lock."""
        if self._lock is None:
            return
        try:
            if not (self._guard.has_failed or self._is_inspected):
                with self._guard:
                    self._log.active.identify()
        finally:
            self._release()

    # --- opening ---

    def _open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        self._lock = opening.lock_directory(self._filesystem, self._directory)
        self._guard.locked(self._lock)
        names = self._filesystem.list(self._directory)
        fresh = owner.NAME not in names
        if fresh:
            self._initialise(identity, names)
            names = self._filesystem.list(self._directory)
        self._owner = Owner(self._filesystem, self._directory)
        own = self._owner.identity
        owner.check(own, identity, self._directory)
        found = self._load(names, alone)
        self._filesystem.sync_directory(self._directory)  # the last run may have ended between a rename and its sync
        self._meta.repair()  # or in the middle of a save: others will decide by what is told of it, damaged or not
        self._settle_tail(found, alone)
        if self._lost or self._log.index.damaged(0):
            return self._recovered(own, fresh, -1)
        self._repair_files(found, names)
        return self._recovered(own, fresh, tail_bytes)

    def _inspect(self) -> Inspected | None:
        if owner.NAME not in opening.list_directory(self._filesystem, self._directory):
            self._guard.closed()
            return None
        self._lock = opening.lock_directory(self._filesystem, self._directory)
        self._guard.locked(self._lock)
        self._is_inspected = True
        names = self._filesystem.list(self._directory)
        self._owner = Owner(self._filesystem, self._directory)
        found = self._load(names, alone=False)
        index, snapshot = self._log.index, self._snapshots.meta
        last_term = index.term_at(index.last) or (snapshot.term if snapshot else Term(0))
        return Inspected(
            self._owner.identity, self._meta.state.hard_state, snapshot, index.first, index.last,
            tuple(item for item in index.memberships if item[0] > self._snapshots.index), Term(last_term),
            self._log.damage(), self._lost, self._torn(found), self._snapshots.stored(),
            self._members.state.is_removed,
        )  # fmt: skip

    def _torn(self, found: ScanResult) -> str:
        if found.tail:
            return f"{found.tail.path}, byte {found.tail.offset}: {found.tail.reason}"
        after = self._meta.state.ambiguous_after
        return f"an earlier start found the end of the log torn behind entry {after}" if after is not None else ""

    def _initialise(self, identity: Identity, names: Sequence[str]) -> None:
        """Makes the files, the identity last. Files without entries that an earlier attempt left are made anew."""
        owner.check_unused(self._filesystem, self._directory, names, segment.data_start(self._log.slots))
        Meta.create(self._filesystem, self._directory)
        members.write(self._filesystem, self._directory, KnownPeers(False, ()))
        self._log.create_segment(1, Index(1), None).close()
        owner.write(self._filesystem, self._directory, identity)

    def _load(self, names: Sequence[str], alone: bool) -> ScanResult:
        """Reads everything and changes nothing."""
        if meta.NAME not in names:
            raise LogDamaged(
                f"{self._directory}/{meta.NAME}", 0, "the file with the term and the vote is missing",
                f"Without them the node could vote twice in one term. {RESTORE}",
            )  # fmt: skip
        self._members = Members.load(self._filesystem, self._directory, names)
        self._meta = Meta.load(self._filesystem, self._directory)
        self._metas.append(self._meta)
        context = self._context
        self._snapshots = SnapshotFiles(
            self._filesystem, self._guard, self._directory, context.codec, context.codec_name, names
        )  # fmt: skip
        oldest = self._snapshots.oldest_segment
        found = recovery.scan(
            self._filesystem, self._directory, context.codec, context.codec_name, names, oldest, salvage=not alone
        )
        self._log.opened(found)
        self._lost = opening.lost_snapshot(self._snapshots, found, alone)
        opening.check_log(self._directory, self._snapshots, found, oldest, self._lost)
        self._log.index.forget_damaged(self._snapshots.index)
        self._segment_repair = SegmentRepair(
            self._filesystem, self._directory, context, self._log.segments, self._log.index
        )  # fmt: skip
        return found

    def _repair_files(self, found: ScanResult, names: Sequence[str]) -> None:
        """The directory is sound. Repairs and prepares its files for writing."""
        leftovers = [name for name in names if name.endswith(TEMPORARY)] + found.void
        for name in leftovers:
            self._filesystem.remove(f"{self._directory}/{name}")
        if leftovers:
            self._filesystem.sync_directory(self._directory)
        self._members.repair()
        if found.unidentified:
            self._log.active.rewrite_unidentified(found.unidentified)
        segments = self._log.segments
        if self._log.index.last < self._snapshots.index or not segments:
            number = self._log.active.number + 1 if segments else self._snapshots.oldest_segment
            self._log.begin_new_log(Index(self._snapshots.index + 1), number)
        elif self._log.active.count or found.tail or not self._log.active.can_be_continued:
            self._log.rotate(keeps_tail=found.tail is not None)
        elif len(segments) > 1 and not segments[-2].is_sealed():
            segments[-2].seal(self._log.active.number)
        self._log.count_bytes_after(self._snapshots.index)
        self._is_writable = True

    def _settle_tail(self, found: ScanResult, alone: bool) -> None:
        """Records an ambiguous end before anything is written behind it, and before its file is repaired."""
        after = self._meta.state.ambiguous_after
        if found.tail:
            after = Index(max(after or 0, self._log.index.last, self._snapshots.index))
            _log.warning(
                "the last block of the log is torn or lost",
                file=found.tail.path, offset=found.tail.offset, bytes=found.tail.size, reason=found.tail.reason,
                last_index=self._log.index.last, is_dropped=alone,
            )  # fmt: skip
        self._meta.save_ambiguity(None if alone else after)

    def _recovered(self, own: Identity, fresh: bool, tail_bytes: int) -> Recovered:
        return Recovered(
            identity=own,
            fresh=fresh,
            hard_state=self._meta.state.hard_state,
            snapshot=self._snapshots.meta,
            first_index=self._log.index.first,
            last_index=self._log.index.last,
            runs=tuple(self._log.index.runs),
            memberships=tuple(item for item in self._log.index.memberships if item[0] > self._snapshots.index),
            tail=self._log.tail(tail_bytes) if tail_bytes >= 0 else (),
            ambiguous_after=self._meta.state.ambiguous_after,
            damaged=self._log.damage(),
            lost_snapshot=self._lost,
        )

    # --- whether the files are still there ---

    def _check_in_place(self, *files: Segment | Meta) -> None:
        """Raises `StorageGone` if the directory or one of these files was removed. Called after each write, before it
        is confirmed, and before a file is made (`Guard.check_directory`)."""
        self._guard.check_directory()
        for file in files:
            if not file.is_linked():
                raise self._guard.lost(file.path)

    def _check_all_in_place(self) -> None:
        self._check_in_place(self._meta, *self._log.segments)
        names = frozenset(self._filesystem.list(self._directory))
        self._has_members = self._has_members or members.NAME in names  # a directory of an earlier release has none
        small = (owner.NAME, members.NAME) if self._has_members else (owner.NAME,)
        for name in (*small, *self._snapshots.names):
            if name not in names:
                raise self._guard.lost(f"{self._directory}/{name}")

    # --- closing ---

    def _release(self) -> None:
        """Closes every file and unlocks, whatever happened before."""
        files: list[Segment | Meta | FileSnapshotWriter | File | None]
        files = [*self._log.take_segments(), *self._writers, *self._metas, self._lock]
        self._writers, self._metas, self._lock = [], [], None
        self._is_writable = self._is_inspected = False
        self._guard.closed()
        failure: OSError | None = None
        for file in files:
            try:
                if file is not None:
                    file.close()
            except OSError as error:
                failure = failure or error
        if failure and not self._guard.has_failed:
            raise self._guard.fail(failure) from failure


if TYPE_CHECKING:
    from disheap.interfaces import (
        IdentityStore,
        Inspectable,
        LoopAppending,
        MemoryEstimating,
        OnFilesystem,
        PeerStore,
        Preallocating,
        Repairable,
        Scrubbable,
        Storage,
    )

    _fits: type[Storage] = FileStorage
    _repairs: type[Repairable] = FileStorage
    _scrubs: type[Scrubbable] = FileStorage
    _inspects: type[Inspectable] = FileStorage
    _remembers: type[PeerStore] = FileStorage
    _identifies: type[IdentityStore] = FileStorage
    _estimates: type[MemoryEstimating] = FileStorage
    _appends: type[LoopAppending] = FileStorage
    _preallocates: type[Preallocating] = FileStorage
    _runs_on: type[OnFilesystem] = FileStorage
