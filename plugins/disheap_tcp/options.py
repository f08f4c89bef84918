"""Settings that both transports share, and the socket options that they become."""

from __future__ import annotations

import socket
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class TcpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the transport `tcp`, from the table `[transport.tcp]`."""

    write_buffer_bytes: Annotated[
        int,
        Meta(ge=64 << 10, le=1 << 30, description="unsent bytes of a connection before its writer is told to pause"),
    ] = 4 << 20  # 32 ms of a 1 Gbit/s link: enough to keep it full, little to lose
    backlog: Annotated[int, Meta(ge=1, le=65535, description="connections waiting to be accepted")] = (
        1024  # a fleet of workers that reconnects at once after a failover
    )
    keepalive_s: Annotated[
        int, Meta(ge=0, le=32767, description="silence before the first keepalive probe, and between probes; 0: none")
    ] = 5  # with `unanswered_ms`: a host that vanished ends an idle connection after 10 s, and not only a busy one
    unanswered_ms: Annotated[
        int, Meta(ge=0, le=3_600_000, description="bytes unacknowledged for so long end a connection; 0: the system's")
    ] = 10_000  # without it a cut link is tried ever more rarely, and heals long after the network does
    keepalive_probes: Annotated[int, Meta(ge=1, le=127, description="unanswered probes that end a connection")] = 3


def tune(sock: Any, settings: TcpSettings) -> None:
    """Frames are small and somebody waits for each (TCP_NODELAY). A host that vanished is noticed (keepalive), and so
    is one that vanished with bytes on their way."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.unanswered_ms and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, settings.unanswered_ms)
    if not settings.keepalive_s:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", settings.keepalive_s),
        ("TCP_KEEPINTVL", settings.keepalive_s),
        ("TCP_KEEPCNT", settings.keepalive_probes),
    ):
        if hasattr(socket, option):  # macOS has other names for some of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
