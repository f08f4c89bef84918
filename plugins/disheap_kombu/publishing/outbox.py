"""What a connection sends without waiting for an answer: commands, nacks, and acks that are gathered.

Translates the driver's errors into kombu's. Decides nothing about when acks are sent, and takes no lock: `Connection`
does both.
"""

from __future__ import annotations

from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import DisheapError, RequestError
from disheap.protocol import broker
from disheap_kombu.failures import translated


class Outbox:
    """The sending side of one driver. Every method but `add_acks` may raise kombu's errors."""

    def __init__(self, driver: BlockingClient) -> None:
        self._driver = driver
        self._acks: list[broker.Token] = []

    @property
    def acks(self) -> int:
        """How many acks are gathered and not sent."""
        return len(self._acks)

    def add_acks(self, tokens: list[broker.Token]) -> None:
        """Gathers acks for `send_acks`."""
        self._acks.extend(tokens)

    def send_acks(self) -> None:
        """Sends the gathered acks, `TOKENS_MAX` in one command."""
        while self._acks:
            tokens = self._acks[: broker.TOKENS_MAX]
            del self._acks[: len(tokens)]
            self.send(broker.Ack(tokens))

    def send_nacks(self, tokens: list[broker.Token], discard: bool = False, release: bool = False) -> None:
        """Gives messages back to their places. With `discard` they are dead-lettered or dropped. With `release` no
        callback has had them, and this delivery does not count."""
        for start in range(0, len(tokens), broker.TOKENS_MAX):
            self.send(broker.Nack(tokens[start : start + broker.TOKENS_MAX], 0, discard, release))

    def send(self, command: broker.Command) -> None:
        """Pipelines a command. `flush` hands it to the socket."""
        try:
            self._driver.send(command)
        except DisheapError as error:
            raise translated(error) from error

    def flush(self) -> None:
        """Hands everything pipelined to the socket."""
        try:
            self._driver.flush()
        except RequestError as error:
            raise translated(error) from error

    def clear(self) -> None:
        """Forgets the gathered acks."""
        self._acks.clear()
