"""A message, as the machine keeps it: immutable, so that a snapshot's view is a copy of a dict (pitfall 29).

It is a tuple that sorts: (rank, id) is the strict order of a topic in both modes. The rank is the priority, negated if
the largest comes first. A message does not know where it is: topics and leases hold it.

The body of a message is its payload. If it has headers or a key, the body is a `Content` with all three. So a message
without headers and key takes no memory for them. The size of both kinds of body is `len(body)`.

A lease that is released does not count as an attempt: its consumer had not begun the message. The epoch of the next
lease is higher all the same. One number holds both: `tally` is the number of attempts, and `RELEASED` more for each
release. So a message that was never released takes no more memory or time.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from disheap.protocol.broker import Deliver

RELEASED = 1 << 32
"""What a release adds to `Message.tally`. The lower bits count the attempts."""
ATTEMPTS = RELEASED - 1
TALLY_MAX = (1 << 63) - RELEASED - 1
"""Above this a release counts as an attempt, so that an epoch stays a signed 64-bit integer."""


class Content(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The body of a message that has headers or a key. Headers stay as the bytes they came in. `passed`: the numbers of
    topics that the message left since a consumer had it last, because it expired or the topic was full."""

    payload: bytes
    encoded_headers: bytes
    key: str
    passed: tuple[int, ...] = ()

    def __len__(self) -> int:
        """The bytes of all three; never 0."""
        key_bytes = len(self.key) if self.key.isascii() else len(self.key.encode())
        return len(self.payload) + len(self.encoded_headers) + key_bytes


Body = bytes | Content


class Message(NamedTuple):
    """A message as the queues hold it. Its place in the order is (rank, id)."""

    rank: int
    id: int
    tally: int  # attempts so far, and `RELEASED` for each release. The epoch of the next lease is one more
    enqueued_ms: int
    expires_at_ms: int  # it is dropped if it is not leased then; 0 for never
    body: Body

    @property
    def attempts(self) -> int:
        """How many of its leases counted so far."""
        return self.tally & ATTEMPTS

    def after(self, epoch: int) -> Message:
        """The message after a lease of this epoch, which counts: the same id and so the same place."""
        rank, number, _, enqueued_ms, expires_at_ms, body = self
        # The constructor of a named tuple is a Python function, which takes as long again.
        return tuple.__new__(type(self), (rank, number, epoch, enqueued_ms, expires_at_ms, body))

    def released(self) -> Message:
        """The message after a lease that does not count. `self` is the message as it was leased."""
        tally = self.tally + (RELEASED if self.tally <= TALLY_MAX else 1)
        return self.after(tally)


class SharedMessage(Message):
    """A message of a publish that reached several topics, which all hold one body object. Which messages are of this
    class is state: it is the same on every replica, and does not change when the other messages are gone."""

    __slots__ = ()


def deliver(message: Message, consumer: int, epoch: int, priority: int, until_ms: int) -> Deliver:
    """The push that delivers a message. `message` counts the attempts before this one."""
    _, number, tally, enqueued_ms, _, body = message
    attempts = tally & ATTEMPTS
    if type(body) is Content:
        payload, headers, key = body.payload, body.encoded_headers, body.key
        return Deliver(
            consumer, number, epoch, priority, enqueued_ms, payload, until_ms, attempts + 1, headers, key
        )  # fmt: skip
    return Deliver(consumer, number, epoch, priority, enqueued_ms, body, until_ms, attempts + 1)  # type: ignore[arg-type]
