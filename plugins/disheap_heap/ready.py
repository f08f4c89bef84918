"""Which ready message of a topic is next: strict priority, then order of enqueueing.

Owns the order of the ready messages, and no other module knows how it is kept. A policy that chooses another message,
such as fairness by key, belongs here. Does not count bytes and knows no timers: `delivery` does.
"""

from __future__ import annotations

from disheap_heap.heap import StrictHeap
from disheap_heap.messages import Message

SORTED_SHARE = 4
"""To sort all messages takes less time than to take one in so many of them out of the heap."""


class ReadyMessages(StrictHeap[Message]):
    """The ready messages of one topic. The least (rank, id) comes first."""

    __slots__ = ()


class DroppingReadyMessages(ReadyMessages):
    """Also finds the message that a full topic drops: the last rank, and in it the lowest id, which is the oldest. A
    second heap keeps the ranks in reverse order."""

    __slots__ = ("_reversed",)

    def __init__(self) -> None:
        super().__init__()
        self._reversed: StrictHeap[tuple[int, int]] = StrictHeap()

    def push(self, record: Message) -> None:
        """Adds a message to both orders."""
        super().push(record)
        self._reversed.push((-record[0], record[1]))

    def push_new(self, records: list[Message]) -> None:
        """Adds new messages to both orders."""
        super().push_new(records)
        self._reversed.push_new([(-record[0], record[1]) for record in records])

    def load(self, records: dict[int, Message]) -> None:
        """Replaces all messages."""
        super().load(records)
        self._reversed.load({key: (-record[0], key) for key, record in records.items()})

    def pop(self) -> Message:
        """Removes and returns the first message. There must be one."""
        record = super().pop()
        self._reversed.remove(record[1])
        return record

    def remove(self, key: int) -> Message | None:
        """Removes and returns the message with this id, or returns None."""
        self._reversed.remove(key)
        return super().remove(key)

    def drain(self) -> Message | None:
        """Takes any message or piece of garbage out, or returns None if there is none."""
        record = super().drain()
        if record is not None:
            self._reversed.remove(record[1])
        return record

    def take_lowest(self, count: int) -> list[Message]:
        """Removes and returns the messages to drop. There must be as many."""
        if count == 1:
            message = super().remove(self._reversed.pop()[1])
            assert message is not None
            return [message]
        if count * SORTED_SHARE < len(self):
            return super().remove_many([self._reversed.pop()[1] for _ in range(count)])
        lowest = [key for _, key in sorted(self._reversed.by_id().values())[:count]]
        self._reversed.remove_many(lowest)
        return super().remove_many(lowest)


def no_messages(drops: bool) -> ReadyMessages:
    """An empty queue. `drops`: the topic drops messages when it is full."""
    return DroppingReadyMessages() if drops else ReadyMessages()
