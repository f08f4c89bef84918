"""Messages that have left their topic and wait to be dead-lettered.

One command may end thousands of messages: a huge batch into a full topic, a Nack of many tokens. To dead-letter one
takes several times as long as to drop it, so what is too much for one call waits here. It is state, and postponed work.

Messages are only added at the end and removed at the front. So the queue is a list of chunks, and a chunk never changes
but at its end. A view of a snapshot holds the chunks, and copies no message (as `outbox` does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from disheap_heap.state.messages import Message

CHUNK = 64
"""Messages of a chunk. At most so many stay in memory after they were dead-lettered."""


class DeathNote(NamedTuple):
    """A message that died, and what its dead letter says. The topic may be gone by the time that it is made."""

    message: Message
    topic: str
    topic_number: int
    sign: int  # of the topic: -1 if the largest priority comes first
    exchange: str  # where the topic sends its dead letters: an exchange, and a routing key
    routing_key: str
    reason: str
    died_ms: int
    error: str


class Waiting(NamedTuple):
    """The notes of some moment: those from place `first` up to `end`, without `end`. The first chunk begins at
    `begin`."""

    begin: int
    first: int
    end: int
    chunks: list[list[DeathNote]]

    def notes(self) -> Iterator[DeathNote]:
        """The notes, the oldest first."""
        for place in range(self.first - self.begin, self.end - self.begin):
            yield self.chunks[place // CHUNK][place % CHUNK]


class Dying:
    """The messages that wait, the oldest first. `len` is how many there are."""

    __slots__ = ("_begin", "_chunks", "_end", "_first")

    def __init__(self) -> None:
        self._begin = self._first = self._end = 0
        self._chunks: deque[list[DeathNote]] = deque()

    def __len__(self) -> int:
        return self._end - self._first

    def add(self, note: DeathNote) -> None:
        """Adds a note at the end."""
        if self._end - self._begin == CHUNK * len(self._chunks):
            self._chunks.append([])
        self._chunks[-1].append(note)
        self._end += 1

    def first(self) -> DeathNote:
        """The oldest note. There must be one."""
        return self._chunks[0][self._first - self._begin]

    def pop(self) -> DeathNote:
        """Removes and returns the oldest note. There must be one."""
        note = self.first()
        self._first += 1
        if self._first == self._end:
            self._chunks.clear()
            self._begin = self._first
        elif self._first - self._begin == CHUNK:
            self._chunks.popleft()
            self._begin += CHUNK
        return note

    def waiting(self) -> Waiting:
        """All notes as they are now."""
        return Waiting(self._begin, self._first, self._end, list(self._chunks))
