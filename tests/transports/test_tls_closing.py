"""A TLS listener that is closed while somebody connects."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from wires import Door

from disheap.interfaces import TransportContext
from disheap.testing.certificates import Authority
from disheap_tcp.tls import TlsTransport
from disheap_tcp.trust import TlsSettings


async def test_a_connection_that_comes_while_a_listener_closes_is_no_error(tmp_path: Path) -> None:
    """The loop accepted it for the task that was cancelled in the same turn, and logged an exception."""
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    transport = TlsTransport(TlsSettings(**Authority(tmp_path).issue("n1")), TransportContext(loop))
    listener = await transport.listen("127.0.0.1:0", Door())
    host, _, port = listener.address.rpartition(":")
    await asyncio.sleep(0)  # the listener waits for a connection
    with socket.create_connection((host, int(port))):  # the loop sees it in its next turn
        await asyncio.create_task(listener.close())  # this is the first step of that turn
        await asyncio.sleep(0)
    assert errors == []
