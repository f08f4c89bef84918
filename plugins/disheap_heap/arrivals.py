"""The ids of a topic's messages in the order in which they arrived, which is ascending.

A dict cannot be read in portions while it changes. So a view that is written out in portions walks these ids, and looks
up each message where it is. Ids of messages that are gone stay for a while: each turn of the tail sweeps a few chunks.

The ids lie in chunks of at most `CHUNK`. A chunk in `chunks` is never changed, only replaced, so whoever has a copy of
the list can go on reading. The tail alone grows. Not state: it follows from the messages, and two replicas may hold
different ids of messages that are gone.
"""

from __future__ import annotations

from collections.abc import Callable

CHUNK = 512
"""Ids that are looked at in one step: 0.05 ms."""

TAIL_MIN = 16
"""A topic with few messages holds so many ids of those that are gone: 600 bytes."""

CHUNKS_SWEPT = 2
"""Chunks looked at for each one that is added: more than one, so that ids of messages that are gone do not pile up."""

IdFilter = Callable[[list[int]], list[int]]
"""Gives those of the ids that are still needed, in a new list."""


class Arrivals:
    __slots__ = ("_swept", "chunks", "limit", "tail")

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.tail: list[int] = []
        self.limit = TAIL_MIN  # of the tail: `turn` is called when it is reached
        self._swept = 0  # the next chunk to sweep

    def cut_tail(self, keep_needed: IdFilter) -> None:
        """The tail is full: drop the ids in it that are gone, and begin a new one if it is long all the same."""
        self.tail = keep_needed(self.tail)
        if 2 * len(self.tail) > CHUNK:
            self.chunks.append(self.tail)
            self.tail = []
            for _ in range(CHUNKS_SWEPT):
                self.sweep(keep_needed)
        self.limit = min(CHUNK, max(TAIL_MIN, 2 * len(self.tail)))

    def sweep(self, keep_needed: IdFilter) -> bool:
        """Look at the next chunk, and begin again behind the last. Returns whether there are more chunks in this
        round."""
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
        """Begin a round: the next chunk to be swept is the first."""
        self._swept = 0

    def load(self, ids: list[int]) -> None:
        """Take over ids in ascending order."""
        self.chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        self.tail = self.chunks.pop() if self.chunks else []
        self.limit = min(CHUNK, max(TAIL_MIN, 2 * len(self.tail)))

    def entries(self) -> int:
        return sum(map(len, self.chunks)) + len(self.tail)
