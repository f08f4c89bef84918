"""Queries and admin requests of a client: QUERY and ADMIN. They do not go through the log, and have numbers of their
own. Owns those without an answer: which of them were sent on this connection, and which a node has put off. Does not
know when a connection accepts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from disheap.protocol import frames


class Query(NamedTuple):
    """A QUERY or an ADMIN. `repeat`: it changes nothing, and may be asked again."""

    kind: int
    body: bytes
    waiter: Any
    repeat: bool


class Queries:
    """The unanswered ones, the oldest first."""

    def __init__(self) -> None:
        self._unanswered: dict[int, Query] = {}
        self._sent: set[int] = set()  # on this connection; only ever looked up
        self._postponed: list[int] = []
        self._next = 1

    def __len__(self) -> int:
        return len(self._unanswered)

    def __iter__(self) -> Iterator[Query]:
        return iter(self._unanswered.values())

    def add(self, query: Query) -> int:
        """Returns its number."""
        number = self._next
        self._next = number + 1
        self._unanswered[number] = query
        return number

    def send(self, number: int) -> bytes:
        """Returns its frame, which goes out on this connection."""
        query = self._unanswered[number]
        self._sent.add(number)
        return frames.request(query.kind, number, query.body)

    def send_all(self) -> list[bytes]:
        """Returns the frames of all, for a connection that has just become ready."""
        return [self.send(number) for number in self._unanswered]

    def has(self, number: int) -> bool:
        """Whether it has no answer. A node may answer twice what was asked twice."""
        return number in self._unanswered

    def note_answer(self, number: int) -> None:
        """The node has said something to it on this connection."""
        self._sent.discard(number)

    def postpone(self, number: int) -> None:
        """The node did not look at it: `send_postponed` has it again."""
        self._postponed.append(number)

    def send_postponed(self) -> list[bytes]:
        """Returns the frames of those that were put off and have no answer."""
        return [self.send(number) for number in self.take_postponed() if number in self._unanswered]

    def take_postponed(self) -> list[int]:
        """Forget which were put off. Returns their numbers."""
        postponed, self._postponed = self._postponed, []
        return postponed

    def pop(self, number: int) -> Query:
        """It is answered."""
        return self._unanswered.pop(number)

    def take(self, is_wanted: Callable[[Query], bool]) -> list[Query]:
        """Take back those, which are not answered any more."""
        return [self.pop(number) for number, query in list(self._unanswered.items()) if is_wanted(query)]

    def connection_lost(self) -> list[Query]:
        """Returns those that were sent and may not be repeated: they may have been carried out. The others wait for the
        next connection."""
        lost = [number for number, query in self._unanswered.items() if number in self._sent and not query.repeat]
        self._sent, self._postponed = set(), []
        return [self.pop(number) for number in lost]

    def clear(self) -> None:
        """All are answered otherwise."""
        self._unanswered = {}
