"""A connection on kombu's event loop, called the hub (the one that a Celery worker runs).

Owns readers, timers and wake-ups. Does not know what a delivery is. In one turn the hub runs what `call_soon` gave it,
then timers, then `on_tick`. Then it sleeps in poll for up to a second, even if one of those asked for more. So gathered
acks are sent in `on_tick`. If deliveries wait, `on_tick` writes a byte to our own socket, so that the poll returns at
once. A round trip may have read them, with nothing left in the node's socket. Callbacks get a slice of time, so that
acks which Celery puts off to the next turn are sent even while the buffer is full.

A hub may end before its connection does. In a warm shutdown Celery resets or closes it, and waits for the last tasks of
the pool. Nothing turns then. So acks are sent at once, and a thread keeps the session alive. A pool forks no more by
that time.

While messages wait for a pool, `on_tick` asks for a look at the beginning of the next turn. A result that comes in this
turn has freed a slot by then. What begins there is written to the pool in the same turn, without another poll.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any, Protocol

from disheap.client.io.blocking_driver import BlockingClient
from disheap_kombu.reading.keepalive import Keepalive
from disheap_kombu.reading.waker import Waker

DISPATCH_SLICE_S = 0.002
"""The time for callbacks in one turn of the hub."""
HEARTBEAT_S = 1.0
"""The longest time between two heartbeats of the connection."""
RESCHEDULE_S = 0.01
"""A planned call is moved only if it would come this much too late."""


class HubConnection(Protocol):
    """What the adapter asks of its connection."""

    driver: BlockingClient

    @property
    def pending(self) -> bool:
        """Whether something waits for `dispatch`."""

    @property
    def is_holding_back(self) -> bool:
        """Whether messages wait for a pool."""

    @property
    def unsent(self) -> bool:
        """Whether acks wait to be sent."""

    def attach_hub(self, adapter: HubAdapter) -> None:
        """From now on the event loop waits for the socket."""

    def read(self) -> None:
        """Reads what the socket has, without waiting."""

    def dispatch(self, until: float) -> int:
        """Runs callbacks until that time."""

    def flush(self) -> None:
        """Sends the gathered acks."""

    def heartbeat(self) -> None:
        """Pings when it is time."""


class HubAdapter:
    """Connects one connection to kombu's hub. Made on the hub's thread. Ends with `Connection.detach_hub`."""

    def __init__(self, connection: HubConnection, hub: Any, keepalive: bool) -> None:
        """`keepalive`: a thread keeps the session alive while tasks keep the hub's thread busy."""
        self.thread = get_ident()
        self.turns = True
        """False from the hub's end on: `on_tick` comes no more, and nothing that was gathered would be sent."""
        self._connection = connection
        self._hub = hub
        self._waker = Waker()
        self._descriptor = -1
        self._socket_moved = False  # and the readers are not moved yet
        self._dispatched = False  # in this turn of the hub
        self._looks_soon = self._is_detached = False
        self._retry: Any = None
        self._retry_at = 0.0
        self._failure: Exception | None = None
        connection.attach_hub(self)
        hub.add_reader(self._waker.fileno(), self._on_wake)
        hub.on_tick.add(self._on_tick)
        hub.on_close.add(self._on_close)
        self._heartbeat = hub.call_repeatedly(min(HEARTBEAT_S, connection.driver.heartbeat_s), self._on_heartbeat)
        self._add_socket_reader()
        self._keepalive: Keepalive | None = None
        if keepalive:
            self.keep_alive()

    # --- called by the connection ---

    def socket_changed(self, _old: int | None, new: int | None) -> None:
        """The client is about to close its socket, or has a new one. Readers are moved on the hub's own thread."""
        if get_ident() == self.thread:
            self._remove_socket_reader()
            if new is not None:
                self._add_socket_reader()
        else:
            self._socket_moved = True
            self._waker.wake()

    def wake(self) -> None:
        """Makes the hub call `dispatch` soon. From any thread."""
        self._waker.wake()

    def keep_alive(self) -> None:
        """Starts a thread that keeps the session alive, unless there is one: the loop's thread may stand still."""
        if self._keepalive is None and not self._is_detached:
            self._keepalive = Keepalive(self._keepalive_tick, self._connection.driver.heartbeat_s / 2)

    def detach(self) -> None:
        """Removes everything of this adapter from the hub."""
        self._is_detached = True
        if self._keepalive is not None:
            self._keepalive.stop()
        self._hub.on_tick.discard(self._on_tick)
        self._hub.on_close.discard(self._on_close)
        for timer in (self._heartbeat, self._retry):
            if timer is not None:
                timer.cancel()
        self._remove_socket_reader()
        self._remove_reader(self._waker.fileno(), self._on_wake)
        self._waker.close()

    # --- called by the loop ---

    def _on_readable(self) -> None:
        self._raise_failure()
        self._connection.read()
        if not self._dispatched:  # one slice a turn, though both the socket and a wake may have brought us here
            self._dispatched = True
            self._connection.dispatch(monotonic() + DISPATCH_SLICE_S)

    def _on_wake(self) -> None:
        self._waker.reset()
        if self._socket_moved:
            self._socket_moved = False
            self._remove_socket_reader()
            self._add_socket_reader()
        self._on_readable()

    def _on_tick(self) -> None:
        self._raise_failure()
        self._dispatched = False
        connection = self._connection
        if connection.unsent:
            connection.flush()
        if connection.pending:
            self._waker.wake()
        elif connection.is_holding_back and not self._looks_soon:
            self._looks_soon = True
            self._hub.call_soon(self._on_turn)
        self._schedule_retry(connection.driver.wants_poll_in)

    def _on_turn(self) -> None:
        self._looks_soon = False
        if not self._is_detached and self._connection.pending:
            self._connection.dispatch(monotonic() + DISPATCH_SLICE_S)

    def _schedule_retry(self, wants_s: float) -> None:
        """Plans a call, or moves the planned one to an earlier time."""
        at = monotonic() + wants_s
        if self._retry is not None:
            if at > self._retry_at - RESCHEDULE_S:
                return
            self._retry.cancel()
        self._retry, self._retry_at = self._hub.call_later(wants_s, self._on_retry), at

    def _on_retry(self) -> None:
        self._retry = None
        self._connection.read()

    def _on_heartbeat(self) -> None:
        self._connection.heartbeat()

    def _on_close(self, _hub: Any) -> None:
        """The hub runs what `call_soon` gave it once more, after this."""
        self.turns = False
        if self._connection.unsent:
            self._connection.flush()
        self.keep_alive()

    # --- readers ---

    def _add_socket_reader(self) -> None:
        self._descriptor = self._connection.driver.fileno()
        if self._descriptor >= 0:
            self._hub.add_reader(self._descriptor, self._on_readable)

    def _remove_socket_reader(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._remove_reader(descriptor, self._on_readable)

    def _remove_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Removes only a reader of our own: the number may belong to another socket by now."""
        reader = self._hub.readers.get(descriptor)
        if reader is not None and reader[0] == callback:
            self._hub.remove(descriptor)

    # --- the keepalive thread ---

    def _keepalive_tick(self) -> bool:
        """Returns False when it has failed. The hub raises the failure in its next turn."""
        try:
            self._connection.heartbeat()
        except Exception as error:
            self._failure = error
        if self._failure is not None or self._connection.pending:
            self._waker.wake()
        return self._failure is None

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
