"""The events of one session: from the socket to a callback, and acks back.

Owns the order of events, and the lock that lets other threads acknowledge. Keeps the session alive, by kombu's event
loop or by a thread. Does not know channels (`connection.py`) or how an event loop works (`eventloop.py`). The client
below reconnects by itself, so a failover shows here as a pause. Only a session that lapsed is an error, because its
leases are lost. That error makes a Celery worker restart its consumer.

Callbacks run outside the lock. One may take an hour, while another thread acknowledges or keeps the session alive.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import RLock, Thread, get_ident
from time import monotonic
from typing import TYPE_CHECKING

from amqp.exceptions import RecoverableConnectionError

from disheap.client.core.broker_session import SessionLost
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import DisheapError
from disheap.protocol import broker
from disheap_kombu.failures import translated
from disheap_kombu.publishing.outbox import Outbox
from disheap_kombu.reading.deliveries import Arrival, Deliveries
from disheap_kombu.reading.demand import watch_pool
from disheap_kombu.reading.keepalive import Keepalive
from disheap_kombu.reading.waker import Waker

if TYPE_CHECKING:
    from kombu.message import Message

    from disheap_kombu.reading.eventloop import HubAdapter

ACK_BATCH = 64
"""Acks sent as one command. With more the broker would be idle meanwhile: credit comes back with the ack."""
ACK_DELAY_S = 0.001
"""The longest time for which an ack waits for others while callbacks follow each other."""
LEAVE_S = 1.0
"""The longest time that the end of a worker waits until its consumers are cancelled."""
DRAIN_WAIT_S = 3600.0
"""`drain_events` without a timeout wakes up once an hour, and at every event."""


class SessionEvents:
    """The session of a blocking client, for kombu's event loop, or for a program that calls `drain_events`."""

    def __init__(self, client: BlockingClient, holds_back: bool = True) -> None:
        """`holds_back`: messages for a pool of workers wait until it has a free slot."""
        self.driver = client
        self.connected = True
        self._lock = RLock()
        self._deliveries = Deliveries(holds_back)
        self._outbox = Outbox(client)
        self._dispatched_ahead = 0  # deliveries dispatched beyond the one that `drain_events` was called for
        self._dispatching = 0  # the thread that runs callbacks, or 0
        self._waiting = False
        self._waker: Waker | None = None
        self._hub: HubAdapter | None = None
        self._keepalive: Keepalive | None = None
        client.on_socket_change = self._socket_changed
        watch_pool(self)

    # --- settling ---

    def ack(self, tokens: list[broker.Token]) -> None:
        """Acknowledges messages. Returns at once; from any thread.

        Acks are gathered on the event loop's thread while the loop turns, and inside a callback while other pushes wait
        for theirs. They are sent together soon. Otherwise they are sent at once, because a callback may work for long.
        If another thread has the lock, that thread sends them."""
        self._outbox.add_acks(tokens)
        thread = get_ident()
        hub = self._hub
        has_ended = hub is not None and not hub.turns
        more = self._dispatching == thread and (hub is not None or len(self._deliveries) > 0)
        gathering = more or (hub is not None and hub.thread == thread)
        if gathering and not has_ended and self._outbox.acks < ACK_BATCH:
            return
        if self._lock.acquire(blocking=has_ended):
            try:
                self.flush()
            finally:
                self._lock.release()
        else:
            self._wake()

    def nack(self, tokens: list[broker.Token], discard: bool) -> None:
        """Gives messages back, or lets them die. Does not wait for the replies."""
        with self._lock:
            self._outbox.send_nacks(tokens, discard)
            self._outbox.flush()

    def release(self, tokens: list[broker.Token]) -> None:
        """Gives messages back that no callback has had. Does not wait for the replies."""
        with self._lock:
            self._outbox.send_nacks(tokens, release=True)
            self._outbox.flush()

    def flush(self) -> None:
        """Sends the gathered acks, and hands everything to the socket."""
        self._check()
        with self._lock:
            self._send_acks()
            self._outbox.flush()

    def _send_acks(self) -> None:
        """Sends the gathered acks, after the credit that they depend on."""
        for command in self._deliveries.demand.changed_credit():
            self._outbox.send(command)
        self._outbox.send_acks()

    def _settle_demand(self) -> None:
        """Asks for messages that are more urgent than those that wait for the pool, and gives back what is too much."""
        commands, given_back = self._deliveries.demand.settle()
        if not (commands or given_back):
            return
        with self._lock:
            self._send_acks()
            for command in commands:
                self._outbox.send(command)
            self._outbox.send_nacks(given_back, release=True)
            self._outbox.flush()

    def pool_changed(self) -> None:
        """A slot of the pool may be free. From any thread."""
        if self._deliveries.demand.is_watching:
            self._wake()

    def leave_pool(self) -> None:
        """The worker ends. What its pool has not begun goes to others at once, and what is under way stays.

        The event loop's thread may stand still from here on: Celery sleeps in the handler of a signal, for as long as
        `worker_soft_shutdown_timeout`. So a thread does this, and another one keeps the session alive. The lock may be
        held here, by the very call that the signal has interrupted. Then the thread has to wait for that call."""
        if self._hub is not None and self._deliveries.for_pool():
            thread = Thread(target=self._leave_pool, args=(self._hub,), name="disheap-leave", daemon=True)
            thread.start()
            thread.join(LEAVE_S)

    def _leave_pool(self, hub: HubAdapter) -> None:
        with suppress(Exception), self._lock:  # an error shows at the next use
            for subscription in self._deliveries.for_pool():
                self._deliveries.remove_consumer(subscription.number)
                subscription.channel.remove_consumer(subscription.tag)
                self._outbox.send(broker.Cancel(subscription.number))
            self._outbox.send_nacks(self._deliveries.take_strays(), release=True)
            self.flush()
            hub.keep_alive()

    # --- events ---

    def drain_events(self, timeout: float | None = None) -> None:
        """Waits for a delivery, and dispatches all that have come. `timeout` is in seconds; None is for ever. Raises
        `socket.timeout` if none comes in time.

        kombu's own loops count calls, not messages (`for _ in range(3): drain_events()`). So each message dispatched
        beyond the first lets one later call return without waiting. That call still reads the socket. Celery's loop for
        green pools waits elsewhere between two calls, and an urgent message would come after all of them."""
        if self._dispatched_ahead:
            self._dispatched_ahead -= 1
            self.read()
            self._dispatched_ahead += self.dispatch()
            return
        deadline = monotonic() + (DRAIN_WAIT_S if timeout is None else timeout)
        self.read()
        while not self._has_next():
            left_s = deadline - monotonic()
            if left_s <= 0 and timeout is not None:
                raise socket.timeout(f"no event within {timeout} s")  # noqa: UP041
            self._wait(max(left_s, 0.0))
            self.read()
        self._dispatched_ahead = max(0, self.dispatch() - 1)

    def _has_next(self) -> bool:
        self._deliveries.sort()
        self._settle_demand()
        return len(self._deliveries) > 0

    def read(self) -> None:
        """Reads what the socket has, without waiting. Goes on with a reconnection."""
        self._check()
        with self._lock:
            self._send_acks()
            self._buffer(self._poll(0.0))

    def _buffer(self, pushes: list[Arrival]) -> None:
        """Buffers pushes for their callbacks. Deliveries to a consumer that has ended go back."""
        strays = self._deliveries.add(pushes)
        if strays:
            self.release(strays)

    def dispatch(self, until: float = float("inf")) -> int:
        """Runs callbacks for what has arrived, until that time (of `monotonic`). Returns how many ran."""
        done, flushed_at = 0, monotonic()
        outer, self._dispatching = self._dispatching, get_ident()
        try:
            while (push := self._deliveries.take()) is not None:
                self._dispatch(push)
                done += 1
                now = monotonic()
                if self._outbox.acks and now - flushed_at > ACK_DELAY_S:
                    self.flush()
                    flushed_at = now
                if now >= until:
                    break
            self._settle_demand()
        finally:
            self._dispatching = outer
            if self._outbox.acks and self.connected and self._hub is None:
                self.flush()
        return done

    @property
    def pending(self) -> bool:
        """Whether something waits for `dispatch`."""
        return len(self._deliveries) > 0 or self.driver.pending_pushes()

    @property
    def is_holding_back(self) -> bool:
        """Whether messages wait for a pool."""
        return len(self._deliveries.demand) > 0

    @property
    def unsent(self) -> bool:
        """Whether acks wait to be sent, or a credit that has changed."""
        return self._outbox.acks > 0 or self._deliveries.demand.has_other_credit

    def _dispatch(self, push: Arrival) -> None:
        if type(push) is broker.Deliver:
            subscription = self._deliveries.get(push.consumer)
            if subscription is not None:
                message = subscription.receive(push)
                self._before_callback(push, message)
                self._settle_demand()  # before the callback, which may work for long
                try:
                    subscription.callback(message)
                finally:
                    self._deliveries.demand.began()
            else:
                self._buffer([push])  # cancelled by another thread, just now
        elif type(push) is broker.ConsumerEnded:
            subscription = self._deliveries.remove_consumer(push.consumer)
            if subscription is not None:
                self._deliveries.demand.take_all_of({push.consumer})
                subscription.ended(push.reason)
        elif type(push) is SessionLost:
            self._raise_session_lost()

    def _before_callback(self, push: broker.Deliver, message: Message) -> None:
        """Finds out what has to be known of a message before its callback gets it. Here nothing."""

    def _raise_session_lost(self) -> None:
        self.collect()
        raise RecoverableConnectionError(
            "the session lapsed: its consumers are gone, and what they held went back to its queues. The broker heard "
            f"nothing of this process for too long (session_timeout_ms is {self.driver.session_timeout_ms}). Or an "
            "operator ended the session, or a broker that keeps nothing on disk was started again"
        )

    # --- keeping alive ---

    def heartbeat(self) -> None:
        """Pings when it is time, gives up a dead connection, and finds another. Call it about once a second. If another
        thread is busy with a callback, it also looks at what waits for the pool."""
        self.read()
        if self._dispatching and self._dispatching != get_ident():
            self._deliveries.sort()
            self._settle_demand()
        self._wake_waiter()

    def attach_hub(self, adapter: HubAdapter) -> None:
        """From now on an event loop waits for the socket."""
        self.detach_hub()
        self._stop_keepalive()
        self._hub = adapter
        self.driver.on_socket_change = adapter.socket_changed

    def detach_hub(self) -> None:
        """Takes the connection out of the event loop."""
        adapter, self._hub = self._hub, None
        self.driver.on_socket_change = self._socket_changed
        if adapter is not None:
            adapter.detach()

    def _start_keepalive(self) -> None:
        """Starts the thread if the session has something to lose (consumers, leases, queues of its own) and no event
        loop keeps it alive. The program may not call for long."""
        if self._keepalive is None and self._hub is None and self._has_something_to_lose():
            self._keepalive = Keepalive(self.keepalive_tick, self.driver.heartbeat_s / 2)

    def _has_something_to_lose(self) -> bool:
        return self.driver.holds_anything

    def _stop_keepalive(self) -> None:
        keepalive, self._keepalive = self._keepalive, None
        if keepalive is not None:
            keepalive.stop()

    def keepalive_tick(self) -> bool:
        """What the keepalive thread calls. False ends the thread: nothing is left to keep alive, or something went
        wrong, which shows at the next use."""
        with self._lock:
            if self.connected and self._hub is None and self._has_something_to_lose():
                with suppress(Exception):
                    self.heartbeat()
                    return True
            self._keepalive = None
            return False

    def _socket_changed(self, _old: int | None, _new: int | None) -> None:
        if self._waiting:
            self._wake()

    # --- the end ---

    def collect(self) -> None:
        """Drops the socket without speaking the protocol (py-amqp calls this collect)."""
        self._clear()
        self.driver.abort()

    def abort_in_child(self) -> None:
        """After a fork. The socket and the event loop are the parent's. A thread of the parent may hold the lock."""
        self._lock = RLock()
        self._hub, self._keepalive = None, None
        self.collect()

    def _clear(self) -> None:
        """Forgets everything but the driver."""
        self.connected = False
        self.detach_hub()
        self._stop_keepalive()
        self._deliveries.clear()
        self._outbox.clear()
        waker, self._waker = self._waker, None
        if waker is not None:
            waker.close()

    # --- below ---

    def _check(self) -> None:
        if not self.connected:
            raise RecoverableConnectionError("the connection is closed")

    def _poll(self, timeout_s: float) -> list[Arrival]:
        try:
            return self.driver.poll(timeout_s)
        except DisheapError as error:
            raise translated(error) from error

    def _wake_waiter(self) -> None:
        """Wakes the thread that waits for deliveries: this thread has read them, and the socket has nothing left."""
        elsewhere = self._hub is not None and self._hub.thread != get_ident()
        if (elsewhere or self._waiting) and self.pending:
            self._wake()

    def _wake(self) -> None:
        if self._hub is not None:
            self._hub.wake()
        elif self._waker is not None:
            self._waker.wake()

    def _wait(self, seconds: float) -> None:
        """Waits until the socket has something, another thread wakes this one, the client has work, or time is up."""
        if self._waker is None:
            self._waker = Waker()
        limit_s = min(seconds, self.driver.heartbeat_s, self.driver.wants_poll_in)
        self._waiting = True
        try:
            if not (self._outbox.acks or self.pending):
                self._waker.wait(self.driver.fileno(), limit_s)
        finally:
            self._waiting = False
