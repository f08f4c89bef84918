"""Where clients and peers connect to a node.

Owns the listeners and the transports that they came from. Does not know what a connection says.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.interfaces import Connection, Listener, Receiver, Reloading, Transport


class Listeners:
    """`is_open` says whether the node serves already."""

    def __init__(self, is_open: Callable[[], bool]) -> None:
        self._is_open = is_open
        self._transports: list[Transport] = []
        self._listeners: list[Listener] = []

    def add_transports(self, *transports: Transport) -> None:
        """Remember the transports for `reload`."""
        self._transports += transports

    async def listen(
        self,
        transport: Transport,
        address: str,
        accept: Callable[[], Receiver],
        before: Callable[[], Receiver] | None = None,
    ) -> str:
        """Returns the address, with the port that was chosen where 0 was asked for. `before` makes the receivers of
        connections that come before the node serves; without it they are turned away. Raises `ConfigError`."""
        early = before or RefusingReceiver
        listener = await transport.listen(address, lambda: accept() if self._is_open() else early())
        self._listeners.append(listener)
        return listener.address

    def reload(self) -> None:
        """Read the transports' files again, such as certificates. Connections made from now on use them. Raises
        `ConfigError` for a file that cannot be used: that transport goes on with what it had."""
        for transport in self._transports:
            if isinstance(transport, Reloading):
                transport.reload()

    async def close(self) -> None:
        """Stop listening. May be called twice."""
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()


class RefusingReceiver:
    """Closes each connection to a node that still recovers its data, as if the port were not open yet."""

    def connection_made(self, connection: Connection) -> None:
        """Close the connection at once."""
        connection.abort()

    def data_received(self, data: bytes) -> None:
        """Ignored: the connection is closed."""

    def writing_paused(self) -> None:
        """Ignored: nothing is written."""

    def writing_resumed(self) -> None:
        """Ignored: nothing is written."""

    def connection_lost(self, error: Exception | None) -> None:
        """Ignored: nothing is held."""
