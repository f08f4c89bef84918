"""One connection of the asyncio driver, as the transport sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from disheap.interfaces import Connection

if TYPE_CHECKING:
    from disheap.client.core.greeting import Greeting
    from disheap.client.io.asyncio_driver import Driver


FAREWELL_BEHIND_BYTES = 64 << 10
"""A node that takes nothing would keep a longer queue in memory until TCP gives it up."""


class Link:
    """The receiver of one connection: first an attempt, which greets, then perhaps the session's. What an old one
    still says is not heard."""

    def __init__(self, driver: Driver, address: str, greeting: Greeting) -> None:
        self.address = address
        self.greeting = greeting
        self.connection: Connection | None = None
        self.gone: asyncio.Future[None] = driver.loop.create_future()
        self.dialing: asyncio.Task[None] | None = None
        self._driver = driver

    def end(self, farewell: bytes = b"") -> None:
        """Drop the connection, or what would become one; say `farewell` unless too much waits before it."""
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
        self.connection = connection
        connection.write(self.greeting.hello)

    def data_received(self, data: bytes) -> None:
        self._driver.received(self, data)

    def writing_paused(self) -> None:
        self._driver.pause(self, True)

    def writing_resumed(self) -> None:
        self._driver.pause(self, False)

    def connection_lost(self, error: Exception | None) -> None:
        self._driver.unlink(self, str(error) if error else "the node closed the connection")
