"""Connections that are being made without a loop, for the blocking client. Nothing here waits, except for the
resolution of a host's name.

A client has several of these under way at once. Sockets that gevent or eventlet have replaced behave the same: they
are told not to block, and then only their own system calls are used.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

from disheap.errors import ConnectionLost, DisheapError
from disheap_tcp.address import Address
from disheap_tcp.link import Explain, explain
from disheap_tcp.options import TcpSettings, tune
from disheap_tcp.sockets import cannot_connect

_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR)


class Connecting:
    """Tries each address that the host's name stands for, the next one when the one before has failed."""

    _explain: Explain = staticmethod(explain)

    def __init__(self, settings: TcpSettings, remote: Address) -> None:
        self.wants_write = True
        self._settings = settings
        self._remote = remote
        self._socket: socket.socket | None = None
        try:
            found = socket.getaddrinfo(remote.host, remote.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise cannot_connect(remote, error, explain) from error
        self._places: Iterator[tuple[int, Any]] = iter([(family, where) for family, _, _, _, where in found])
        self._next_place(ConnectionLost(f"{remote}: the host's name has no address"))

    def fileno(self) -> int:
        """The descriptor to wait for, or -1 if there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    def advance(self) -> Any:
        """Goes on after the descriptor is writable. Returns the connected socket, or None if it takes longer."""
        assert self._socket is not None
        if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next_place(self._failure(OSError(error, os.strerror(error))))
        elif _is_connected(self._socket):
            tune(self._socket, self._settings)
            return self._release()
        return None

    def explain(self, error: OSError | None) -> str:
        """Returns the reason for a failed connection, as text."""
        return explain(error) if error is not None else "it closed the connection before it said anything"

    def close(self) -> None:
        """Gives the attempt up."""
        if self._socket is not None:
            self._socket.close()

    def _release(self) -> socket.socket:
        assert self._socket is not None
        connected, self._socket = self._socket, None
        return connected

    def _next_place(self, failure: DisheapError) -> None:
        self.close()
        for family, where in self._places:
            try:
                self._socket = socket.socket(family, socket.SOCK_STREAM)
                self._socket.setblocking(False)
                if (error := self._socket.connect_ex(where)) in _UNDER_WAY:
                    return
                failure = self._failure(OSError(error, os.strerror(error)))
            except OSError as error:  # this machine may lack one family of addresses
                failure = self._failure(error)
            self.close()
        raise failure

    def _failure(self, error: OSError) -> DisheapError:
        return cannot_connect(self._remote, error, self._explain)


def _is_connected(sock: socket.socket) -> bool:
    """A socket that is neither connected nor failed has no peer yet."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
