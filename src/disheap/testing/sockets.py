"""Blocking sockets for tests."""

from __future__ import annotations

import time

from disheap.client.io.waiting import wait_ready
from disheap.errors import ConnectionLost
from disheap.interfaces import BlockingSocket, PendingSocket


def connected(pending: PendingSocket, timeout_s: float) -> BlockingSocket:
    """Wait until it is connected. Raises `ConnectionLost`."""
    deadline = time.monotonic() + timeout_s
    while (sock := pending.advance()) is None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            pending.close()
            raise ConnectionLost(f"no connection within {timeout_s:g} s")
        wait_ready([(pending.fileno(), pending.wants_write)], left_s)
    return sock
