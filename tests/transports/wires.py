"""A receiver to look at, for tests of what is particular to one transport; the rest is in the conformance suite."""

from __future__ import annotations

import asyncio

from disheap.interfaces import Connection


class Wire:
    """Echoes when asked to, and can be waited for."""

    def __init__(self, echo: bool = False) -> None:
        self.connection: Connection
        self.data = b""
        self.error: Exception | None = None
        self.made = asyncio.Event()
        self.got = asyncio.Event()
        self.lost = asyncio.Event()
        self.paused = asyncio.Event()
        self._echo = echo

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.got.set()
        if self._echo:
            self.connection.write(data)

    def writing_paused(self) -> None:
        self.paused.set()

    def writing_resumed(self) -> None:
        self.paused.clear()

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self.lost.set()


class Door:
    """`accept` for a listener, and whoever came in."""

    def __init__(self, echo: bool = False) -> None:
        self.wires: list[Wire] = []
        self._echo = echo

    def __call__(self) -> Wire:
        self.wires.append(Wire(self._echo))
        return self.wires[-1]
