"""Transport `tls`: TCP with mutual TLS from the first byte.

The listener accepts and shakes hands itself, instead of leaving both to asyncio: a handshake that fails there fails in
silence, and whoever runs the node has to know that a peer's certificate has expired. A receiver is made when a peer has
proved who it is, and not before.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from disheap.logs import get_logger
from disheap_tcp import sockets, trust
from disheap_tcp.address import Address, parse_remote
from disheap_tcp.link import Link
from disheap_tcp.trust import TlsSettings

if TYPE_CHECKING:
    from disheap.interfaces import Receiver, TransportContext

ACCEPT_RETRY_S = 1.0
"""Out of descriptors or memory: those who could free some need time, and the backlog holds the callers."""

log = get_logger(__name__)


class TlsTransport:
    name: ClassVar[str] = "tls"
    api: ClassVar[int] = 1
    secure: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = TlsSettings

    def __init__(self, settings: TlsSettings, context: TransportContext) -> None:
        """Reads the certificates, so that a wrong file is known before anything starts. Raises `ConfigError`."""
        self._settings = settings
        self._loop = context.loop
        self._server = trust.server_context(settings)
        self._client = trust.client_context(settings)

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> TlsListener:
        bound, listening = await sockets.bind(self._loop, address, self._settings.backlog)

        def link() -> Link:
            return Link(self._loop, accept, self._settings, explain=trust.explain_lost)

        return TlsListener(self._loop, bound, listening, self._server, self._settings, link)

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Link:
        remote = parse_remote(address)
        link = Link(self._loop, lambda: receiver, self._settings, address, trust.explain_lost, trust.SILENCE)
        return await sockets.connect(
            self._loop,
            remote,
            link,
            timeout_s,
            trust.explain,
            ssl=self._client,
            server_hostname=_server_name(self._settings, remote),
            ssl_handshake_timeout=timeout_s,
        )

    @classmethod
    def connect_blocking(cls, settings: TlsSettings, address: str, timeout_s: float) -> ssl.SSLSocket:
        remote = parse_remote(address)
        context = trust.client_context(settings)
        plain = sockets.connect_blocking(settings, remote, timeout_s)
        try:
            return context.wrap_socket(plain, server_hostname=_server_name(settings, remote))
        except OSError as error:  # a timeout too
            plain.close()
            raise sockets.cannot_connect(remote, error, trust.explain) from error


class TlsListener:
    """Owns the accepting tasks and the handshakes, and ends them all in `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: str,
        listening: list[socket.socket],
        context: ssl.SSLContext,
        settings: TlsSettings,
        link: Callable[[], Link],
    ) -> None:
        self.address = address
        self._loop = loop
        self._sockets = listening
        self._context = context
        self._timeout_s = settings.handshake_timeout_s
        self._link = link
        self._free = asyncio.Semaphore(settings.handshakes)
        self._tasks: dict[asyncio.Task[None], Link | None] = {}
        for sock in listening:
            self._own(self._accept(sock), None)

    async def close(self) -> None:
        """A handshake whose link was made a moment ago is over, though its task has not heard: it is not cancelled."""
        tasks = list(self._tasks)
        for task, link in self._tasks.items():
            if link is None or not link.made:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()

    def _own(self, work: Coroutine[Any, Any, None], link: Link | None) -> None:
        task = self._loop.create_task(work)
        self._tasks[task] = link
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            await self._free.acquire()
            try:
                accepted, peer = await self._loop.sock_accept(listening)
            except OSError as error:
                self._free.release()
                log.error("cannot accept a connection; trying again", address=self.address, reason=str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            link = self._link()
            self._own(self._shake_hands(accepted, link, str(Address(peer[0], peer[1]))), link)

    async def _shake_hands(self, accepted: socket.socket, link: Link, peer: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: link, accepted, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except OSError as error:
            accepted.close()
            log.warning("a TLS handshake is refused", remote=peer, address=self.address, reason=trust.explain(error))
        except asyncio.CancelledError:
            accepted.close()
            raise
        finally:
            self._free.release()


def _server_name(settings: TlsSettings, remote: Address) -> str:
    return settings.server_name or remote.host


if TYPE_CHECKING:
    from disheap.interfaces import BlockingConnect, Transport

    _fits: type[Transport] = TlsTransport
    _blocks: type[BlockingConnect] = TlsTransport
