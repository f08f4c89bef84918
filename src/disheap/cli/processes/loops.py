"""Which event loop a command of ours runs on: uvloop where it is installed (the extra `uvloop`), else asyncio's own.

Clients inside other people's processes run on theirs, and nothing here touches those.
"""

from __future__ import annotations

import asyncio
from asyncio import selector_events
from collections.abc import Callable
from typing import Any


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """For `asyncio.Runner`; None is Python's own."""
    try:
        import uvloop
    except ImportError:
        free_closed_transports()
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def free_closed_transports() -> None:
    """Break the reference cycle of asyncio's own socket transport when its connection is lost.

    The transport keeps a bound method of itself in `_read_ready_cb`, since Python 3.12 in `_write_ready` too. asyncio
    never clears the first, and the second only at an orderly close.
    A node runs without the garbage collector, so about 2 KB would stay for every connection. asyncio has no hook for
    this, so its class is changed, for this process. uvloop has no such cycle. May be called twice.
    """
    kind: Any = getattr(selector_events, "_SelectorSocketTransport", None)
    if kind is None or hasattr(kind, "_disheap_lost"):
        return
    kind._disheap_lost = kind._call_connection_lost

    def call_connection_lost(transport: Any, error: Exception | None) -> None:
        try:
            transport._disheap_lost(error)
        finally:
            transport._read_ready_cb = None  # nothing is read any more
            vars(transport).pop("_write_ready", None)  # since Python 3.12 another bound method of itself

    kind._call_connection_lost = call_connection_lost
