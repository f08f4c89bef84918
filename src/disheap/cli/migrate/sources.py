"""Where messages come from: a queue of a broker that kombu speaks to.

A source shows the next messages, and removes them when the target has confirmed them. So whatever ends the command,
each message is at the source or at the target. `ChannelSource` takes messages as a consumer does, and acknowledges
them. A message that was not acknowledged goes back when the connection ends.
"""

from __future__ import annotations

from typing import Any, Protocol

from disheap.cli.migrate.waiting import Waiting, queue_of, waiting
from disheap.errors import ConfigError


class Source(Protocol):
    """One queue of another broker."""

    def count(self) -> int:
        """How many messages wait. Raises `ConfigError` if there is no such queue."""

    def consumers(self) -> int:
        """How many consumers the queue has, as far as the broker tells."""

    def take(self, most: int) -> list[tuple[str, Waiting]]:
        """The next messages, each with the queue that it is for. They stay at the source. Empty: none is left."""

    def remove(self, taken: list[Waiting]) -> int:
        """Removes messages that were taken. Returns how many of them somebody else has taken meanwhile."""


class ChannelSource:
    """A queue of AMQP's kind. Its messages are held by this connection until they are acknowledged."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    def count(self) -> int:
        """The messages that are ready. Those that a worker holds do not count."""
        return int(self._declared().message_count)

    def consumers(self) -> int:
        """The consumers of the queue."""
        return int(self._declared().consumer_count or 0)

    def take(self, most: int) -> list[tuple[str, Waiting]]:
        """Gets messages one by one, in the order in which the broker gives them."""
        taken: list[tuple[str, Waiting]] = []
        while len(taken) < most:
            raw = self._channel.basic_get(self._queue, no_ack=False)
            if raw is None:
                break
            message = raw if hasattr(raw, "decode") else self._channel.message_to_python(raw)
            taken.append((queue_of(message, self._queue), waiting(message, message.delivery_tag)))
        return taken

    def remove(self, taken: list[Waiting]) -> int:
        """Acknowledges them."""
        for message in taken:
            self._channel.basic_ack(message.handle)
        return 0

    def _declared(self) -> Any:
        try:
            return self._channel.queue_declare(self._queue, passive=True)
        except self._channel.connection.client.channel_errors as error:
            raise ConfigError(
                f"the source has no queue {self._queue!r} ({error}). Name one that it has; nothing was moved"
            ) from error
