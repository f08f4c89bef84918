"""Replaces damaged entries by good ones (Alagappan et al., FAST'18). Owns how a segment is repaired. The runtime
fetches the entries.

A file of the log is never changed in place, and good entries are never cut off. The whole segment is written anew under
a temporary name, with its live entries and the repaired ones. It replaces the old one with one rename. Until all
damaged entries of a segment are there, they wait in memory. A segment's size bounds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disheap.errors import LogDamaged
from disheap.interfaces import StorageContext
from disheap.kernel.types import Entry
from disheap_filelog.filesystem import Filesystem
from disheap_filelog.segments.index import Located, LogIndex
from disheap_filelog.segments.segment import DURABLE, Segment

NO_LIMIT = 1 << 64
"""Above every index."""


class SegmentRepair:
    """Works on the storage's own list of segments and on its index."""

    def __init__(
        self,
        filesystem: Filesystem,
        directory: str,
        context: StorageContext,
        segments: list[Segment],
        index: LogIndex,
    ) -> None:
        self._filesystem, self._directory, self._context = filesystem, directory, context
        self._segments, self._index = segments, index
        self._good: dict[int, Entry] = {}

    def put(self, entries: Sequence[Entry]) -> None:
        """Takes good entries. Rewrites each segment whose damaged entries are all there. Entries of another term are
        ignored."""
        for entry in entries:
            if self._index.term_at(entry.index) == entry.term:
                self._good[entry.index] = entry
        for segment in list(self._segments):
            damaged = [place for place in self._index.damaged(0) if place[0].segment is segment]
            if damaged and all(self._is_whole(first, last) for _, first, last in damaged):
                self._rewrite(segment, NO_LIMIT)

    def cut(self, first: int) -> None:
        """Drops the entries from `first` on. Works from the end of the log backwards, so that a crash leaves a log
        without gaps."""
        for segment in reversed(list(self._segments)):
            if segment.highest >= first:
                self._rewrite(segment, first)

    def _is_whole(self, first: int, last: int) -> bool:
        return all(index in self._good for index in range(first, last + 1))

    def _rewrite(self, old: Segment, below: int) -> None:
        position = self._segments.index(old)
        following = self._segments[position + 1].number if position + 1 < len(self._segments) else 0
        live = [(located, min(last, below - 1)) for located, last in self._index.live_in(old)]
        live = [item for item in live if item[0].block.first <= item[1]]
        end, checksum = old.known_end
        head = old.head._replace(
            id=self._context.random.getrandbits(48) << 16 | old.number & 0xFFFF,
            replaced_end=end, replaced_checksum=checksum,
        )  # fmt: skip
        if live and self._is_oldest(live[0][0]):
            head = head._replace(starts_anew=True, first=max(self._index.first, live[0][0].block.first))
        new, blocks = Segment.rewrite(
            self._filesystem, self._directory, self._context.codec, head, self._groups(live), following
        )
        self._segments[position] = new
        self._index.replace(old, [Located(new, block) for block in blocks], below)
        old.close()

    def _is_oldest(self, located: Located) -> bool:
        """Whether no entry before the block is live. Then the log may begin here."""
        return located.block.first <= self._index.first <= located.block.last

    def _groups(self, live: list[tuple[Located, int]]) -> Iterator[tuple[int, Sequence[Entry]]]:
        for located, last in live:
            first = max(located.block.first, self._index.first)
            if located.is_damaged:
                entries: Sequence[Entry] = [self._repaired(located, index) for index in range(first, last + 1)]
            else:
                start = located.block.first
                entries = located.segment.read_block(located.block)[first - start : last - start + 1]
            yield located.block.append, entries

    def _repaired(self, located: Located, index: int) -> Entry:
        entry = self._good.get(index)
        if entry is None:
            reason = f"entry {index} is to be kept, and is neither readable nor repaired"
            raise LogDamaged(located.segment.path, located.block.offset, reason, DURABLE)
        return entry
