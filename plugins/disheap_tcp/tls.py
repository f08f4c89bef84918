"""Transport `tls`: TCP with mutual TLS from the first byte.

The listener (`listener.py`) accepts and shakes hands itself, instead of leaving both to asyncio. A handshake that fails
there fails in silence. An operator has to know that a peer's certificate has expired. A receiver is made when a peer
has proved who it is, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap_tcp import sockets, trust
from disheap_tcp.address import Address, parse_remote
from disheap_tcp.link import Link
from disheap_tcp.tls_connecting import TlsConnecting
from disheap_tcp.trust import TlsSettings

if TYPE_CHECKING:
    from disheap.interfaces import Receiver, TransportContext
    from disheap_tcp.listener import TlsListener


class TlsTransport:
    """The transport `tls`: TLS from the first byte, with certificates at both ends."""

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

    def reload(self) -> None:
        """New connections use the files as they are now, on both sides. Raises `ConfigError`, and changes nothing
        then."""
        server, client = trust.server_context(self._settings), trust.client_context(self._settings)
        self._server, self._client = server, client

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> TlsListener:
        """Listens on `address`, and bounds the handshakes that are under way."""
        from disheap_tcp.listener import TlsListener  # a client, which never listens, does not load it

        bound, listening = await sockets.bind(self._loop, address, self._settings.backlog)

        def link() -> Link:
            return Link(self._loop, accept, self._settings, explain=trust.explain_lost)

        return TlsListener(self._loop, bound, listening, lambda: self._server, self._settings, link)

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Link:
        """Connects within `timeout_s`, the handshake included."""
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
    def start_connecting(cls, settings: TlsSettings, address: str) -> TlsConnecting:
        """Begins a connection that blocking code finishes itself, the handshake included."""
        remote = parse_remote(address)
        return TlsConnecting(settings, remote, trust.client_context(settings), _server_name(settings, remote))


def _server_name(settings: TlsSettings, remote: Address) -> str:
    return settings.server_name or remote.host


if TYPE_CHECKING:
    from disheap.interfaces import BlockingConnect, Reloading, Transport

    _fits: type[Transport] = TlsTransport
    _blocks: type[BlockingConnect] = TlsTransport
    _reloads: type[Reloading] = TlsTransport
