"""A blocking socket with one timeout. It is set only when it changes, which saves a system call on every round trip."""

from __future__ import annotations

from disheap.interfaces import BlockingSocket

READ_BYTES = 64 << 10

_NOTHING_YET = (BlockingIOError, TimeoutError, InterruptedError)
_TLS_NOTHING_YET = ("SSLWantReadError", "SSLWantWriteError")  # by name: ssl need not be loaded


class Wire:
    """One socket."""

    def __init__(self, connection: BlockingSocket, address: str, waits: bool = True) -> None:
        """`waits`: whether the socket blocks as it is given."""
        self.address = address
        self._socket = connection
        self._timeout_s: float | None = None if waits else 0.0

    def write(self, data: bytes | memoryview, timeout_s: float) -> int:
        """Returns how many bytes were taken; 0 if none were in time. A shorter timeout, of a read before, becomes
        `timeout_s`. Raises `OSError` at the end of the connection."""
        if (self._timeout_s or 0.0) < timeout_s:
            self._set(timeout_s)
        try:
            return self._socket.send(data)
        except OSError as error:
            if _is_not_ready(error):
                return 0
            raise

    def read(self, timeout_s: float) -> bytes | None:
        """Returns None if nothing came in time. With 0.0 it does not wait. Raises `OSError` at the end of the
        connection."""
        if self._timeout_s != timeout_s:
            self._set(timeout_s)
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError as error:
            if _is_not_ready(error):
                return None
            raise
        if not data:
            raise ConnectionResetError("the node closed the connection")
        return data

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _set(self, timeout_s: float) -> None:
        """Both calls are needed: eventlet's TLS socket takes a timeout of 0.0 for one that waits for ever."""
        if (self._timeout_s != 0.0) != (timeout_s != 0.0):
            self._socket.setblocking(timeout_s != 0.0)
        if timeout_s != 0.0:
            self._socket.settimeout(timeout_s)
        self._timeout_s = timeout_s


def _is_not_ready(error: OSError) -> bool:
    return isinstance(error, _NOTHING_YET) or type(error).__name__ in _TLS_NOTHING_YET
