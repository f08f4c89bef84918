"""One consumer of a channel: what its callback is, and which number the broker knows it by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from amqp.exceptions import ConsumerCancelled

from disheap.protocol import broker

if TYPE_CHECKING:
    from kombu.message import Message


class ConsumingChannel(Protocol):
    """What a subscription asks of its channel."""

    def incoming(self, push: broker.Deliver, consumer_tag: str | None, no_ack: bool = False) -> Message:
        """Makes a kombu message from a delivery."""

    def remove_consumer(self, consumer_tag: str) -> Any:
        """The consumer has ended."""


class Subscription:
    """One consumer: a tag here, a number at the broker."""

    __slots__ = ("callback", "channel", "group", "no_ack", "number", "on_cancel", "tag")

    def __init__(
        self,
        channel: ConsumingChannel,
        tag: str,
        callback: Callable[[Message], Any],
        no_ack: bool,
        on_cancel: Callable[[str], Any] | None,
    ) -> None:
        self.channel = channel
        self.tag = tag
        self.callback = callback
        self.no_ack = no_ack
        self.on_cancel = on_cancel
        self.number = 0
        self.group = 0  # the number under which it shares its credit; 0 for one without acks

    def receive(self, push: broker.Deliver) -> Message:
        """The message for the consumer's callback."""
        return self.channel.incoming(push, self.tag, self.no_ack)

    def ended(self, reason: str) -> None:
        """The queue is gone or has another owner (AMQP's basic.cancel from the server). Raises `ConsumerCancelled` if
        the consumer has no `on_cancel`."""
        self.channel.remove_consumer(self.tag)
        if self.on_cancel is None:
            raise ConsumerCancelled(f"consumer {self.tag}: {reason}")
        self.on_cancel(self.tag)
