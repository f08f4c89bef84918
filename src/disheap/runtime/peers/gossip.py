"""When a node tells the others about itself (`protocol.gossip` has what it says).

Owns the timer, and nothing of what is told. Gossip needs no disk and no leader. A node whose disk hangs still reports,
and so do the wall clocks that decide who may lead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GOSSIP_S = 1.0
"""Between two reports. Receivers take a node that is silent for `GOSSIP_VALID_S` for one that is down."""


class GossipTimer:
    """`send` tells every peer that can be reached what is so now."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[], None]) -> None:
        self._loop = loop
        self._send = send
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Send now, and once in `GOSSIP_S` from then on."""
        self._timer = self._loop.call_later(GOSSIP_S, self.begin)
        self._send()

    def end(self) -> None:
        """Send no more reports. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
