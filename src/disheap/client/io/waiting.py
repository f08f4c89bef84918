"""Waiting for several sockets at once, without a loop."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable

Wait = Callable[[Iterable[tuple[int, bool]], float], None]
"""((descriptor, whether for writing), ...), seconds."""


def wait_ready(wanted: Iterable[tuple[int, bool]], seconds: float) -> None:
    """Returns when one of the descriptors is ready, or the time is over. `poll` and `select` are looked up at each
    call: gevent and eventlet may have replaced them, or taken them away."""
    readers: list[int] = []
    writers: list[int] = []
    for descriptor, for_writing in wanted:
        (writers if for_writing else readers).append(descriptor)
    if not readers and not writers:
        time.sleep(seconds)
    elif hasattr(select, "poll"):
        poller = select.poll()
        for descriptor in readers:
            poller.register(descriptor, select.POLLIN)
        for descriptor in writers:
            poller.register(descriptor, select.POLLOUT)
        poller.poll(seconds * 1000)
    else:
        select.select(readers, writers, [], seconds)
