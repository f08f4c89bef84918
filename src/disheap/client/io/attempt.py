"""One attempt of the blocking driver to connect: dialing, then greeting. Several are under way at once; none waits."""

from __future__ import annotations

from disheap.client.core.greeting import Answer, Greeting
from disheap.client.io.wire import Wire
from disheap.errors import ConnectionLost
from disheap.interfaces import PendingSocket


class Attempt:
    def __init__(self, address: str, pending: PendingSocket, greeting: Greeting) -> None:
        self.address = address
        self.greeting = greeting
        self.wire: Wire | None = None  # once it is connected
        self._pending = pending
        self._unsent = memoryview(b"")

    def advance(self) -> Answer | None:
        """What the node answered, or None while it has not. Raises `ConnectionLost`, and `ProtocolError` where this is
        no node of ours."""
        if self.wire is None:
            connected = self._pending.advance()
            if connected is None:
                return None
            self.wire = Wire(connected, self.address, waits=False)
            self._unsent = memoryview(self.greeting.hello)
        try:
            if self._unsent:
                self._unsent = self._unsent[self.wire.write(self._unsent, 0.0) :]
            data = self.wire.read(0.0)
        except OSError as error:
            closed = isinstance(error, ConnectionResetError) and not error.errno
            raise ConnectionLost(self._pending.explain(None if closed else error)) from error
        return self.greeting.receive(data) if data is not None else None

    @property
    def wanted(self) -> tuple[int, bool]:
        """The descriptor to wait for, and whether for writing."""
        if self.wire is not None:
            return self.wire.fileno(), bool(self._unsent)
        return self._pending.fileno(), self._pending.wants_write

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()
        else:
            self._pending.close()
