"""Which ready message of a topic is next: strict priority, then order of enqueueing.

Owns the order of the ready messages, and no other module knows how it is kept. A policy that chooses another message,
such as fairness by key, belongs here. Does not count bytes and knows no timers: `delivery` does.
"""

from __future__ import annotations

from disheap_heap.state.messages import Message
from disheap_heap.tables.ordered import OrderedRecords


class ReadyMessages(OrderedRecords[Message]):
    """The ready messages of one topic. The least (rank, id) comes first."""

    __slots__ = ()

    def take_lowest(self, count: int) -> list[Message]:
        """Removes and returns the messages that a full topic drops. There must be as many. The last rank goes first,
        and in it the lowest id, which is the oldest."""
        dropped = self.take_last_rank(count)
        while len(dropped) < count:
            dropped += self.take_last_rank(count - len(dropped))
        return dropped
