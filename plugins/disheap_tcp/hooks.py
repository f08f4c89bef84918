"""What `disheap_tcp` brings: the transports `tcp` and `tls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_tcp.tcp import TcpTransport
    from disheap_tcp.tls import TlsTransport


@hookimpl
def disheap_register_transport() -> tuple[type[TcpTransport], type[TlsTransport]]:
    """The transports `tcp` and `tls`. Loaded when somebody asks for a transport."""
    from disheap_tcp.tcp import TcpTransport
    from disheap_tcp.tls import TlsTransport

    return TcpTransport, TlsTransport
