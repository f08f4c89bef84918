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
        self._is_woken = False

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._reader.fileno()

    def wake(self) -> None:
        """From any thread, any number of times. At most one byte is under way (a second one does no harm)."""
        if not self._is_woken:
            self._is_woken = True
            with suppress(OSError):
                self._writer.send(b"\0")

    def reset(self) -> None:
        """Call it before you look for work: a wake that comes later counts again. The byte goes first. A wake between
        the two steps would otherwise lose its byte, and all later ones would send none."""
        with suppress(OSError):
            self._reader.recv(4096)
        self._is_woken = False

    def wait(self, descriptor: int, seconds: float) -> None:
        """Waits until `descriptor` (unless negative) is readable, `wake` was called, or time is up."""
        descriptors = [self._reader.fileno(), *([descriptor] if descriptor >= 0 else [])]
        if hasattr(select, "poll"):
            poller = select.poll()
            for known in descriptors:
                poller.register(known, select.POLLIN)
            poller.poll(seconds * 1000)
        else:  # eventlet takes it away
            select.select(descriptors, [], [], seconds)
        if self._is_woken:
            self.reset()

    def close(self) -> None:
        """Closes both sockets."""
        self._reader.close()
        self._writer.close()
