"""How long a leader's entries take from their proposal until they are committed. Owns the times of those under way."""

from __future__ import annotations

from collections import deque

from disheap.interfaces import Clock, Histogram
from disheap.kernel.types import Index


class CommitTimes:
    """`proposed` for each entry with commands, `committed` when the commit index has moved."""

    def __init__(self, clock: Clock) -> None:
        self.seconds = Histogram()
        self._clock = clock
        self._under_way: deque[tuple[Index, float]] = deque()  # (index, since when), ascending

    def proposed(self, index: Index) -> None:
        """This node has proposed an entry as the leader."""
        self._under_way.append((index, self._clock.monotonic()))

    def committed(self, index: Index) -> None:
        """All entries up to this one are committed."""
        under_way = self._under_way
        if not under_way or under_way[0][0] > index:
            return
        now = self._clock.monotonic()
        while under_way and under_way[0][0] <= index:
            self.seconds.observe(now - under_way.popleft()[1])

    def forget(self) -> None:
        """This node leads no more: what becomes of its entries is decided by others."""
        self._under_way.clear()
