"""One kombu connection: a `BlockingClient`, its channels, and the way of a delivery from the socket to a callback.

Owns the order of things: what has arrived and waits for its callback, the acks that wait to be sent together, the
lock that lets other threads acknowledge. It refuses to know AMQP's verbs (`channel.py`) and event loops
(`eventloop.py`). Reconnecting is the client's business, below: a failover shows here as a pause. Only a session that
lapsed, and took its leases with it, is an error, and one that makes a Celery worker restart its consumer.

Callbacks run outside the lock: one may take an hour, while another thread acknowledges or keeps the session alive.
"""

from __future__ import annotations

import socket
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from threading import RLock, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from amqp.exceptions import NotFound, RecoverableConnectionError

from disheap.client.core.broker_session import SessionLost
from disheap.client.io import forked
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import ConnectionLost, DisheapError, RequestError, RequestTimeout
from disheap.protocol import broker
from disheap_kombu.channel import Channel, Subscription
from disheap_kombu.failures import QueueFull, translated
from disheap_kombu.keepalive import Keepalive
from disheap_kombu.unconfirmed import Unconfirmed, suspend
from disheap_kombu.waker import Waker

if TYPE_CHECKING:
    from disheap_kombu.eventloop import Bond

ACK_BATCH = 64
"""Acks sent as one command. More would leave the broker idle meanwhile: credit comes back with the ack."""
ACK_DELAY_S = 0.001
"""The longest that an ack waits for company while callbacks follow each other."""
COME_BACK_S = 0.5
"""The longest that a transient publish spends on a connection that is not there: enough for one that is to be had."""
CAST_BYTES = 64 << 10
"""The largest payload that is sent and forgotten. A larger one waits for its confirm, transient or not: only the answer
tells whether the node takes so large a one, and next to moving it the wait is little."""
DECLARED_KEPT = 10_000
"""Declarations remembered, some 1 MB of them; a program that declares a queue for each answer forgets the oldest."""
DONE_S = 2.0
"""The longest that the end of a consumer or a channel waits for the broker, who is told already."""
WAIT_S = 3600.0
"""drain_events without a timeout looks around once an hour, and on every event."""


