"""Transport `tcp`: plain TCP. It authenticates nobody, so nodes use it on loopback, unless `insecure` is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap_tcp import sockets
from disheap_tcp.address import parse_remote
from disheap_tcp.connecting import Connecting
from disheap_tcp.link import Link, explain
from disheap_tcp.options import TcpSettings
from disheap_tcp.sockets import SocketListener

if TYPE_CHECKING:
    from disheap.interfaces import Receiver, TransportContext


class TcpTransport:
    """The transport `tcp`: plain sockets."""

    name: ClassVar[str] = "tcp"
    api: ClassVar[int] = 1
    secure: ClassVar[bool] = False
    Settings: ClassVar[type[msgspec.Struct]] = TcpSettings

    def __init__(self, settings: TcpSettings, context: TransportContext) -> None:
        self._settings = settings
        self._loop = context.loop

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> SocketListener:
        """Listens on `address`. Port 0 takes a free one."""

        def link() -> Link:
            return Link(self._loop, accept, self._settings)

        return await sockets.listen(self._loop, address, link, self._settings.backlog)

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Link:
        """Connects within `timeout_s`, to any address of the host's name."""
        remote = parse_remote(address)
        link = Link(self._loop, lambda: receiver, self._settings, address)
        return await sockets.connect(self._loop, remote, link, timeout_s, explain)

    @classmethod
    def start_connecting(cls, settings: TcpSettings, address: str) -> Connecting:
        """Begins a connection that blocking code finishes itself."""
        return Connecting(settings, parse_remote(address))


if TYPE_CHECKING:
    from disheap.interfaces import BlockingConnect, Transport

    _fits: type[Transport] = TcpTransport
    _blocks: type[BlockingConnect] = TcpTransport
