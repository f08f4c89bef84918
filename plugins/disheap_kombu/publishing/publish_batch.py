"""What `Producer.batch` of kombu 5.7 publishes: messages that are gathered, and sent as one `Batch` command.

kombu creates one for a `with` block (`Channel.create_publish_batch`), and calls it by the names below. Either all
messages of a command are in their queues, or none. A batch that is larger than one command may be is sent in several,
each by itself. After an error nothing more goes through the batch: kombu publishes again, with another one. Transient
messages are sent with the others, and so they are confirmed too.
"""

from __future__ import annotations

from typing import Any, Protocol

from disheap.protocol import broker
from disheap_kombu.publishing.messages import Outgoing

COMMAND_BYTES = 1 << 20
"""The messages of one command have at most so many bytes, or as many as the node takes, if that is less. One message
may have more. A larger command would gain nothing, and copying it takes the loop of each node 1 ms."""
PART_BYTES = 64
"""The size of a message beside its payload, its exchange and its routing key."""


class PublishingChannel(Protocol):
    """What a batch asks of its channel."""

    @property
    def command_bytes(self) -> int:
        """The longest command that the node takes, in bytes."""

    def publication(
        self, message: Any, exchange: str, routing_key: str, immediate: bool
    ) -> tuple[Outgoing, broker.Publish]:
        """The message, and the command that publishes it."""

    def publish_batch(self, commands: list[broker.Publish], timeout_s: float | None) -> list[int]:
        """Publishes all or none. Returns into how many queues each message went."""

    def return_message(self, message: Outgoing, exchange: str, routing_key: str) -> None:
        """No queue took a mandatory message."""


class PublishBatch:
    """The messages of one `with` block. `channel` is kombu's name."""

    def __init__(self, channel: PublishingChannel, max_size: int) -> None:
        """`max_size`: messages of one command, at most."""
        self.channel = channel
        self._max_size = min(max_size, broker.BATCH_PARTS_MAX)
        self._commands: list[broker.Publish] = []
        self._mandatory: dict[int, Outgoing] = {}  # by place in `_commands`
        self._bytes = 0
        self._timeout_s: float | None = None
        self._is_over = ""  # why nothing more goes through it

    def publish(
        self,
        message: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **_: Any,
    ) -> None:
        """Adds a message, and sends what is gathered if that is enough for one command. The parameters are those of
        `basic_publish`."""
        self._check()
        message, command = self.channel.publication(message, exchange, routing_key, immediate)
        size = PART_BYTES + len(command.message.payload) + 4 * (len(command.exchange) + len(command.routing_key))
        if self._commands and self._bytes + size > min(COMMAND_BYTES, self.channel.command_bytes):
            self.flush()
        if mandatory:
            self._mandatory[len(self._commands)] = message
        self._commands.append(command)
        self._bytes += size
        self._timeout_s = confirm_timeout or timeout or self._timeout_s
        if len(self._commands) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Sends what is gathered, and waits until it is on the disks of a majority. Raises as `basic_publish`."""
        self._check()
        if not self._commands:
            return
        commands, mandatory = self._commands, self._mandatory
        self._clear()
        try:
            results = self.channel.publish_batch(commands, self._timeout_s)
        except BaseException:
            self._is_over = "a part of it was refused, or its outcome is not known"
            raise
        for place, message in mandatory.items():
            if not results[place]:
                self.channel.return_message(message, commands[place].exchange, commands[place].routing_key)

    def discard(self) -> None:
        """Forgets what was not sent."""
        self._is_over = self._is_over or "it was discarded"
        self._clear()

    def close(self) -> None:
        """Ends the batch. What was not sent is forgotten."""
        self._is_over = self._is_over or "it was closed"
        self._clear()

    def _clear(self) -> None:
        self._commands, self._mandatory, self._bytes = [], {}, 0

    def _check(self) -> None:
        if self._is_over:
            raise RuntimeError(f"this batch takes no more messages: {self._is_over}. Begin another `Producer.batch()`")
