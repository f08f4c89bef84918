"""A connection on kombu's event loop (the one a Celery worker runs).

Owns readers, timers and wake-ups; refuses to know what a delivery is. The loop has its own ways, and this is why it
looks as it does: it runs what `call_soon` gave it, then timers, then `on_tick`, and then sleeps in poll for up to a
second, even if one of those asked for more. So `on_tick` is where acks that gathered are sent, and where a byte to
ourselves makes that poll return at once when deliveries wait (they may have been read by a round trip in between,
with nothing left in the socket). Callbacks get a slice of time, so that acks which Celery puts off to the next turn
are not kept back by a full buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from disheap_kombu.keepalive import Keepalive
from disheap_kombu.waker import Waker

if TYPE_CHECKING:
    from disheap_kombu.connection import Connection

SLICE_S = 0.002
"""Callbacks in one turn of the loop."""
BEAT_S = 1.0
"""How often the loop looks after the connection, at least."""
SOONER_S = 0.01
"""A planned call is moved only when it would come so much too late."""


class Bond:
    """Made on the loop's thread; ends with `Connection.unbind`."""

    def __init__(self, connection: Connection, hub: Any, keepalive: bool) -> None:
        self.thread = get_ident()
        self._connection = connection
        self._hub = hub
        self._waker = Waker()
        self._descriptor = -1
        self._moved = False
        self._dispatched = False  # in this turn of the loop
        self._retry: Any = None
        self._retry_at = 0.0
        self._failure: Exception | None = None
        connection.bind(self)
        hub.add_reader(self._waker.fileno(), self._woken)
        hub.on_tick.add(self._on_tick)
        self._beat = hub.call_repeatedly(min(BEAT_S, connection.driver.heartbeat_s), self._on_beat)
        self._follow()
        self._keeper = Keepalive(self._keep, connection.driver.heartbeat_s / 2) if keepalive else None

    # --- called by the connection ---

    def socket_changed(self, _old: int | None, new: int | None) -> None:
        """The client is about to close its socket, or has a new one. Readers are moved on the loop's own thread."""
        if get_ident() == self.thread:
            self._leave()
            if new is not None:
                self._follow()
        else:
            self._moved = True
            self._waker.wake()

    def wake(self) -> None:
        """Makes the event loop call `dispatch` soon."""
        self._waker.wake()

    def loosen(self) -> None:
        """Leave the loop."""
        if self._keeper is not None:
            self._keeper.stop()
        self._hub.on_tick.discard(self._on_tick)
        for timer in (self._beat, self._retry):
            if timer is not None:
                timer.cancel()
        self._leave()
        self._forget_reader(self._waker.fileno(), self._woken)
        self._waker.close()

    # --- called by the loop ---

    def _on_readable(self) -> None:
        self._raise_failure()
        self._connection.read()
        if not self._dispatched:  # one slice a turn, though both the socket and a wake may have brought us here
            self._dispatched = True
            self._connection.dispatch(monotonic() + SLICE_S)

    def _woken(self) -> None:
        self._waker.quiet()
        if self._moved:
            self._moved = False
            self._leave()
            self._follow()
        self._on_readable()

    def _on_tick(self) -> None:
        self._raise_failure()
        self._dispatched = False
        connection = self._connection
        if connection.unsent:
            connection.flush()
        if connection.pending:
            self._waker.wake()
        self._schedule_retry(connection.driver.wants_poll_in)

    def _schedule_retry(self, wants_s: float) -> None:
        """A call later, or sooner than was planned."""
        at = monotonic() + wants_s
        if self._retry is not None:
            if at > self._retry_at - SOONER_S:
                return
            self._retry.cancel()
        self._retry, self._retry_at = self._hub.call_later(wants_s, self._on_retry), at

    def _on_retry(self) -> None:
        self._retry = None
        self._connection.read()

    def _on_beat(self) -> None:
        self._connection.beat()

    # --- readers ---

    def _follow(self) -> None:
        self._descriptor = self._connection.driver.fileno()
        if self._descriptor >= 0:
            self._hub.add_reader(self._descriptor, self._on_readable)

    def _leave(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._forget_reader(descriptor, self._on_readable)

    def _forget_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Only ours: the number may be another's by now."""
        reader = self._hub.readers.get(descriptor)
        if reader is not None and reader[0] == callback:
            self._hub.remove(descriptor)

    # --- the keepalive thread ---

    def _keep(self) -> bool:
        """False when there is nothing left to keep; the loop hears of a failure when it comes round."""
        try:
            self._connection.beat()
        except Exception as error:
            self._failure = error
        if self._failure is not None or self._connection.pending:
            self._waker.wake()
        return self._failure is None

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
