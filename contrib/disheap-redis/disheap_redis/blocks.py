"""The blocks of the log, as a list in memory: where each entry is, and the table of terms.

Owns no connection. `storage.py` changes the server first, and this list when the server has confirmed it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from disheap.kernel.types import Index, Term, TermRun
from disheap_redis.records import Block


class Blocks:
    """In the order of the log. `base` is where an empty log continues."""

    def __init__(self, rows: Sequence[Block], base: int, since: int) -> None:
        self.rows = list(rows)
        self.base = base
        self.stored_bytes = sum(row.stored_bytes for row in rows)
        self.memory_bytes = sum(row.memory_bytes for row in rows)
        self.since_snapshot_bytes = 0
        self.begin_at(since)

    @property
    def first(self) -> int:
        """The first index of the log."""
        return self.rows[0].first if self.rows else self.base

    @property
    def last(self) -> int:
        """The last index of the log; `first - 1` if it is empty."""
        return self.rows[-1].last if self.rows else self.base - 1

    def begin_at(self, snapshot: int) -> None:
        """A snapshot at this index is the newest: what lies behind it counts from now on."""
        self._snapshot = snapshot
        self.since_snapshot_bytes = sum(row.stored_bytes for row in self.rows if row.first > snapshot)

    def number_of(self, index: int) -> int:
        """The place of the block that holds `index`."""
        return bisect.bisect_right(self.rows, index, key=lambda row: row.first) - 1

    def from_index(self, index: int) -> list[Block]:
        """The blocks that begin at `index` or later."""
        return self.rows[bisect.bisect_left(self.rows, index, key=lambda row: row.first) :]

    def before(self, index: int) -> list[Block]:
        """The blocks that end before `index`."""
        count = self.number_of(index)
        if self.rows and index > self.last:
            count = len(self.rows)
        return self.rows[: max(count, 0)]

    def add(self, row: Block) -> None:
        """At the end."""
        self.rows.append(row)
        self._count(row, 1)

    def drop_last(self, count: int) -> None:
        """From the end."""
        for _ in range(count):
            self._count(self.rows.pop(), -1)

    def drop_first(self, count: int) -> None:
        """From the beginning."""
        self.base = self.rows[count - 1].last + 1
        for row in self.rows[:count]:
            self._count(row, -1)
        del self.rows[:count]

    def clear(self, base: int) -> None:
        """The log is empty and continues at `base`."""
        self.drop_last(len(self.rows))
        self.base = base

    def runs(self) -> tuple[TermRun, ...]:
        """The table of terms."""
        runs: list[TermRun] = []
        for row in self.rows:
            for first, term in row.runs:
                if not runs or runs[-1].term != term:
                    runs.append(TermRun(Index(first), Term(term)))
        return tuple(runs)

    def memberships(self, after: int) -> tuple[tuple[Index, bytes], ...]:
        """The membership entries behind `after`."""
        return tuple((Index(index), data) for row in self.rows for index, data in row.memberships if index > after)

    def gap(self) -> str:
        """Where the blocks do not join. "" if they do."""
        for before, after in zip(self.rows, self.rows[1:], strict=False):
            if after.first != before.last + 1:
                return f"behind index {before.last} comes {after.first}"
        return ""

    def _count(self, row: Block, sign: int) -> None:
        self.stored_bytes += sign * row.stored_bytes
        self.memory_bytes += sign * row.memory_bytes
        if row.first > self._snapshot:
            self.since_snapshot_bytes += sign * row.stored_bytes
