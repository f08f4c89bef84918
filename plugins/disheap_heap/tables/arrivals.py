"""The ids of a topic's messages in the order of arrival, which is ascending.

A dict cannot be read in portions while it changes. So a view that is written in portions reads these ids, and looks up
where each message is. Ids of messages that no longer exist stay for a while. They are removed chunk by chunk: each time
that the tail is cut, a few chunks are looked at.

A chunk has at most `CHUNK` ids. A chunk in `chunks` is never changed, only replaced, so a reader with a copy of the
list can continue. Only the tail grows. This is not state: it follows from the messages, and two replicas may hold
different ids of messages that no longer exist.
"""

from __future__ import annotations

from collections.abc import Callable

CHUNK = 512
"""Ids in a chunk. To look at all of them takes 0.05 ms."""

TAIL_MIN = 16
"""The tail is not cut below this length, so a topic with few messages holds up to 600 bytes of ids."""

CHUNKS_SWEPT = 2
"""Chunks that are looked at for each chunk that is added. It is more than one, so that the number of ids stays
bounded."""

IdFilter = Callable[[list[int]], list[int]]
"""Returns those of the ids that are still needed, in a new list."""


class Arrivals:
    """The ids of one topic. Whoever appends one id to `tail` calls `cut_tail` when it has `limit` ids."""

    __slots__ = ("_swept", "chunks", "limit", "tail")

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.tail: list[int] = []
        self.limit = TAIL_MIN  # of the tail
        self._swept = 0  # the next chunk to sweep

    def add(self, ids: range, keep_needed: IdFilter) -> None:
        """Adds the ids of several messages, which are there already."""
        while ids:
            room = max(1, self.limit - len(self.tail))
            self.tail.extend(ids[:room])
            ids = ids[room:]
            if len(self.tail) >= self.limit:
                self.cut_tail(keep_needed)

    def cut_tail(self, keep_needed: IdFilter) -> None:
        """Removes the ids from the tail that are no longer needed. If it is still long, makes it a chunk and begins a
        new tail."""
        self.tail = keep_needed(self.tail)
        if 2 * len(self.tail) > CHUNK:
            self.chunks.append(self.tail)
            self.tail = []
            for _ in range(CHUNKS_SWEPT):
                self.sweep(keep_needed)
        self.limit = min(CHUNK, max(TAIL_MIN, 2 * len(self.tail)))

    def sweep(self, keep_needed: IdFilter) -> bool:
        """Removes ids from the next chunk, and begins again after the last chunk. Returns whether there are more chunks
        in this round."""
        at, chunks = self._swept, self.chunks
        if at >= len(chunks):
            self._swept = 0
            return False
        kept = keep_needed(chunks[at])
        if at and len(chunks[at - 1]) + len(kept) <= CHUNK:
            chunks[at - 1] = chunks[at - 1] + kept
            del chunks[at]
        elif kept:
            chunks[at] = kept
            self._swept += 1
        else:
            del chunks[at]
        return True

    def restart(self) -> None:
        """Begins a round: the next chunk that `sweep` looks at is the first."""
        self._swept = 0

    def load(self, ids: list[int]) -> None:
        """Replaces all ids. They are in ascending order."""
        self.chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        self.tail = self.chunks.pop() if self.chunks else []
        self.limit = min(CHUNK, max(TAIL_MIN, 2 * len(self.tail)))

    def entries(self) -> int:
        """The number of ids, those that are no longer needed included."""
        return sum(map(len, self.chunks)) + len(self.tail)
