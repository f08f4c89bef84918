"""The segments of one log that are in force, and where each entry is in them. The last segment is written.

Owns the order in which segments begin, end and are deleted. A new segment is durable before the one before it is
sealed, and before a void one is deleted. Does not know snapshots, terms and votes, or the other files of the directory
(`storage`). What segments hold when the log is opened is read by `recovery`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from disheap.errors import StorageFull
from disheap.interfaces import Damage, StorageContext
from disheap.kernel.types import Entry, Index, SnapshotMeta, Term
from disheap_filelog.filesystem import Filesystem
from disheap_filelog.guard import Guard
from disheap_filelog.segments import blocks, segment
from disheap_filelog.segments.blocks import HAS_MEMBERSHIP
from disheap_filelog.segments.index import Located, LogIndex
from disheap_filelog.segments.recovery import ScanResult
from disheap_filelog.segments.segment import Head, Segment
from disheap_filelog.settings import FileSettings

SMALL_APPEND_BYTES = 8 << 10
"""Space is allocated ahead for appends up to this size. A larger append gains little from it."""
MIN_AHEAD_BYTES, MAX_AHEAD_BYTES = 256 << 10, 2 << 20
"""At least and at most so much space is allocated ahead. To write the most takes a few milliseconds."""
READ_BLOCKS = 8
"""Blocks kept decoded: one for each of a few followers that catch up in sequence."""


class LogFiles:
    """Makes no file in a directory that was removed: `guard` raises `StorageGone` then."""

    def __init__(
        self,
        filesystem: Filesystem,
        directory: str,
        context: StorageContext,
        settings: FileSettings,
        guard: Guard,
    ) -> None:
        self.segments: list[Segment] = []  # the oldest first
        self.index = LogIndex()
        self.slots = segment.slots_for(settings.segment_bytes)  # identity slots in a new segment
        self.bytes_since_snapshot = 0
        self._filesystem, self._directory = filesystem, directory
        self._context, self._settings = context, settings
        self._guard = guard
        self._last_append = 0  # its number
        self._small_bytes = 0  # of small appends since `preallocate` was called
        self._decoded: OrderedDict[tuple[int, int], tuple[Entry, ...]] = OrderedDict()

    def opened(self, found: ScanResult) -> None:
        """Take over what a scan of the directory has found."""
        self.segments, self.index, self._last_append = found.segments, found.log, found.append

    def take_segments(self) -> list[Segment]:
        """Returns the segments to be closed, and forgets them."""
        taken, self.segments = self.segments, []
        return taken

    @property
    def active(self) -> Segment:
        """The segment that is written."""
        return self.segments[-1]

    def total_bytes(self) -> int:
        """The size of all segments."""
        return sum(one.end for one in self.segments)

    def count_bytes_after(self, snapshot_index: int) -> None:
        """A snapshot ends at that entry. `bytes_since_snapshot` is the size of the blocks behind it."""
        self.bytes_since_snapshot = self.index.bytes_after(snapshot_index)

    # --- writing ---

    def append(self, entries: Sequence[Entry], term: Term) -> None:
        """Write the entries, with one sync for each segment they go to. `term` is the term that is durable."""
        self._check(entries, term)
        groups = blocks.split(entries, self._settings.block_bytes)
        for start in range(0, len(groups), self.slots):
            self._append_groups(groups[start : start + self.slots])

    def _check(self, entries: Sequence[Entry], term: Term) -> None:
        first, last, index = entries[0].index, entries[-1].index, self.index
        assert last - first + 1 == len(entries), f"entries {first} to {last} are {len(entries)}: not contiguous"
        assert index.first <= first <= index.last + 1, f"append at {first} to a log of {index.first} to {index.last}"
        assert entries[-1].term <= term, f"an entry of term {entries[-1].term}, and the term saved is {term}"

    def _append_groups(self, groups: Sequence[Sequence[Entry]]) -> None:
        active = self.segments[-1]
        if not active.has_room(len(groups), self._settings.segment_bytes):
            self.rotate()
            active = self.segments[-1]
        before = active.end
        written = active.append(groups, self._last_append + 1)
        self._last_append += 1
        size = active.end - before
        self.bytes_since_snapshot += size
        self._small_bytes += size if size <= SMALL_APPEND_BYTES else 0
        for block, group in zip(written, groups, strict=True):
            located = tuple.__new__(Located, (active, block, False))  # one call less than its own constructor
            self.index.add(located, group if block.flags & HAS_MEMBERSHIP else ())

    def preallocate(self) -> None:
        """Allocate space for small appends: twice as much as they took since the last call. Does nothing while half of
        it is left."""
        taken, self._small_bytes = self._small_bytes, 0
        active, wanted = self.active, min(max(2 * taken, MIN_AHEAD_BYTES), MAX_AHEAD_BYTES)
        until = min(active.end + wanted, self._settings.segment_bytes)
        if taken and active.allocated < min(active.end + wanted // 2, until):
            active.preallocate(until)

    def rotate(self, keeps_tail: bool = False) -> None:
        """Begin a new segment, then seal the one before. `keeps_tail` leaves what lies behind its last block where it
        is."""
        self._guard.check_directory()
        old = self.active
        self.segments.append(self.create_segment(old.number + 1, Index(self.index.last + 1), old))
        old.seal(old.number + 1, frees_unused=not keeps_tail)

    def replace_by(self, snapshot: SnapshotMeta, oldest_segment: int) -> None:
        """A durable snapshot says that the log is void. So an error here is final, a full disk too."""
        try:
            self.begin_new_log(Index(snapshot.index + 1), oldest_segment)
        except StorageFull as error:
            raise OSError(str(error)) from error

    def begin_new_log(self, first: Index, number: int) -> None:
        """The log so far is void. The new segment says so before the old ones are deleted."""
        fresh = self.create_segment(number, first, None)
        self.segments.append(fresh)
        self._delete_before(fresh)
        self.index.reset(first)
        self.forget_decoded()

    def create_segment(self, number: int, first: Index, previous: Segment | None) -> Segment:
        """Returns a new, durable segment. `previous` None: the log begins here, and earlier segments are void."""
        head = Head(
            starts_anew=previous is None,
            number=number,
            id=self._context.random.getrandbits(48) << 16 | number & 0xFFFF,  # distinct even if a seed repeats
            first=first,
            append=self._last_append + 1,
            previous_end=previous.known_end[0] if previous else 0,
            previous_checksum=previous.known_end[1] if previous else 0,
            slots=self.slots,
            codec=self._context.codec_name,
            preamble=b"",
        )
        return Segment.create(self._filesystem, self._directory, self._context.codec, head)

    def drop_entries_before(self, first: Index) -> Index:
        """Delete the segments that hold only older entries, except the active one. Returns the first entry left."""
        needed = self.index.oldest_needed(first) or self.active
        if needed is not self.segments[0]:
            self._delete_before(needed)
            self.index.forget_before(needed)
        return self.index.first

    def _delete_before(self, needed: Segment) -> None:
        while self.segments[0] is not needed:
            old = self.segments.pop(0)
            old.close()
            self._filesystem.remove(old.path)
        self._filesystem.sync_directory(self._directory)

    # --- reading ---

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Returns entries from `first` to `last`: up to `max_bytes` of data, and one at least. Raises `LogDamaged`."""
        entries: list[Entry] = []
        index, size, last = int(first), 0, min(last, self.index.last)
        while self.index.first <= index <= last:
            located, live_last = self.index.find(index)
            for entry in self._decode(located)[index - located.block.first :]:
                size += len(entry.data)
                if entry.index > min(live_last, last):
                    break
                if entries and size > max_bytes:
                    return tuple(entries)
                entries.append(entry)
            index = live_last + 1
        return tuple(entries)

    def tail(self, tail_bytes: int) -> tuple[Entry, ...]:
        """Returns the newest entries, up to so many bytes of data."""
        tail: list[Entry] = []
        for located, live_last in self.index.backwards():
            entries = located.segment.read_block(located.block)[: live_last - located.block.first + 1]
            for entry in reversed(entries):
                tail_bytes -= len(entry.data)
                if tail_bytes < 0:
                    return tuple(reversed(tail))
                tail.append(entry)
        return tuple(reversed(tail))

    def damage(self) -> tuple[Damage, ...]:
        """Returns the damaged blocks, by the entries that they held."""
        return tuple(
            Damage(Index(first), Index(last), Term(located.block.term), located.segment.path, located.block.offset)
            for located, first, last in self.index.damaged(0)
        )

    def forget_decoded(self) -> None:
        """Blocks may have been replaced: read them again."""
        self._decoded.clear()

    def _decode(self, located: Located) -> tuple[Entry, ...]:
        key = (located.segment.number, located.block.offset)
        entries = self._decoded.pop(key, None) or located.segment.read_block(located.block)
        self._decoded[key] = entries
        if len(self._decoded) > READ_BLOCKS:
            self._decoded.popitem(last=False)
        return entries
