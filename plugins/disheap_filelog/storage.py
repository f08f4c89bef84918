"""Storage `file`: a log in segments, hard state, snapshots, in one directory of one group.

    lock                     held while open
    identity                 whose data these are (`owner`); written last, so a directory without it was never finished
    members                  whom this node has met (`members`)
    meta                     term and vote (`meta`)
    log-<number>             segments (`segment`) of blocks (`blocks`) with their identities (`identities`)
    snapshot-<index>-<term>  snapshots (`snapshot`), two generations (`shelf`)
    *.tmp                    not true yet; removed at open

Owns the order in which these change, which is what makes them durable. Hard state is written before any block of its
term, and a block before its identity. A snapshot is written before the log it replaces is dropped, and a file before
its name. Refuses to know what entries mean, when to take a snapshot, and what to do about a failed disk (the node
stops).

Nothing is changed before the whole directory was read and found sound; so a directory that is refused is as it was.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap.errors import RESTORE, LogDamaged, StorageFull, StorageLocked, WrongDirectory
from disheap.interfaces import (
    Damage,
    Holding,
    Identity,
    KnownPeers,
    LostSnapshot,
    Recovered,
    Scrubbed,
    StorageContext,
    StorageUsage,
)
from disheap.kernel.types import Entry, HardState, Index, SnapshotMeta, Term
from disheap.logs import get_logger
from disheap_filelog import blocks, members, meta, owner, recovery, scrub, segment
from disheap_filelog.blocks import HAS_MEMBERSHIP
from disheap_filelog.filesystem import TEMPORARY, File, Filesystem, OsFilesystem
from disheap_filelog.guard import Guard
from disheap_filelog.index import Located, LogIndex
from disheap_filelog.members import Members
from disheap_filelog.mending import Mending
from disheap_filelog.meta import Meta
from disheap_filelog.owner import Owner
from disheap_filelog.recovery import Found
from disheap_filelog.segment import Head, Segment
from disheap_filelog.settings import FileSettings
from disheap_filelog.shelf import Shelf
from disheap_filelog.snapshot import FileSnapshotReader, FileSnapshotWriter, Stored

LOCK = "lock"
ROTATE_SHARE = 8
"""A file of the log that is filled by this part is ended when a snapshot begins."""
UNUSABLE = frozenset(
    {errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
)
"""Why a path is no place for data, which is another thing than a disk that fails."""
READ_BLOCKS = 8
"""Blocks kept decoded: one for each of a few followers that catch up in sequence."""

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
        self._shelf: Shelf
        self._segments: list[Segment] = []
        self._index = LogIndex()
        self._append = 0  # number of the last
        self._bytes_since_snapshot = 0
        self._lost: LostSnapshot | None = None
        self._mending: Mending
        self._is_right = False  # nothing is damaged, and the files are as they should be: they may be written to
        self._writers: list[FileSnapshotWriter] = []
        self._writers_begun = 0
        self._decoded: OrderedDict[tuple[int, int], tuple[Entry, ...]] = OrderedDict()

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
            self._check(entries)
            groups = blocks.split(entries, self._settings.block_bytes)
            slots = segment.slots_for(self._settings.segment_bytes)
            for start in range(0, len(groups), slots):
                self._append_groups(groups[start : start + slots])
            self._check_in_place(self._segments[-1])

    def append_on_loop(self, entries: Sequence[Entry]) -> None:
        """Calls `append`: nothing here is bound to one thread."""
        self.append(entries)

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Decodes the blocks that hold the entries. Superseded entries are never returned."""
        with self._guard:
            entries: list[Entry] = []
            index, size, last = int(first), 0, min(last, self._index.last)
            while self._index.first <= index <= last:
                located, live_last = self._index.find(index)
                for entry in self._decode(located)[index - located.block.first :]:
                    size += len(entry.data)
                    if entry.index > min(live_last, last):
                        break
                    if entries and size > max_bytes:
                        return tuple(entries)
                    entries.append(entry)
                index = live_last + 1
            return tuple(entries)

    def compact(self, first_index: Index) -> Index:
        """Only what the newest snapshot stands for, whatever is asked; the segment being written stays."""
        with self._guard:
            needed = self._index.oldest_needed(Index(min(first_index, self._shelf.index + 1))) or self._segments[-1]
            if needed is not self._segments[0]:
                self._drop_before(needed)
                self._index.forget_before(needed)
            return self._index.first

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> FileSnapshotWriter:
        """Begins a snapshot under a temporary name."""

        def oldest_segment() -> int:
            return self._segments[-1].number + 1 if replaces_log else 0

        def committed(stored: Stored) -> None:
            self._shelf.add(stored)
            if replaces_log:
                self._replace_log(stored)
            self._check_in_place()
            self._bytes_since_snapshot = self._index.bytes_after(self._shelf.index)

        with self._guard:
            self._check_in_place()
            share = self._settings.segment_bytes // ROTATE_SHARE
            if not replaces_log and self._is_right and self._segments[-1].holds(share):
                self._rotate()  # so that what the snapshot stands for is in files that can go
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
            return self._shelf.open(index)

    def clear_ambiguity(self) -> None:
        """The end of the log is certain from now on. Durable when it returns."""
        with self._guard:
            self._meta.save_ambiguity(None)

    def memory_bytes(self) -> int:
        """An estimate of the memory for the index of the log."""
        return self._index.memory_bytes()

    def holding(self) -> Holding:
        """What is here and what is missing, for the other nodes."""
        with self._guard:
            index, newest, state = self._index, self._shelf.meta, self._meta.state
            return Holding(
                state.hard_state, newest.index if newest else Index(0), newest.term if newest else Term(0),
                index.first, index.last, tuple(index.runs), self._damage(), state.ambiguous_after is not None,
                self._lost,
            )  # fmt: skip

    def mend(self, entries: Sequence[Entry]) -> None:
        """Puts entries of another node in the place of damaged ones."""
        with self._guard:
            self._mending.put(entries)
            self._decoded.clear()

    def cut(self, first: Index) -> None:
        """While it lasts the end of the log is ambiguous: what was superseded before may show again after a crash."""
        with self._guard:
            ambiguity = self._meta.state.ambiguous_after
            self._meta.save_ambiguity(Index(min(first - 1, ambiguity if ambiguity is not None else first)))
            self._mending.cut(first)
            self._meta.save_ambiguity(ambiguity)
            self._decoded.clear()

    def known_peers(self) -> KnownPeers:
        """The members that this node has met."""
        with self._guard:
            return self._members.state

    def save_known_peers(self, peers: KnownPeers) -> None:
        """Replaces the members that this node has met. Durable when it returns."""
        with self._guard:
            self._check_in_place()
            self._members.save(peers)

    def scrub(self, cursor: tuple[int, ...], max_bytes: int) -> Scrubbed:
        """Reads the next `max_bytes` of what is stored, and checks them."""
        with self._guard:
            self._check_in_place(self._meta)  # else a small file would be written anew where all are gone
            small: list[scrub.Small] = [self._meta, self._members, self._owner, *self._segments]
            return scrub.step(self._index, self._shelf, small, cursor, max_bytes)

    def flush(self) -> None:
        """Writes the identity of the last block, so that a restart is certain of it."""
        with self._guard:
            self._segments[-1].identify()

    def usage(self) -> StorageUsage:
        """The node asks once a second. So a file that is gone is noticed here while nothing is written."""
        with self._guard:
            self._check_all_in_place()
            log_bytes = sum(segment.end for segment in self._segments)
            free_bytes = self._filesystem.free_bytes(self._directory)
            return StorageUsage(log_bytes, self._shelf.usage(), self._bytes_since_snapshot, free_bytes)

    def close(self) -> None:
        """Writes the identity of the last block, closes all files and frees the lock."""
        if self._lock is None:
            return
        try:
            if not self._guard.has_failed:
                with self._guard:
                    self._segments[-1].identify()
        finally:
            self._release()

    # --- opening ---

    def _open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        try:
            self._filesystem.make_directory(self._directory)
            self._lock = self._filesystem.lock(f"{self._directory}/{LOCK}")
        except OSError as error:
            if error.errno not in UNUSABLE:
                raise
            raise WrongDirectory(
                f"{self._directory} cannot be this node's data directory ({error.strerror}). Point data_dir (--data) "
                "at a directory that this user may make and write to"
            ) from error
        if self._lock is None:
            raise StorageLocked(
                f"{self._directory} is in use by another process (it holds {self._directory}/{LOCK}). Stop that node "
                "first, or give this one a data_dir of its own"
            )
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
        if self._lost or self._index.damaged(0):
            return self._recovered(own, fresh, -1)
        self._put_right(found, names)
        return self._recovered(own, fresh, tail_bytes)

    def _initialise(self, identity: Identity, names: Sequence[str]) -> None:
        """Make the files, the identity last; what an earlier attempt left behind without entries is made anew."""
        owner.check_unused(self._filesystem, self._directory, names, segment.data_start(self._slots))
        Meta.create(self._filesystem, self._directory)
        members.write(self._filesystem, self._directory, KnownPeers(False, ()))
        self._new_segment(1, Index(1), None).close()
        owner.write(self._filesystem, self._directory, identity)

    def _load(self, names: Sequence[str], alone: bool) -> Found:
        """Read everything, change nothing."""
        if meta.NAME not in names:
            raise LogDamaged(
                f"{self._directory}/{meta.NAME}", 0, "the file with the term and the vote is missing",
                f"Without them the node could vote twice in one term. {RESTORE}",
            )  # fmt: skip
        self._members = Members.load(self._filesystem, self._directory, names)
        self._meta = Meta.load(self._filesystem, self._directory)
        self._metas.append(self._meta)
        context = self._context
        self._shelf = Shelf(
            self._filesystem, self._guard, self._directory, context.codec, context.codec_name, names
        )  # fmt: skip
        oldest = self._shelf.oldest_segment
        found = recovery.scan(
            self._filesystem, self._directory, context.codec, context.codec_name, names, oldest, salvage=not alone
        )
        self._segments, self._index, self._append = found.segments, found.log, found.append
        self._check_snapshot(found, alone)
        self._check_log(found, oldest)
        self._index.forget_damaged(self._shelf.index)
        self._mending = Mending(
            self._filesystem, self._directory, context, self._segments, self._index
        )  # fmt: skip
        return found

    def _check_snapshot(self, found: Found, alone: bool) -> None:
        """A damaged one is made up for by the one before it and the log, or by other nodes; else the node says so."""
        bad = self._shelf.uncovered(found.log)
        self._lost = None
        if bad is None:
            return
        if alone or not found.segments:
            raise bad.error
        is_in_log = found.log.term_at(bad.at) == bad.term
        needed = max(found.log.first - 1, 0 if is_in_log else bad.at)
        self._lost = LostSnapshot(Index(needed), str(bad.error))

    def _check_log(self, found: Found, oldest: int) -> None:
        """The log must go on where the snapshot ends, and agree with it."""
        after, snapshot_meta, reason = self._shelf.index, self._shelf.meta, ""
        if not found.segments and not oldest:
            reason = "every file of the log is missing"
        elif self._lost is None and found.segments and found.log.first > after + 1:
            reason = f"the log begins at entry {found.log.first}, entries from {after + 1} on are missing"
        elif snapshot_meta and found.log.term_at(snapshot_meta.index) not in (None, snapshot_meta.term):
            reason = f"entry {after} has another term than in the snapshot that stands for it"
        if reason:
            raise LogDamaged(self._directory, 0, reason, RESTORE)

    def _put_right(self, found: Found, names: Sequence[str]) -> None:
        """The directory is sound. From here on it is changed."""
        leftovers = [name for name in names if name.endswith(TEMPORARY)] + found.void
        for name in leftovers:
            self._filesystem.remove(f"{self._directory}/{name}")
        if leftovers:
            self._filesystem.sync_directory(self._directory)
        self._members.repair()
        if found.unidentified:
            self._segments[-1].rewrite_unidentified(found.unidentified)
        if self._index.last < self._shelf.index or not self._segments:
            number = self._segments[-1].number + 1 if self._segments else self._shelf.oldest_segment
            self._begin_anew(Index(self._shelf.index + 1), number)
        elif self._segments[-1].count or found.tail or self._segments[-1].head.is_repaired:
            self._rotate()
        elif len(self._segments) > 1 and not self._segments[-2].is_sealed():
            self._segments[-2].seal(self._segments[-1].number)
        self._bytes_since_snapshot = self._index.bytes_after(self._shelf.index)
        self._is_right = True

    def _settle_tail(self, found: Found, alone: bool) -> None:
        """An ambiguity outlives the opening: it is recorded before anything is written behind the ambiguous place, and
        before its file is repaired."""
        after = self._meta.state.ambiguous_after
        if found.tail:
            after = Index(max(after or 0, self._index.last, self._shelf.index))
            _log.warning(
                "the last block of the log is torn or lost" + ("; dropped: there is no other voter" if alone else ""),
                file=found.tail.path, offset=found.tail.offset, bytes=found.tail.size, reason=found.tail.reason,
                last_index=self._index.last,
            )  # fmt: skip
        self._meta.save_ambiguity(None if alone else after)

    def _recovered(self, own: Identity, fresh: bool, tail_bytes: int) -> Recovered:
        return Recovered(
            identity=own,
            fresh=fresh,
            hard_state=self._meta.state.hard_state,
            snapshot=self._shelf.meta,
            first_index=self._index.first,
            last_index=self._index.last,
            runs=tuple(self._index.runs),
            memberships=tuple(item for item in self._index.memberships if item[0] > self._shelf.index),
            tail=self._tail(tail_bytes) if tail_bytes >= 0 else (),
            ambiguous_after=self._meta.state.ambiguous_after,
            damaged=self._damage(),
            lost_snapshot=self._lost,
        )

    def _damage(self) -> tuple[Damage, ...]:
        return tuple(
            Damage(Index(first), Index(last), Term(located.block.term), located.segment.path, located.block.offset)
            for located, first, last in self._index.damaged(0)
        )

    def _tail(self, tail_bytes: int) -> tuple[Entry, ...]:
        tail: list[Entry] = []
        for located, live_last in self._index.backwards():
            entries = located.segment.read_block(located.block)[: live_last - located.block.first + 1]
            for entry in reversed(entries):
                tail_bytes -= len(entry.data)
                if tail_bytes < 0:
                    return tuple(reversed(tail))
                tail.append(entry)
        return tuple(reversed(tail))

    # --- writing ---

    def _check(self, entries: Sequence[Entry]) -> None:
        first, last, index = entries[0].index, entries[-1].index, self._index
        assert last - first + 1 == len(entries), f"entries {first} to {last} are {len(entries)}: not contiguous"
        assert index.first <= first <= index.last + 1, f"append at {first} to a log of {index.first} to {index.last}"
        term = self._meta.state.hard_state.term
        assert entries[-1].term <= term, f"an entry of term {entries[-1].term}, and the term saved is {term}"

    def _append_groups(self, groups: Sequence[Sequence[Entry]]) -> None:
        if not self._segments[-1].has_room(len(groups), self._settings.segment_bytes):
            self._rotate()
        active, before = self._segments[-1], self._segments[-1].end
        written = active.append(groups, self._append + 1)
        self._append += 1
        self._bytes_since_snapshot += active.end - before
        for block, group in zip(written, groups, strict=True):
            self._index.add(Located(active, block), group if block.flags & HAS_MEMBERSHIP else ())

    def _rotate(self) -> None:
        self._check_in_place()
        old = self._segments[-1]
        self._segments.append(self._new_segment(old.number + 1, Index(self._index.last + 1), old))
        old.seal(old.number + 1)

    def _replace_log(self, stored: Stored) -> None:
        """The snapshot is durable, and says that the log is void: there is no way back."""
        try:
            self._begin_anew(Index(stored.meta.index + 1), stored.oldest_segment)
        except StorageFull as error:
            raise OSError(str(error)) from error

    def _begin_anew(self, first: Index, number: int) -> None:
        """The log so far is void. The new file says so before the old ones go."""
        fresh = self._new_segment(number, first, None)
        self._segments.append(fresh)
        self._drop_before(fresh)
        self._index.reset(first)
        self._decoded.clear()

    def _new_segment(self, number: int, first: Index, previous: Segment | None) -> Segment:
        head = Head(
            starts_anew=previous is None,
            number=number,
            id=self._context.random.getrandbits(48) << 16 | number & 0xFFFF,  # distinct even if a seed repeats
            first=first,
            append=self._append + 1,
            previous_end=previous.known_end[0] if previous else 0,
            previous_checksum=previous.known_end[1] if previous else 0,
            slots=self._slots,
            codec=self._context.codec_name,
            preamble=b"",
        )
        return Segment.create(self._filesystem, self._directory, self._context.codec, head)

    def _drop_before(self, needed: Segment) -> None:
        while self._segments[0] is not needed:
            old = self._segments.pop(0)
            old.close()
            self._filesystem.remove(old.path)
        self._filesystem.sync_directory(self._directory)

    @property
    def _slots(self) -> int:
        return segment.slots_for(self._settings.segment_bytes)

    # --- whether the files are still there ---

    def _check_in_place(self, *files: Segment | Meta) -> None:
        """After what was written and before it is confirmed: removed files take writes and syncs like any other. And
        before a file is made: it would be the only one in a directory that was emptied."""
        assert self._lock is not None
        if not self._lock.is_linked():
            raise self._guard.lost(f"the directory or its file '{LOCK}'")
        for file in files:
            if not file.is_linked():
                raise self._guard.lost(file.path)

    def _check_all_in_place(self) -> None:
        self._check_in_place(self._meta, *self._segments)
        names = frozenset(self._filesystem.list(self._directory))
        self._has_members = self._has_members or members.NAME in names  # a directory of an earlier release has none
        small = (owner.NAME, members.NAME) if self._has_members else (owner.NAME,)
        for name in (*small, *self._shelf.names):
            if name not in names:
                raise self._guard.lost(f"{self._directory}/{name}")

    # --- reading and closing ---

    def _decode(self, located: Located) -> tuple[Entry, ...]:
        key = (located.segment.number, located.block.offset)
        entries = self._decoded.pop(key, None) or located.segment.read_block(located.block)
        self._decoded[key] = entries
        if len(self._decoded) > READ_BLOCKS:
            self._decoded.popitem(last=False)
        return entries

    def _release(self) -> None:
        """Close every file and unlock, whatever happened before."""
        files: list[Segment | Meta | FileSnapshotWriter | File | None]
        files = [*self._segments, *self._writers, *self._metas, self._lock]
        self._segments, self._writers, self._metas, self._lock = [], [], [], None
        self._is_right = False
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
        LoopAppending,
        MemoryEstimating,
        OnFilesystem,
        PeerStore,
        Repairable,
        Scrubbable,
        Storage,
    )

    _fits: type[Storage] = FileStorage
    _repairs: type[Repairable] = FileStorage
    _scrubs: type[Scrubbable] = FileStorage
    _remembers: type[PeerStore] = FileStorage
    _estimates: type[MemoryEstimating] = FileStorage
    _appends: type[LoopAppending] = FileStorage
    _runs_on: type[OnFilesystem] = FileStorage
