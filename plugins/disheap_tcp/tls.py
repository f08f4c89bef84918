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
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from disheap_tcp import sockets, trust
from disheap_tcp.address import Address, parse_remote
from disheap_tcp.link import Link, forget_frames
from disheap_tcp.trust import TlsSettings

if TYPE_CHECKING:
    from disheap.interfaces import Receiver, TransportContext

ACCEPT_RETRY_S = 1.0
"""Out of descriptors or memory: those who could free some need time, and the backlog holds the callers."""
SILENCE_S = 0.2
"""A client speaks as soon as it is connected, but a busy one, or one of a thousand after a failover, not in the same
moment."""
ROUNDING_S = 0.005
"""A loop's timer may fire so much early."""


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


class _Silent(NamedTuple):
    """Somebody who has connected and has not said a word."""

    peer: str
    since: float
    deadline: asyncio.TimerHandle


class TlsListener:
    """Owns the accepting tasks, those who have not said anything yet, and the handshakes; ends them all in `close`.

    Whoever means to shake hands speaks at once. So where there is no place for one more, the oldest of those who have
    been silent for `SILENCE_S` goes, and a handshake that is under way does not: sockets that say nothing keep nobody
    out for long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: str,
        listening: list[socket.socket],
        context: ssl.SSLContext,
        settings: TlsSettings,
        link: Callable[[], Link],
    ) -> None:
        from disheap.logs import get_logger  # a client, which never listens, does not load it

        self.address = address
        self._log = get_logger(__name__)
        self._loop = loop
        self._sockets = listening
        self._context = context
        self._timeout_s = settings.handshake_timeout_s
        self._most = settings.handshakes
        self._link = link
        self._moved = asyncio.Event()  # a handshake has ended, or somebody has been silent for too long
        self._silent: dict[socket.socket, _Silent] = {}
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
        for sock in list(self._silent):
            self._forget(sock)
            sock.close()
        for sock in self._sockets:
            sock.close()

    def _own(self, work: Coroutine[Any, Any, None], link: Link | None) -> None:
        task = self._loop.create_task(work)
        self._tasks[task] = link
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._moved.set()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            while self._is_full() and self._oldest_silent() is None:
                self._moved.clear()
                await self._moved.wait()
            try:
                accepted, peer = await self._loop.sock_accept(listening)
            except OSError as error:
                self._log.error("cannot accept a connection; trying again", address=self.address, reason=str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if self._is_full() and (oldest := self._oldest_silent()) is not None:
                self._turn_away(oldest, "too many connections wait here without a word, and it is the oldest")
            self._wait_for_a_word(accepted, str(Address(peer[0], peer[1])))

    def _is_full(self) -> bool:
        return len(self._silent) + len(self._tasks) - len(self._sockets) >= self._most

    def _oldest_silent(self) -> socket.socket | None:
        until = self._loop.time() - SILENCE_S
        return next((sock for sock, one in self._silent.items() if one.since <= until and _says_nothing(sock)), None)

    def _wait_for_a_word(self, accepted: socket.socket, peer: str) -> None:
        reason = f"it says nothing for {self._timeout_s:g} s"
        deadline = self._loop.call_later(self._timeout_s, self._turn_away, accepted, reason)
        self._silent[accepted] = _Silent(peer, self._loop.time(), deadline)
        self._loop.call_later(SILENCE_S + ROUNDING_S, self._moved.set)
        self._loop.add_reader(accepted, self._has_spoken, accepted)

    def _has_spoken(self, accepted: socket.socket) -> None:
        peer = self._forget(accepted)
        link = self._link()
        self._own(self._shake_hands(accepted, link, peer), link)

    def _turn_away(self, accepted: socket.socket, reason: str) -> None:
        peer = self._forget(accepted)
        accepted.close()
        self._moved.set()
        self._log.warning("a TLS handshake is refused", remote=peer, address=self.address, reason=reason)

    def _forget(self, accepted: socket.socket) -> str:
        peer, _, deadline = self._silent.pop(accepted)
        deadline.cancel()
        self._loop.remove_reader(accepted)
        return peer

    async def _shake_hands(self, accepted: socket.socket, link: Link, peer: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: link, accepted, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except OSError as error:
            accepted.close()
            forget_frames(error)
            self._log.warning(
                "a TLS handshake is refused", remote=peer, address=self.address, reason=trust.explain(error)
            )
        except asyncio.CancelledError:
            accepted.close()
            raise


def _says_nothing(accepted: socket.socket) -> bool:
    """Nor has it hung up."""
    try:
        accepted.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _server_name(settings: TlsSettings, remote: Address) -> str:
    return settings.server_name or remote.host


if TYPE_CHECKING:
    from disheap.interfaces import BlockingConnect, Transport

    _fits: type[Transport] = TlsTransport
    _blocks: type[BlockingConnect] = TlsTransport
