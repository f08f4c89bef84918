"""A delivered message as both drivers show it: what it is, and whether it is settled. How to settle it is theirs."""

from __future__ import annotations

from traceback import format_exception_only

from disheap.errors import LeaseLost
from disheap.protocol import broker
from disheap.protocol.broker import HeaderValue, decode_headers


class Delivered:
    """One message under one lease. `settled` is true once this side has acknowledged it or given it back, and from the
    start where nothing has to be acknowledged."""

    __slots__ = ("_headers", "_push", "settled")
    _driver: object  # of the client that settles it

    def __init__(self, push: broker.Deliver) -> None:
        self._push = push
        self._headers: dict[str, HeaderValue] | None = None
        self.settled = not push.epoch

    @property
    def id(self) -> int:
        """The message's number, the same at every delivery."""
        return self._push.id

    @property
    def payload(self) -> bytes:
        """The bytes that were enqueued."""
        return self._push.payload

    @property
    def priority(self) -> int:
        """As it was enqueued: a signed 64-bit number."""
        return self._push.priority

    @property
    def headers(self) -> dict[str, HeaderValue]:
        """As they were enqueued; `{}` without any. Decoded when they are first asked for. Raises `InvalidHeaders` if
        the node sent what cannot be read."""
        if self._headers is None:
            self._headers = decode_headers(self._push.encoded_headers)
        return self._headers

    @property
    def key(self) -> str:
        """As it was enqueued; "" without one."""
        return self._push.key

    @property
    def attempts(self) -> int:
        """How often the message was delivered, this time included, without deliveries that were released."""
        return self._push.attempts

    @property
    def death(self) -> broker.Death | None:
        """Why, where and when it was dead-lettered; None if it is no dead letter."""
        return broker.death_of(self.headers)

    @property
    def redelivered(self) -> bool:
        """Whether the message was delivered before. What was done with it then is not known."""
        return self._push.attempts > 1

    @property
    def enqueued_ms(self) -> int:
        """When it was first enqueued, in the cluster's time."""
        return self._push.enqueued_ms

    @property
    def lease_until_ms(self) -> int:
        """In the cluster's time; 0 when the lease ends with the session."""
        return self._push.lease_until_ms

    @property
    def token(self) -> broker.Token:
        """(id, epoch): what names the lease in a command of one's own, such as `broker.Ack`."""
        return (self._push.id, self._push.epoch)

    def _nack(self, delay_ms: int, discard: bool, release: bool, error: str) -> broker.Nack:
        return broker.Nack([self.token], delay_ms, discard, release, shortened(error))

    def _check(self, reply: broker.Settled) -> None:
        if self.token in reply.stale:
            raise LeaseLost(f"the lease on message {self.id} was no longer ours; nothing was changed")

    def __repr__(self) -> str:
        return f"<Delivery {self.id} priority={self.priority} attempts={self.attempts} {len(self.payload)} bytes>"


def shortened(error: str) -> str:
    """An error as a Nack may tell it: the first `broker.ERROR_CHARACTERS`, and nothing that UTF-8 has no form for."""
    return error[: broker.ERROR_CHARACTERS].encode(errors="replace").decode()


def told(error: BaseException) -> str:
    """An exception as a Nack tells it: its type and its text."""
    return shortened("".join(format_exception_only(error)).strip())
