"""One connection of the blocking driver. It begins as an attempt: dialing, then handshake. Several are under way at
once, and none waits. One of them becomes the connection."""

from __future__ import annotations

from contextlib import suppress

from disheap.client.core.handshake import Handshake
from disheap.client.io.wire import Wire
from disheap.errors import ConnectionLost
from disheap.interfaces import PendingSocket


class SocketChannel:
    """A `Channel` over one socket."""

    def __init__(self, address: str, pending: PendingSocket, handshake: Handshake) -> None:
        self.address = address
        self.handshake = handshake
        self._wire: Wire | None = None  # once it is connected
        self._pending = pending
        self._unsent = memoryview(b"")

    def advance(self) -> bytes | None:
        """Make progress with the attempt, and do not wait. Returns what came. Raises `ConnectionLost`, and `OSError`
        while it connects."""
        if self._wire is None:
            connected = self._pending.advance()
            if connected is None:
                return None
            self._wire = Wire(connected, self.address, waits=False)
            self._unsent = memoryview(self.handshake.hello)
        try:
            if self._unsent:
                self._unsent = self._unsent[self._wire.write(self._unsent, 0.0) :]
            return self._wire.read(0.0)
        except OSError as error:
            closed = isinstance(error, ConnectionResetError) and not error.errno
            raise ConnectionLost(self._pending.explain(None if closed else error)) from error

    @property
    def wanted(self) -> tuple[int, bool]:
        """The descriptor that an attempt waits for, and whether for writing."""
        if self._wire is not None:
            return self._wire.fileno(), bool(self._unsent)
        return self._pending.fileno(), self._pending.wants_write

    def write(self, data: memoryview, timeout_s: float) -> int:
        """Returns how many bytes were taken within `timeout_s`. Raises `OSError` at the end of the connection."""
        assert self._wire is not None
        return self._wire.write(data, timeout_s)

    def read(self, timeout_s: float) -> bytes | None:
        """Returns what came within `timeout_s`, or None. Raises `OSError` at the end of the connection."""
        assert self._wire is not None
        return self._wire.read(timeout_s)

    def fileno(self) -> int:
        """The descriptor of the connection."""
        assert self._wire is not None
        return self._wire.fileno()

    def end(self, farewell: bytes = b"") -> None:
        """Close the socket. `farewell` goes out first, as far as the socket takes it at once."""
        if self._wire is None:
            self._pending.close()
            return
        if farewell:
            with suppress(OSError):  # the connection may be gone
                self._wire.write(farewell, 0.0)
        self._wire.close()
