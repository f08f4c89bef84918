"""Pushes that a leader sends without the log: what the machine relays of transient commands (`Relaying`).

Decides which pushes wait for a short time, so that a stream of them to one client takes few writes. The first push
after a pause is sent at once. Those that wait are kept at the connection. They leave with the next frame for the
client and before it, so a message from the log does not overtake them. A client that does not read fast enough loses
pushes, and nobody waits for it. Nothing is kept for a session without a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from disheap.interfaces import Effects
from disheap.protocol import frames
from disheap.runtime.clients.connection import ClientConnection

GATHER_S = 0.2
"""The longest time that a push waits for others. With the heartbeats of 100 Celery workers, 50 pushes a second go to
each of them. One write for each push takes as long as all else that the node does for these workers."""
LARGE_BYTES = 16 << 10
"""A push that is longer is sent at once, with those that wait."""
GATHERED_MAX = 64
"""A connection with this number of gathered pushes does not wait for more."""
UNSENT_BYTES_MAX = 16 << 20
"""Pushes for a client to which so much is unsent are dropped. The answers of a thousand workers to an `inspect` fit."""


class Relay:
    """Sends pushes to the connections in `attached`, by session."""

    def __init__(self, loop: asyncio.AbstractEventLoop, attached: Mapping[int, ClientConnection]) -> None:
        self.sent = 0
        self.dropped = 0
        self._loop = loop
        self._attached = attached
        self._waiting: dict[ClientConnection, None] = {}  # something was gathered for them in this period
        self._served: dict[ClientConnection, None] = {}  # they were sent something in this period
        self._timer: asyncio.TimerHandle | None = None

    def send(self, index: int, pushes: Effects) -> None:
        """Sends each push to its session's connection, now or within `GATHER_S`. Drops it if there is none, or if too
        much is unsent there. `index` is that of the state that the pushes were made from."""
        for session, body in pushes:
            connection = self._attached.get(session)
            if connection is None:
                self.dropped += 1
                continue
            gathered = connection.gathered
            if not gathered and (connection.closed or connection.unsent() > UNSENT_BYTES_MAX):
                self.dropped += 1
                continue
            self.sent += 1
            push, is_pause = frames.push(index, body), connection not in self._served
            if is_pause or connection.queue or len(body) > LARGE_BYTES or len(gathered) + 1 >= GATHERED_MAX:
                connection.send_unasked(push)
                self._served[connection] = None
            else:
                connection.gather(push)
                self._waiting[connection] = None
        if self._timer is None and self._served:
            self._timer = self._loop.call_later(GATHER_S, self._end_period)

    def clear(self) -> None:
        """Forgets what waits: this node leads no more, or stops."""
        for connection in self._waiting:
            connection.drop_gathered()
        self._waiting.clear()
        self._served.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_period(self) -> None:
        """Sends what has waited. The connections that got nothing in this period are sent the next push at once."""
        self._timer = None
        waiting = [connection for connection in self._waiting if connection.gathered]
        self._waiting.clear()
        self._served.clear()
        for connection in waiting:
            connection.flush()
            self._served[connection] = None
        if waiting:
            self._timer = self._loop.call_later(GATHER_S, self._end_period)
