"""Where each entry lies, and the log's table of terms, in memory. Built when the log is opened, kept as it grows.

Truncation is logical (Raft §5.3): a later block whose first index lies at or below the end supersedes what is stored
from there on. So a block's last live entry is the one before the next block's first.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from disheap.kernel.types import Entry, EntryKind, Index, Term, TermRun
from disheap_filelog.segments.blocks import Block
from disheap_filelog.segments.segment import Segment

BLOCK_MEMORY_BYTES = 400
"""What the index holds of one block: two tuples, twelve numbers, its entries in two lists."""


class Located(NamedTuple):
    """A block and the segment that it is in."""

    segment: Segment
    block: Block
    is_damaged: bool = False  # it was durable, its range and term are known, and it cannot be read


class LogIndex:
    """Where each entry of the log is, the terms of the log, and its membership entries. Holds no entries."""

    def __init__(self) -> None:
        self.reset(Index(1))

    def reset(self, first: Index) -> None:
        """An empty log that goes on at `first`."""
        self.first, self.last = first, Index(first - 1)
        self.runs: list[TermRun] = []
        self.memberships: list[tuple[Index, bytes]] = []
        self._located: list[Located] = []
        self._firsts: list[int] = []

    def add(self, located: Located, entries: Sequence[Entry]) -> None:
        """`entries` are the block's, or none where its header says that it holds no membership."""
        block = located.block
        first = block.first
        if first <= self.last:
            self._supersede(first)
        if not self._located:
            self.first = Index(first)
        self._located.append(located)
        self._firsts.append(first)
        self.last = Index(block.last)
        if not self.runs or self.runs[-1].term != block.term:
            self.runs.append(TermRun(Index(first), Term(block.term)))
        for entry in entries:
            if entry.kind == EntryKind.MEMBERSHIP:
                self.memberships.append((entry.index, entry.data))

    def memory_bytes(self) -> int:
        """An estimate of the memory that the index takes."""
        return BLOCK_MEMORY_BYTES * len(self._located)

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`, or None if the log does not hold it."""
        if not self.first <= index <= self.last:
            return None
        return self.runs[bisect.bisect_right(self.runs, index, key=lambda run: run.first) - 1].term

    def find(self, index: int) -> tuple[Located, int]:
        """The block that holds `index`, and the last index that is live in it."""
        position = bisect.bisect_right(self._firsts, index) - 1
        return self._located[position], self._live_last(position)

    def backwards(self) -> Iterator[tuple[Located, int]]:
        """The live blocks from the last to the first, each with its last live index."""
        for position in range(len(self._located) - 1, -1, -1):
            yield self._located[position], self._live_last(position)

    def damaged(self, after: int) -> list[tuple[Located, int, int]]:
        """The damaged blocks that hold live entries behind `after`, each with the first and the last of those."""
        found = []
        for position, located in enumerate(self._located):
            first, last = max(located.block.first, after + 1, self.first), self._live_last(position)
            if located.is_damaged and first <= last:
                found.append((located, first, last))
        return found

    def live_in(self, segment: Segment) -> list[tuple[Located, int]]:
        """The live blocks of one segment, each with its last live index."""
        return [
            (located, self._live_last(position))
            for position, located in enumerate(self._located)
            if located.segment is segment
        ]

    def replace(self, segment: Segment, blocks: Sequence[Located], below: int) -> None:
        """The segment was written anew, with only its live entries below `below` in it; nothing lives from there on."""
        self._supersede(below)
        positions = [position for position, located in enumerate(self._located) if located.segment is segment]
        if positions:
            place = slice(positions[0], positions[-1] + 1)
            self._located[place], self._firsts[place] = blocks, [located.block.first for located in blocks]

    def oldest_needed(self, first_index: Index) -> Segment | None:
        """The segment of the first block that holds an entry from `first_index` on."""
        if not self.first <= first_index <= self.last:
            return self._located[0].segment if self._located and first_index < self.first else None
        return self.find(first_index)[0].segment

    def forget_before(self, segment: Segment) -> None:
        """All segments before this one are gone."""
        count = 0
        while count < len(self._located) and self._located[count].segment.number < segment.number:
            count += 1
        del self._located[:count], self._firsts[:count]
        self._begin_at(self._firsts[0] if self._firsts else self.last + 1)

    def forget_damaged(self, through: int) -> None:
        """What is damaged at or before `through` is held elsewhere: the log begins behind it."""
        ends = [min(last, through) for located, _, last in self.damaged(0) if located.block.first <= through]
        if not ends:
            return
        count = 0
        while count < len(self._located) and self._live_last(count) <= ends[-1]:
            count += 1
        del self._located[:count], self._firsts[:count]
        self._begin_at(ends[-1] + 1)

    def _begin_at(self, first: int) -> None:
        self.first = Index(first)
        runs = [run for run in self.runs if run.first > self.first]
        term = next((run.term for run in reversed(self.runs) if run.first <= self.first <= self.last), None)
        self.runs = runs if term is None else [TermRun(self.first, term), *runs]
        self.memberships = [item for item in self.memberships if item[0] >= self.first]

    def bytes_after(self, index: int) -> int:
        """Stored bytes of the blocks that hold an entry behind `index`."""
        return sum(located.block.end - located.block.offset for located in self._located if located.block.last > index)

    def _supersede(self, first: int) -> None:
        if first > self.last:
            return
        keep = bisect.bisect_left(self._firsts, first)
        del self._located[keep:], self._firsts[keep:]
        while self.runs and self.runs[-1].first >= first:
            self.runs.pop()
        while self.memberships and self.memberships[-1][0] >= first:
            self.memberships.pop()
        self.last = Index(first - 1)

    def _live_last(self, position: int) -> int:
        return self._firsts[position + 1] - 1 if position + 1 < len(self._firsts) else self.last
