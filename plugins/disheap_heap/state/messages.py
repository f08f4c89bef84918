"""A message, as the machine keeps it: immutable, so that a snapshot's view is a copy of a dict (pitfall 29).

It is a tuple that sorts: (rank, id) is the strict order of a topic in both modes. The rank is the priority, negated if
the largest comes first. A message does not know where it is: topics and leases hold it.

The body of a message is its payload. If it has headers or a key, the body is a `Content` with all three. So a message
without headers and key takes no memory for them. The size of both kinds of body is `len(body)`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from disheap.protocol.broker import Deliver


class Content(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The body of a message that has headers or a key. Headers stay as the bytes they came in."""

    payload: bytes
    encoded_headers: bytes
    key: str

    def __len__(self) -> int:
        """The bytes of all three; never 0."""
        key_bytes = len(self.key) if self.key.isascii() else len(self.key.encode())
        return len(self.payload) + len(self.encoded_headers) + key_bytes


Body = bytes | Content


class Message(NamedTuple):
    """A message as the queues hold it. Its place in the order is (rank, id)."""

    rank: int
    id: int
    attempts: int  # leases granted so far
    enqueued_ms: int
    expires_at_ms: int  # it is dropped if it is not leased then; 0 for never
    body: Body

    def after(self, attempts: int) -> Message:
        """The message after its lease has ended: the same id and so the same place, with this number of attempts."""
        rank, number, _, enqueued_ms, expires_at_ms, body = self
        # The constructor of a named tuple is a Python function, which takes as long again.
        return tuple.__new__(type(self), (rank, number, attempts, enqueued_ms, expires_at_ms, body))


class SharedMessage(Message):
    """A message of a publish that reached several topics, which all hold one body object. Which messages are of this
    class is state: it is the same on every replica, and does not change when the other messages are gone."""

    __slots__ = ()


def deliver(message: Message, consumer: int, epoch: int, priority: int, until_ms: int) -> Deliver:
    """The push that delivers a message. `message` counts the leases before this one."""
    _, number, attempts, enqueued_ms, _, body = message
    if type(body) is Content:
        payload, headers, key = body.payload, body.encoded_headers, body.key
        return Deliver(
            consumer, number, epoch, priority, enqueued_ms, payload, until_ms, attempts + 1, headers, key
        )  # fmt: skip
    return Deliver(consumer, number, epoch, priority, enqueued_ms, body, until_ms, attempts + 1)  # type: ignore[arg-type]
