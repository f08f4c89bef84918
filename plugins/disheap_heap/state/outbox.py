"""Messages for other groups, and the numbers of those that were taken from them (`interfaces.Forwarding`).

Owns both ends of each way between two groups. Messages to a group are numbered 1, 2, 3, ... without gaps. They wait
until the group has confirmed them. What a message says is decided in `group_messages`. A way keeps its numbers for
ever, unless the whole cluster begins anew from a backup.

Messages are only added at the end and removed at the front. So the queue of a group is a list of chunks, and a chunk
never changes but at its end. A view of a snapshot holds the chunks, and copies no message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from disheap.protocol.broker import Decision, GroupMessage, Inquiry, encode

Content = Decision | Inquiry
_KINDS: Any = Content

CHUNK = 64
"""Messages of a chunk. A view takes one reference for as many. At most so many stay in memory after a confirmation."""


class Queued(NamedTuple):
    """The messages first to last for one group, at some moment. The first chunk begins with the number `begin`."""

    group: int
    begin: int
    first: int
    last: int
    chunks: list[list[Content]]

    def rows(self) -> Iterator[tuple[int, int, Content]]:
        """(group, number, message) of all of them."""
        for at, chunk in enumerate(self.chunks):
            start = self.begin + at * CHUNK
            for number in range(max(start, self.first), min(start + CHUNK - 1, self.last) + 1):
                yield self.group, number, chunk[number - start]


class _Queue:
    """What waits for one group. There is at least one message."""

    __slots__ = ("begin", "chunks", "first", "last")

    def __init__(self, first: int) -> None:
        self.begin = self.first = first
        self.last = first - 1
        self.chunks: deque[list[Content]] = deque()

    def __len__(self) -> int:
        return self.last + 1 - self.first

    def add(self, message: Content) -> None:
        """Adds the next message."""
        self.last += 1
        if self.last - self.begin == len(self.chunks) * CHUNK:
            self.chunks.append([])
        self.chunks[-1].append(message)

    def pop(self) -> Content:
        """Removes and returns the first message."""
        message = self.chunks[0][self.first - self.begin]
        self.first += 1
        if self.first - self.begin == CHUNK:
            self.chunks.popleft()
            self.begin += CHUNK
        return message

    def after(self, number: int, limit: int) -> Iterator[tuple[int, Content]]:
        """At most `limit` messages above this number, with their numbers."""
        for one in range(max(number + 1, self.first), min(max(number + 1, self.first) + limit - 1, self.last) + 1):
            at = one - self.begin
            yield one, self.chunks[at // CHUNK][at % CHUNK]

    def queued(self, group: int) -> Queued:
        """All messages as they are now."""
        return Queued(group, self.begin, self.first, self.last, list(self.chunks))


class Outbox:
    """What waits, by group and number. `len` is how many messages wait for all groups together."""

    __slots__ = ("_count", "_decided", "_last", "_queues", "_taken")

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}  # of the groups that messages wait for
        self._last: dict[int, int] = {}  # the number of the last message for each group
        self._taken: dict[int, int] = {}  # the number of the last message from each group
        self._decided: dict[tuple[int, str, int], int] = {}  # (group, transaction, epoch) -> decisions that wait
        self._count = 0

    # --- messages to other groups ---

    def put(self, group: int, message: Content) -> int:
        """Adds a message for a group. Returns its number."""
        number = self._last[group] = self._last.get(group, 0) + 1
        self._add(group, number, message)
        return number

    def confirm(self, group: int, number: int) -> range:
        """Removes the messages for a group up to this number. Returns the numbers of those that waited."""
        queue = self._queues.get(group)
        if queue is None:
            return range(0)
        removed = range(queue.first, min(number, queue.last) + 1)
        for _ in removed:
            self._forget(group, queue.pop())
        if not queue:
            del self._queues[group]
        return removed

    def is_waiting(self, group: int, number: int) -> bool:
        """Whether the group has not confirmed this message yet."""
        queue = self._queues.get(group)
        return queue is not None and queue.first <= number <= queue.last

    def is_decision_waiting(self, group: int, name: str, epoch: int) -> bool:
        """Whether a decision on this transaction is on its way to the group."""
        return (group, name, epoch) in self._decided

    def count(self, group: int) -> int:
        """How many messages wait for a group."""
        return len(self._queues.get(group, ()))

    def waiting(self) -> dict[int, int]:
        """How many messages wait, by group in ascending order."""
        return {group: len(self._queues[group]) for group in sorted(self._queues)} if self._queues else {}

    def listed(self, own: int, group: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """(number, command) of the messages for a group above `after`, at most `limit`."""
        queue = self._queues.get(group)
        found = () if queue is None else queue.after(after, limit)
        return [(number, encode(GroupMessage(own, number, message))) for number, message in found]

    # --- messages from other groups ---

    def taken(self, group: int) -> int:
        """The number of the last message that was taken from a group; 0 before the first one."""
        return self._taken.get(group, 0)

    def take(self, group: int, number: int) -> None:
        """The message with this number, the next one, is taken from a group."""
        self._taken[group] = number

    # --- the whole of it ---

    def renumber(self) -> None:
        """Numbers what waits from 1, as if nothing had been sent or taken before."""
        queues, self._queues = self._queues, {}
        self._last, self._taken, self._decided, self._count = {}, {}, {}, 0
        for group, queue in queues.items():
            while queue:
                self.put(group, queue.pop())

    def queued(self) -> list[Queued]:
        """All that wait, by group. It stays as it is now, and no message is copied."""
        return [self._queues[group].queued(group) for group in sorted(self._queues)]

    def numbers(self) -> list[tuple[int, int, int]]:
        """(group, the last number to it, the last number taken from it)."""
        groups = sorted({**self._last, **self._taken})
        return [(group, self._last.get(group, 0), self._taken.get(group, 0)) for group in groups]

    def restore(self, group: int, number: int, message: Any) -> None:
        """Adds a row of `Queued.rows`, as it was decoded."""
        self._add(group, number, msgspec.convert(message, _KINDS))

    def restore_numbers(self, group: int, last: int, taken: int) -> None:
        """Adds a row of `numbers`."""
        if last:
            self._last[group] = last
        if taken:
            self._taken[group] = taken

    def discarding(self) -> Iterator[None]:
        """Frees the messages one by one. No view is open."""
        self._decided.clear()
        while self._queues:
            _, queue = self._queues.popitem()
            while queue:
                queue.pop()
                yield
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def _add(self, group: int, number: int, message: Content) -> None:
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = _Queue(number)
        queue.add(message)
        self._count += 1
        if isinstance(message, Decision):
            key = (group, message.transaction, message.epoch)
            self._decided[key] = self._decided.get(key, 0) + 1

    def _forget(self, group: int, message: Content) -> None:
        self._count -= 1
        if isinstance(message, Decision):
            key = (group, message.transaction, message.epoch)
            left = self._decided.pop(key) - 1
            if left:
                self._decided[key] = left
