"""Where the service listens, and how many connections it has.

Owns the listening sockets and every connection from its first byte on, TLS handshakes included. At the limit the
connection that has been idle for the longest gives way. So nobody can keep a probe out with connections that ask
nothing.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable

from disheap.addresses import is_loopback
from disheap.errors import AddressInUse, ConfigError
from disheap.logs import LineLimiter, get_logger
from disheap_http.connection import HttpConnection, Site
from disheap_http.messages import Answer
from disheap_http.settings import HttpSettings

log = get_logger(__name__)

HANDSHAKE_S = 5.0
LAST_PORT = 65535


class Listeners:
    """Implements `connection.Owner`. `answered` is called for each answer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: HttpSettings,
        tls: ssl.SSLContext | None,
        on_answer: Callable[[int], None],
    ) -> None:
        self.loop = loop
        self.lines = LineLimiter(loop)
        self.request_timeout_s = settings.request_timeout_s
        self._tls = tls
        self._connections_max = settings.connections
        self._on_answer = on_answer
        self._servers: list[asyncio.Server] = []
        self._idle: dict[HttpConnection, None] = {}  # the longest idle first
        self._busy: dict[HttpConnection, None] = {}
        self._shaking: dict[Handshake, None] = {}  # the oldest first

    async def bind(self, address: str, site: Site) -> str:
        """Takes an address, on which nobody is served yet. Returns it with the port that was chosen. Raises
        `ConfigError`."""
        host, port = parse_address(address)
        make = (lambda: Handshake(self, site)) if self._tls is not None else (lambda: HttpConnection(self, site))
        try:
            server = await self.loop.create_server(make, host or None, port, start_serving=False)
        except OSError as error:
            raise _cannot_listen(address, port, error) from None
        self._servers.append(server)
        hosts = [sock.getsockname()[0] for sock in server.sockets]
        site.only_local = self._tls is None and all(is_loopback(f"{host}:0") for host in hosts)
        return f"{address.rpartition(':')[0]}:{server.sockets[0].getsockname()[1]}"

    async def listen(self) -> None:
        """Serves on every address. Raises `ConfigError`."""
        for server in self._servers:
            address = server.sockets[0].getsockname()
            try:
                await server.start_serving()
            except OSError as error:  # of two that took a port, only one may listen
                raise _cannot_listen(f"{address[0]}:{address[1]}", address[1], error) from None

    async def close(self) -> None:
        """Ends every connection and listener. May be called twice."""
        for server in self._servers:
            server.close()
        tasks = [*(one.abort() for one in self._shaking), *(one.abort() for one in (*self._idle, *self._busy))]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    # --- connections -------------------------------------------------------------------------------------------------

    def enter(self, connection: HttpConnection) -> bool:
        """A new connection that has proved itself, if that is asked for. Returns whether it is served."""
        if not self._make_room():
            return False
        self._idle[connection] = None
        return True

    def _make_room(self) -> bool:
        if self.open_connections() < self._connections_max:
            return True
        if self._idle:
            idle = next(iter(self._idle))
            del self._idle[idle]
            idle.abort()
        elif self._shaking:
            shaking = next(iter(self._shaking))
            del self._shaking[shaking]
            shaking.abort()
        else:
            self.lines.write(log.warning, "an HTTP connection is refused", connections=self._connections_max)
            return False
        return True

    def open_connections(self) -> int:
        """How many connections there are, unfinished handshakes included."""
        return len(self._idle) + len(self._busy) + len(self._shaking)

    def became_busy(self, connection: HttpConnection) -> None:
        """The connection has a request under way."""
        self._idle.pop(connection, None)
        self._busy[connection] = None

    def became_idle(self, connection: HttpConnection) -> None:
        """The connection waits for a request."""
        self._busy.pop(connection, None)
        self._idle[connection] = None

    def ended(self, connection: HttpConnection) -> None:
        """The connection is gone."""
        self._busy.pop(connection, None)
        self._idle.pop(connection, None)

    def answered(self, answer: Answer) -> None:
        """An answer was made."""
        self._on_answer(answer.status)

    # --- TLS ---------------------------------------------------------------------------------------------------------

    def begin_handshake(self, handshake: Handshake) -> bool:
        """A new connection that has to prove itself first. Returns whether there is room for it."""
        if not self._make_room():
            return False
        self._shaking[handshake] = None
        return True

    async def shake_hands(self, handshake: Handshake, transport: asyncio.Transport, site: Site) -> None:
        """Makes a connection of one that speaks TLS, and proves itself if that is asked for."""
        assert self._tls is not None
        connection = HttpConnection(self, site)
        secured = None
        try:
            secured = await self.loop.start_tls(
                transport, connection, self._tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError as error:
            remote = transport.get_extra_info("peername")
            self.lines.write(log.warning, "a TLS handshake for HTTP failed", remote=str(remote), reason=str(error))
            error.__traceback__ = None  # no garbage collector would free the cycle
        finally:
            self._shaking.pop(handshake, None)
            if secured is None:
                transport.abort()
        if secured is not None:
            connection.connection_made(secured)


class Handshake(asyncio.Protocol):
    """A connection that has not proved itself yet."""

    def __init__(self, listeners: Listeners, site: Site) -> None:
        self._listeners = listeners
        self._site = site
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the handshake, if there is room."""
        assert isinstance(transport, asyncio.Transport)
        if not self._listeners.begin_handshake(self):
            transport.abort()
            return
        transport.pause_reading()  # TLS reads from here on
        self._task = self._listeners.loop.create_task(self._listeners.shake_hands(self, transport, self._site))

    def abort(self) -> asyncio.Task[None] | None:
        """Gives the handshake up. Returns the task that has to end."""
        if self._task is not None:
            self._task.cancel()
        return self._task


def parse_address(address: str) -> tuple[str, int]:
    """Host and port; the host is "" for every interface. Raises `ConfigError`.

    >>> parse_address("127.0.0.1:8080"), parse_address(":8080"), parse_address("[::1]:0")
    (('127.0.0.1', 8080), ('', 8080), ('::1', 0))
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > LAST_PORT or (":" in host and bare == host):
        raise ConfigError(
            f"[service.http] {address!r} is not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"
        )
    return bare, int(port)


def _cannot_listen(address: str, port: int, error: OSError) -> ConfigError:
    match error.errno:
        case errno.EADDRINUSE:
            return AddressInUse(
                f"cannot listen for HTTP on {address}: another process does. Find it with `ss -ltnp sport = :{port}` "
                "(or `lsof -i`), or choose another port: --http-listen, --metrics-listen."
            )
        case errno.EACCES:
            return ConfigError(f"cannot listen for HTTP on {address}: ports below 1024 need a privilege.")
        case _:
            return ConfigError(f"cannot listen for HTTP on {address}: {error.strerror or error}.")