class Connection:
    """What kombu calls a connection: one session of a blocking client, with its channels."""

    def __init__(self, client: BlockingClient, owner: Any, unconfirmed: Unconfirmed | None = None) -> None:
        """`unconfirmed`: the publishes under way in the client's session from before."""
        self.client = owner  # kombu's Connection; the name is kombu's
        self.driver = client
        self.connected = True
        self._session = client.session_id  # in which kombu declares what it then takes for granted
        self._lock = RLock()
        self._channels: dict[int, Channel] = {}
        self._channel_ids = count(1)
        self._groups = count(1)
        self._subscriptions: dict[int, Subscription] = {}
        self._arrived: deque[broker.Push | SessionLost] = deque()
        self._acks: list[broker.Token] = []
        self._declared: dict[tuple[str, str], None] = {}
        self._temporary: dict[str, bool] = {}  # queues that end with their consumer: whether an exchange leads there
        self._unconfirmed = Unconfirmed() if unconfirmed is None else unconfirmed
        self._has_cast = False  # since the last query
        self._ahead = 0  # deliveries dispatched before they were asked for
        self._dispatching = 0  # the thread that runs callbacks, or 0
        self._waiting = False
        self._waker: Waker | None = None
        self._bond: Bond | None = None
        self._keeper: Keepalive | None = None
        client.on_socket_change = self._socket_changed
        forked.watch(self)

    # --- channels ---

    def channel(self) -> Channel:
        """A new channel."""
        self._check()
        channel = Channel(self, next(self._channel_ids))
        self._channels[channel.channel_id] = channel
        return channel

    def next_group(self) -> int:
        """A number under which consumers of this connection's session share a credit."""
        return next(self._groups)

    def release(self, channel: Channel, subscriptions: Iterable[Subscription], tokens: list[broker.Token]) -> None:
        """A channel was closed: its consumers end, what they and it held goes back."""
        self._channels.pop(channel.channel_id, None)
        with self._lock:
            self._send_acks()  # before what goes back: it is acknowledged, and still gathered
            for subscription in subscriptions:
                self._subscriptions.pop(subscription.number, None)
                self._enqueue(broker.Cancel(subscription.number, give_back=True))
            self.nack(tokens, discard=False)
            self.flush()
            self._wait_done()

    # --- commands ---

    def call(self, command: broker.Command, timeout_s: float | None = None) -> Any:
        """A confirmed round trip. Raises kombu's errors."""
        self._check()
        try:
            with self._lock:
                if self._acks:
                    self._send_acks()
                limit_s = self._limit_s(timeout_s)
                if command not in self._unconfirmed:
                    self._wait_leader(timeout_s)
                if isinstance(command, broker.Publish):
                    reply: Any = self._unconfirmed.publish(self.driver, command, limit_s)
                else:
                    reply = self.driver.call(command, timeout_s=limit_s)
                self._guard()
                return reply
        except DisheapError as error:
            raise translated(error, isinstance(command, broker.Publish)) from error
        finally:
            self._notice()

    def _wait_leader(self, timeout_s: float | None) -> None:
        """Without a session the command cannot leave, so whoever sends it hears of it after the time in which kombu
        would give up a new connection, and not after that of a whole request. A consumer has leases to lose, and waits
        on."""
        self.driver.hear()
        limit_s = getattr(self.client, "connect_timeout", None)
        if limit_s and not self.driver.ready and not self._subscriptions:
            self.driver.connect(min(limit_s, self.driver.url.timeout_s if timeout_s is None else timeout_s))

    def _limit_s(self, timeout_s: float | None) -> float | None:
        """How long to wait for the answer to a command. A consumer has leases to lose, and waits as long as for any
        request. Whoever only publishes, and declares what it publishes to, hears sooner that there is no quorum."""
        return self.driver.url.confirm_s if timeout_s is None and not self._subscriptions else timeout_s

    def publish(self, command: broker.Publish, timeout_s: float | None = None) -> broker.Published:
        """kombu remembers for each connection what it has declared, and does not declare it again. Where a message
        finds none of those, and the session is not the one in which they were made, the broker may have lost them (a
        node in memory that was restarted): the error makes kombu connect, declare and publish again, instead of losing
        the message."""
        try:
            reply: broker.Published = self.call(command, timeout_s)
        except NotFound as error:
            self._mistrust(error)
            raise
        if reply.refused:
            raise QueueFull(
                f"{reply.refused} of {reply.refused + reply.routed} queues are full and refused the message; "
                "the others have it"
            )
        if not reply.routed and (command.exchange, "" if command.exchange else command.routing_key) in self._declared:
            self._mistrust(None)
        return reply

    def declared(self, exchange: str, queue: str = "", is_temporary: bool = False) -> None:
        """A queue, which the default exchange "" knows by its name, or a binding to an exchange: whoever publishes
        there may expect to be heard."""
        _remember(self._declared, (exchange, queue), None)
        if is_temporary:
            _remember(self._temporary, queue, self._temporary.get(queue, False))

    def bound(self, queue: str) -> None:
        """The queue gets messages from an exchange."""
        if queue in self._temporary:
            self._temporary[queue] = True

    def is_chatter(self, queue: str) -> bool:
        """Whether the queue ends with its consumer and gets what an exchange spreads: events, remote control and its
        replies. An `rpc://` result goes straight to its queue, and is worth an acknowledgement."""
        return self._temporary.get(queue, False)

    def _mistrust(self, error: NotFound | None) -> None:
        if self.driver.session_id != self._session:
            self.collect()
            raise RecoverableConnectionError(
                "the message found no queue, and what was declared before the session lapsed may be gone: declare again"
            ) from error

    def query(self, query: broker.Query) -> Any:
        """It sees all that this connection did before: reads have a way of their own past the log, and would overtake
        what is still under way to it."""
        self._check()
        try:
            with self._lock:
                self._send_acks()
                if self._has_cast:
                    self._enqueue(broker.Ack([]))  # transient commands have no answer; this comes after them
                    self._has_cast = False
                self.driver.wait_answers(self._limit_s(None))
                return self.driver.query(query, self._limit_s(None))
        except DisheapError as error:
            raise translated(error) from error
        finally:
            self._notice()

    def send(self, command: broker.Command) -> None:
        """Pipelined, and on its way when this returns."""
        self._check()
        with self._lock:
            self._enqueue(command)
            self.flush()

    def cast(self, command: broker.Publish) -> None:
        """At most once; never waits, unless it is large. Without a connection it is kept for a while, and dropped when
        there are too many."""
        if len(command.message.payload) > CAST_BYTES:
            self.call(command)
            return
        self._check()
        try:
            with self._lock:
                self.driver.send_transient(command)
                self._has_cast = True
                self.driver.flush()
                if self._bond is None and not self.driver.ready:
                    self._come_back()
        except DisheapError as error:
            raise translated(error) from error

    def _come_back(self) -> None:
        """An idle producer's session has lapsed, and no event loop is there to open the next."""
        try:
            self.driver.connect(COME_BACK_S)
        except ConnectionLost:
            pass  # it goes with what is published next

    def pop(self, command: broker.Pop) -> broker.Deliver | None:
        """One message that is there now. Other pushes that come meanwhile wait for their turn."""
        try:
            with self._lock:
                ticket: int = self.call(command).consumer
                return self._collect_pop(ticket, monotonic() + self.driver.url.timeout_s)
        finally:
            self._notice()

    def _collect_pop(self, ticket: int, deadline: float) -> broker.Deliver | None:
        found, is_over = None, False
        while (left_s := deadline - monotonic()) > 0:
            for push in self._poll(left_s):
                if isinstance(push, SessionLost) or push.consumer != ticket:
                    self._keep([push])
                elif type(push) is broker.Deliver:
                    found = push
                else:
                    is_over = True
            if is_over:
                return found
            if any(type(push) is SessionLost for push in self._arrived):
                self._lose()
        self._enqueue(broker.Cancel(ticket, give_back=True))
        raise RecoverableConnectionError("no answer to basic.get in time; no message was taken")

    # --- consumers ---

    def subscribe(self, command: broker.Subscribe, subscription: Subscription) -> None:
        """Starts a consumer, and remembers the subscription for its deliveries."""
        with self._lock:
            subscription.number = self.call(command).consumer
            self._subscriptions[subscription.number] = subscription

    def unsubscribe(self, subscription: Subscription, wait: bool) -> None:
        """What came for it, and waits for its callback, goes back unseen; so does what is still on its way."""
        with self._lock:
            self._subscriptions.pop(subscription.number, None)
            self.send(broker.Cancel(subscription.number))
            waiting = [push for push in list(self._arrived) if self._is_stray(push)]
            for push in waiting:
                with suppress(ValueError):  # another thread is at its callback
                    self._arrived.remove(push)
            self._keep(waiting)
            if wait:
                self._wait_done()

    def _wait_done(self) -> None:
        """Where no event loop has other things to do: until the broker has done all that it was told, so that whoever
        looks next, on whatever connection, sees it, and what was on its way has come, and goes back too."""
        if self._bond is None and self.driver.ready:
            self._wait_answers()
            self.read()
            self._wait_answers()  # for what has just gone back
            self._notice()

    def _wait_answers(self) -> None:
        try:
            with suppress(RequestTimeout):
                self.driver.wait_answers(DONE_S)
        except DisheapError as error:
            raise translated(error) from error

    def ack(self, tokens: list[broker.Token]) -> None:
        """Inside a callback while more waits for one, or on the event loop's thread, acks gather and go together, soon;
        otherwise at once: a callback may work for long. Where another thread has the lock, it is told to send them when
        it is done."""
        self._acks.extend(tokens)
        thread = get_ident()
        more = self._dispatching == thread and (self._bond is not None or bool(self._arrived))
        gathering = more or (self._bond is not None and self._bond.thread == thread)
        if gathering and len(self._acks) < ACK_BATCH:
            return
        if self._lock.acquire(blocking=False):
            try:
                self.flush()
            finally:
                self._lock.release()
        else:
            self._wake()

    def nack(self, tokens: list[broker.Token], discard: bool) -> None:
        """Gives messages back or drops them. Does not wait for the replies."""
        with self._lock:
            for start in range(0, len(tokens), broker.BATCH_MAX):
                self._enqueue(broker.Nack(tokens[start : start + broker.BATCH_MAX], 0, discard))
            self._hand_over()

    def flush(self) -> None:
        """Send what gathered."""
        self._check()
        with self._lock:
            self._send_acks()
            self._hand_over()

    # --- events ---

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for a delivery and dispatch all that have come. Raises `socket.timeout` when none comes in time.

        kombu's own loops count calls, not messages (`for _ in range(3): drain_events()`), so each message dispatched
        beyond the first lets one later call return without waiting. It looks at the socket all the same: Celery's loop
        for green pools waits elsewhere between two calls, and what is urgent would come after all of them."""
        if self._ahead:
            self._ahead -= 1
            self.read()
            self._ahead += self.dispatch()
            return
        deadline = monotonic() + (WAIT_S if timeout is None else timeout)
        self.read()
        while not self._arrived:
            left_s = deadline - monotonic()
            if left_s <= 0 and timeout is not None:
                raise socket.timeout(f"no event within {timeout} s")  # noqa: UP041
            self._wait(max(left_s, 0.0))
            self.read()
        self._ahead = max(0, self.dispatch() - 1)

    def read(self) -> None:
        """Take what the socket has, without waiting; a lost connection makes progress in coming back."""
        self._check()
        with self._lock:
            self._send_acks()
            self._keep(self._poll(0.0))

    def _keep(self, pushes: list[broker.Push | SessionLost]) -> None:
        """For their callbacks. Deliveries to a consumer that is no more go back: there may never be a callback again to
        look at them."""
        strays = []
        for push in pushes:
            if not self._is_stray(push):
                self._arrived.append(push)
            elif type(push) is broker.Deliver and push.epoch:
                strays.append((push.id, push.epoch))
        if strays:
            self.nack(strays, discard=False)

    def _is_stray(self, push: broker.Push | SessionLost) -> bool:
        return not isinstance(push, SessionLost) and push.consumer not in self._subscriptions

    def dispatch(self, until: float = float("inf")) -> int:
        """Run callbacks for what has arrived, until that time; returns how many ran."""
        done, flushed_at = 0, monotonic()
        outer, self._dispatching = self._dispatching, get_ident()
        try:
            while self._arrived:
                self._dispatch(self._arrived.popleft())
                done += 1
                now = monotonic()
                if self._acks and now - flushed_at > ACK_DELAY_S:
                    self.flush()
                    flushed_at = now
                if now >= until:
                    break
        finally:
            self._dispatching = outer
            if self._acks and self.connected and self._bond is None:
                self.flush()
        return done

    @property
    def pending(self) -> bool:
        """Something waits for `dispatch`."""
        return bool(self._arrived) or self.driver.pending_pushes()

    @property
    def unsent(self) -> bool:
        """Whether acks wait to be sent."""
        return bool(self._acks)

    def _dispatch(self, push: broker.Push | SessionLost) -> None:
        if type(push) is broker.Deliver:
            subscription = self._subscriptions.get(push.consumer)
            if subscription is not None:
                subscription.deliver(push)
            else:
                self._keep([push])  # cancelled by another thread, just now
        elif type(push) is broker.ConsumerEnded:
            subscription = self._subscriptions.pop(push.consumer, None)
            if subscription is not None:
                subscription.ended(push.reason)
        elif type(push) is SessionLost:
            self._lose()

    def _lose(self) -> None:
        self.collect()
        raise RecoverableConnectionError(
            "the session lapsed: its consumers are gone, and what they held went back to its queues. The broker heard "
            f"nothing of this process for too long (session_timeout_ms is {self.driver.session_timeout_ms}), or an "
            "operator ended the session, or a broker that keeps nothing on disk was started again"
        )

    # --- keeping alive ---

    def beat(self) -> None:
        """Ping when due; give a dead connection up, come back on another. Call it every second or so."""
        self.read()
        self._notice()

    def bind(self, bond: Bond) -> None:
        """An event loop takes over the waiting."""
        self.unbind()
        self._unguard()
        self._bond = bond
        self.driver.on_socket_change = bond.socket_changed

    def unbind(self) -> None:
        """Takes the connection out of the event loop."""
        bond, self._bond = self._bond, None
        self.driver.on_socket_change = self._socket_changed
        if bond is not None:
            bond.loosen()

    def _guard(self) -> None:
        """Nobody may call for long, and there is something to lose: consumers, leases, queues of its own."""
        if self._keeper is None and self._bond is None and self.driver.has_holdings:
            self._keeper = Keepalive(_keep(weakref.ref(self)), self.driver.heartbeat_s / 2)

    def _unguard(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stop()

    def keep(self) -> bool:
        """The keeper's call: whether there is still something to keep. What goes wrong shows at the next use."""
        with self._lock:
            if self.connected and self._bond is None and self.driver.has_holdings:
                with suppress(Exception):
                    self.beat()
                    return True
            self._keeper = None
            return False

    def _socket_changed(self, _old: int | None, _new: int | None) -> None:
        if self._waiting:
            self._wake()

    # --- the end ---

    def close(self) -> None:
        """The session ends, and what it held goes back at once. May be called twice."""
        if not self.connected:
            return
        with self._lock:
            try:
                self.flush()
                self._forget()
                self.driver.close()
            except DisheapError as error:
                raise translated(error) from error

    def collect(self) -> None:
        """Drop the socket without speaking the protocol."""
        self._forget()
        self.driver.collect()

    def give_up(self) -> None:
        """kombu wants another connection. What was published and not answered is still under way in this session, so
        the next connection goes on with it, unless consumers or leases shall be free for others."""
        if self.connected and self._unconfirmed and not self._subscriptions and not self.driver.has_holdings:
            self._forget()
            suspend(self.client, self.driver, self._unconfirmed)
        else:
            self.collect()

    def collect_in_child(self) -> None:
        """After a fork: the socket and the event loop are the parent's, and so may be whoever holds the lock."""
        self._lock = RLock()
        self._bond, self._keeper = None, None
        self.collect()

    def _forget(self) -> None:
        self.connected = False
        self.unbind()
        self._unguard()
        for channel in list(self._channels.values()):
            channel.collect()
        self._channels.clear()
        self._subscriptions.clear()
        self._arrived.clear()
        self._acks.clear()
        waker, self._waker = self._waker, None
        if waker is not None:
            waker.close()

    # --- below ---

    def _check(self) -> None:
        if not self.connected:
            raise RecoverableConnectionError("the connection is closed")

    def _poll(self, timeout_s: float) -> list[broker.Push | SessionLost]:
        try:
            return self.driver.poll(timeout_s)
        except DisheapError as error:
            raise translated(error) from error

    def _enqueue(self, command: broker.Command) -> None:
        try:
            self.driver.send(command)
        except DisheapError as error:
            raise translated(error) from error

    def _send_acks(self) -> None:
        while self._acks:
            tokens = self._acks[: broker.BATCH_MAX]
            del self._acks[: len(tokens)]
            self._enqueue(broker.Ack(tokens))

    def _hand_over(self) -> None:
        try:
            self.driver.flush()
        except RequestError as error:
            raise translated(error) from error

    def _notice(self) -> None:
        """What one thread has read another may be waiting for, at a socket that has nothing left."""
        elsewhere = self._bond is not None and self._bond.thread != get_ident()
        if (elsewhere or self._waiting) and self.pending:
            self._wake()

    def _wake(self) -> None:
        if self._bond is not None:
            self._bond.wake()
        elif self._waker is not None:
            self._waker.wake()

    def _wait(self, seconds: float) -> None:
        """Until the socket has something, somebody wakes us, the client wants to do something, or time is up."""
        if self._waker is None:
            self._waker = Waker()
        limit_s = min(seconds, self.driver.heartbeat_s, self.driver.wants_poll_in)
        self._waiting = True
        try:
            if not (self._acks or self.pending):
                self._waker.wait(self.driver.fileno(), limit_s)
        finally:
            self._waiting = False


def _remember(table: dict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    if len(table) > DECLARED_KEPT:
        del table[next(iter(table))]


def _keep(kept: weakref.ref[Connection]) -> Callable[[], bool]:
    """For a thread that must not hold the connection: one that was dropped without closing it ends as it did."""

    def keep() -> bool:
        connection = kept()
        return connection is not None and connection.keep()

    return keep
