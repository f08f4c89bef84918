"""A pair of sockets by which one thread ends another's wait."""

from __future__ import annotations

import select
import socket
from contextlib import suppress


class Waker:
    """A pair of sockets that wakes an event loop, so that it calls `dispatch`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._reader.fileno()

    def wake(self) -> None:
        """From any thread, any number of times; one byte is under way at most (a second does no harm)."""
        if not self._rung:
            self._rung = True
            with suppress(OSError):
                self._writer.send(b"\0")

    def quiet(self) -> None:
        """Before looking at what there is to do: a wake that comes after counts again."""
        self._rung = False
        with suppress(OSError):
            self._reader.recv(4096)

    def wait(self, descriptor: int, seconds: float) -> None:
        """Until `descriptor` (unless negative) is readable, somebody wakes us, or time is up."""
        descriptors = [self._reader.fileno(), *([descriptor] if descriptor >= 0 else [])]
        if hasattr(select, "poll"):
            poller = select.poll()
            for known in descriptors:
                poller.register(known, select.POLLIN)
            poller.poll(seconds * 1000)
        else:  # eventlet takes it away
            select.select(descriptors, [], [], seconds)
        if self._rung:
            self.quiet()

    def close(self) -> None:
        """Closes both sockets."""
        self._reader.close()
        self._writer.close()
