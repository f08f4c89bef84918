"""A message, as the machine keeps it: immutable, so that a snapshot's view is a copy of a dict (pitfall 29).

It is a tuple that sorts: (rank, id) is the strict order of a topic in both modes. The rank is the priority, negated if
the largest comes first. A message does not know where it is: topics and leases hold it.
"""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """A message as the queues hold it. Its place in the order is (rank, id)."""

    rank: int
    id: int
    attempts: int  # leases granted so far
    enqueued_ms: int
    expires_at_ms: int  # it is dropped if it is not leased then; 0 for never
    payload: bytes

    def after(self, attempts: int) -> Message:
        """The message after its lease has ended: the same id and so the same place, with this number of attempts."""
        return type(self)(self.rank, self.id, attempts, self.enqueued_ms, self.expires_at_ms, self.payload)


class SharedMessage(Message):
    """A message of a publish that reached several topics, which all hold one payload object. Which messages are of this
    class is state: it is the same on every replica, and does not change when the other messages are gone."""

    __slots__ = ()
