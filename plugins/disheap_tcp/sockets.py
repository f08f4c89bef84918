"""Sockets as both transports want them: bound, listening, connected; and what goes wrong with them, in words.

Knows nothing of TLS: `tls.py` gives what asyncio needs for it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any

from disheap.errors import AddressInUse, ConfigError, ConnectionLost, DisheapError
from disheap_tcp.address import Address, parse
from disheap_tcp.link import Explain, Link, explain, forget_frames


class SocketListener:
    """The sockets of one address; a name such as localhost may stand for several."""

    def __init__(self, address: str, servers: Sequence[asyncio.AbstractServer]) -> None:
        self.address = address
        self._servers = servers

    async def close(self) -> None:
        """Frees the address. Connections go on."""
        for server in self._servers:
            server.close()  # not wait_closed: since 3.12 that waits for the connections too, and they go on
        await asyncio.sleep(0)  # uvloop closes a handle in the next round of the loop


async def listen(
    loop: asyncio.AbstractEventLoop, address: str, factory: Callable[[], asyncio.Protocol], backlog: int
) -> SocketListener:
    """Raises `AddressInUse`, `ConfigError`."""
    bound, listening = await bind(loop, address, backlog)
    servers = [await loop.create_server(factory, sock=sock, backlog=backlog) for sock in listening]
    return SocketListener(bound, servers)


async def bind(loop: asyncio.AbstractEventLoop, address: str, backlog: int) -> tuple[str, list[socket.socket]]:
    """The address with its port, and listening sockets: a name may stand for several. Raises as `listen` does."""
    wanted = parse(address)
    sockets = _bind_all(address, wanted, await _resolve(loop, address, wanted))
    try:
        for sock in sockets:
            sock.listen(backlog)
    except OSError as error:  # of two that bind a port, only one may listen
        _close_all(sockets)
        raise _cannot_bind(address, wanted, error) from error
    return str(Address(wanted.host, sockets[0].getsockname()[1])), sockets


async def connect(
    loop: asyncio.AbstractEventLoop, address: Address, link: Link, timeout_s: float, explain: Explain, **tls: Any
) -> Link:
    """Raises `ConnectionLost`. `tls` goes to asyncio's `create_connection`."""
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(lambda: link, address.host, address.port, **tls)
    except TimeoutError as error:
        link.abort()
        forget_frames(error)
        raise ConnectionLost(f"{address} did not answer within {timeout_s:g} s{_said(error)}") from error
    except OSError as error:
        forget_frames(error)
        raise cannot_connect(address, error, explain) from error
    except BaseException:  # cancelled: nobody is left to close it
        link.abort()
        raise
    return link


def cannot_connect(address: Address, error: BaseException, explain: Explain) -> DisheapError:
    """The error to raise for an attempt that failed, with the address and the reason in words."""
    if isinstance(error, socket.gaierror):
        return ConnectionLost(f"{address}: the host's name cannot be resolved: {error.strerror}")
    return ConnectionLost(f"cannot connect to {address}: {explain(error)}")


def _said(error: BaseException) -> str:
    return f" ({error})" if str(error) else ""


# --- binding ---------------------------------------------------------------------------------------------------------

_Where = tuple[int, Any]
"""An address family and what `bind` takes."""


async def _resolve(loop: asyncio.AbstractEventLoop, address: str, wanted: Address) -> list[_Where]:
    if not wanted.host:
        both = socket.has_dualstack_ipv6()
        return [(socket.AF_INET6, ("::", wanted.port)) if both else (socket.AF_INET, ("0.0.0.0", wanted.port))]
    try:
        found = await loop.getaddrinfo(
            wanted.host, wanted.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(
            f"cannot listen on {address}: the host's name cannot be resolved: {error.strerror}"
        ) from error
    return list(dict.fromkeys((family, where) for family, _, _, _, where in found))


def _bind_all(address: str, wanted: Address, places: list[_Where]) -> list[socket.socket]:
    """Opens a socket for each address family. If port 0 was asked for, all get the port of the first. One family may be
    missing on this machine, not both."""
    bound: list[socket.socket] = []
    failure: OSError | None = None
    for family, where in places:
        port = bound[0].getsockname()[1] if bound else wanted.port
        try:
            bound.append(_bind(family, (where[0], port, *where[2:]), everywhere=not wanted.host))
        except OSError as error:
            failure = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                _close_all(bound)
                raise _cannot_bind(address, wanted, error) from error
    if not bound:
        raise _cannot_bind(address, wanted, failure or OSError("no address")) from failure
    return bound


def _bind(family: int, where: Any, everywhere: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections' ends
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        sock.bind(where)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _cannot_bind(address: str, wanted: Address, error: OSError) -> ConfigError:
    match error.errno:
        case errno.EADDRINUSE:
            return AddressInUse(
                f"cannot listen on {address}: another process does. Find it with `ss -ltnp sport = :{wanted.port}` "
                f"(or `lsof -i :{wanted.port}`), or choose another port."
            )
        case errno.EADDRNOTAVAIL:
            return ConfigError(f"cannot listen on {address}: this machine has no such address. Use one of its own.")
        case errno.EACCES:
            return ConfigError(f"cannot listen on {address}: ports below 1024 need a privilege. Choose a higher one.")
        case _:
            return ConfigError(f"cannot listen on {address}: {explain(error)}")
