"""One connection of the asyncio driver, as the transport sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from disheap.interfaces import Connection

if TYPE_CHECKING:
    from disheap.client.driver import Driver


class Link:
    """The receiver of one connection. What an old one still says is not heard."""

    def __init__(self, driver: Driver, address: str) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.gone: asyncio.Future[None] = driver.loop.create_future()
        self._driver = driver

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self._driver.linked(self)

    def data_received(self, data: bytes) -> None:
        self._driver.received(self, data)

    def writing_paused(self) -> None:
        self._driver.paused = True

    def writing_resumed(self) -> None:
        self._driver.paused = False
        self._driver.wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._driver.unlink(self, str(error) if error else "the node closed the connection")
