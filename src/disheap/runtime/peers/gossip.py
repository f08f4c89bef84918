"""Sends this node's reports to the others once a second (`protocol.gossip` has their content).

Owns the timer, and not the content. Gossip needs no disk and no leader. A node whose disk hangs still reports, and so
do the wall clocks that decide who may lead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GOSSIP_S = 1.0
"""Between two reports. A node that is silent for `GOSSIP_VALID_S` counts as down."""


class GossipTimer:
    """`send` sends a report to every peer that can be reached."""

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
