"""One connection of the asyncio driver, as the transport sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from disheap.client.core.handshake import Handshake
from disheap.interfaces import Connection, Flushing

FAREWELL_BEHIND_BYTES = 64 << 10
"""A node that takes nothing would keep a longer queue in memory until TCP gives it up."""


class LinkOwner(Protocol):
    """What a link asks of its driver."""

    loop: asyncio.AbstractEventLoop

    def received(self, link: Link, data: bytes) -> None:
        """Bytes came on the link."""

    def pause(self, link: Link, paused: bool) -> None:
        """Too much waits to be sent on the link, or no longer."""

    def lose(self, link: Link, reason: str) -> None:
        """The connection, or the attempt to make one, is over."""


class Link:
    """A `Channel`, and the receiver of its connection. It begins as an attempt, which greets. One attempt becomes the
    session's connection. The driver ignores what other links still receive."""

    def __init__(self, owner: LinkOwner, address: str, handshake: Handshake) -> None:
        self.address = address
        self.handshake = handshake
        self.connection: Connection | None = None
        self.write_now: Callable[[bytes], None]  # of a connection that gathers; else its `write`
        self.gone: asyncio.Future[None] = owner.loop.create_future()
        self.dialing: asyncio.Task[None] | None = None
        self._owner = owner

    def end(self, farewell: bytes = b"") -> None:
        """Close the connection, or end the attempt. `farewell` goes out first unless too much waits before it."""
        if not self.gone.done():
            self.gone.set_result(None)
        if self.connection is not None and farewell and self.connection.buffered() < FAREWELL_BEHIND_BYTES:
            self.connection.write(farewell)
            self.connection.close()
        elif self.connection is not None:
            self.connection.abort()
        elif self.dialing is not None:
            self.dialing.cancel()

    # --- Receiver ---

    def connection_made(self, connection: Connection) -> None:
        """Greet."""
        self.connection = connection
        self.write_now = connection.write_now if isinstance(connection, Flushing) else connection.write
        connection.write(self.handshake.hello)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to the driver."""
        self._owner.received(self, data)

    def writing_paused(self) -> None:
        """Tell the driver that too much waits to be sent."""
        self._owner.pause(self, True)

    def writing_resumed(self) -> None:
        """Tell the driver that it may send again."""
        self._owner.pause(self, False)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the driver that the connection is over."""
        self._owner.lose(self, str(error) if error else "the node closed the connection")
