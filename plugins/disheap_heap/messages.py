"""A message, as the machine keeps it: immutable, so that a snapshot's view is a copy of a dict (pitfall 29).

It is a tuple that sorts: (rank, id) is the strict order of a topic, whichever its mode. Rank is the priority, negated
where the largest comes first. Where a message waits is not its business: topics and leases hold it.
"""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """A message as the queues hold it. Its place in the order is (rank, id)."""

    rank: int
    id: int
    attempts: int  # leases granted so far
    enqueued_ms: int
    expires_at_ms: int  # dropped when still waiting then; 0 for never
    payload: bytes

    def after(self, attempts: int) -> Message:
        """The same message, come back from a lease: same id, same place."""
        return type(self)(self.rank, self.id, attempts, self.enqueued_ms, self.expires_at_ms, self.payload)


class SharedMessage(Message):
    """A message of a publish that reached several topics: all of them hold one payload object. Which messages are of
    this class is state, and the same on every replica; it stays so when the others are gone."""

    __slots__ = ()
