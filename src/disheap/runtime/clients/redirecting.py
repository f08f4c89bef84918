"""A former leader redirects its clients to the next one. Owns the connections that are not redirected yet. They wait
until the next leader is known, or for `REDIRECT_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from disheap.errors import NotLeader
from disheap.runtime.clients.connection import ClientConnection

REDIRECT_S = 0.5
"""A former leader keeps its clients' connections this long, to be able to tell them who leads next. What they send in
the meantime is not read; they send it again to the next leader."""
REDIRECTS_AT_ONCE = 200
"""Clients that are sent away in one turn of the loop. Each costs a system call, some 20 us."""


class Redirecting:
    """`leader_address` says where clients find the leader, "" if it is not known."""

    def __init__(self, loop: asyncio.AbstractEventLoop, leader_address: Callable[[], str]) -> None:
        self._loop = loop
        self._leader_address = leader_address
        self._leaving: list[ClientConnection] = []
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connections: Iterable[ClientConnection]) -> None:
        """Redirect these connections when the next leader is known, or after `REDIRECT_S`."""
        self._leaving += connections
        self._timer = self._loop.call_later(REDIRECT_S, self.redirect)

    def redirect(self) -> None:
        """Redirect the connections now: the next leader is known, or was not found in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._redirect_some()

    def _redirect_some(self) -> None:
        now, self._leaving = self._leaving[:REDIRECTS_AT_ONCE], self._leaving[REDIRECTS_AT_ONCE:]
        for connection in now:
            connection.refuse(NotLeader(self._leader_address()))
        if self._leaving:
            self._loop.call_soon(self._redirect_some)
