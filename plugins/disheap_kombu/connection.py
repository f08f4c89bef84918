"""One kombu connection: a session with its channels, and what they send.

Sends commands and waits for their answers, publishes, and starts and ends consumers. `events.py` has the other
direction, and the lock. Does not know AMQP's methods (`channel.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count, islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from amqp.exceptions import NotFound, RecoverableConnectionError
from kombu.exceptions import OperationalError
from msgspec import structs

from disheap.client.core.broker_session import SessionLost
from disheap.client.io import forked
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import ConnectionLost, DisheapError, RequestTimeout
from disheap.protocol import broker
from disheap_kombu.celery_pool import has_worker, revoke_here
from disheap_kombu.channel import Channel
from disheap_kombu.declarations import Declarations
from disheap_kombu.failures import BatchTooLarge, QueueFull, refusal_of_full_queues, translated
from disheap_kombu.namespaces import Namespace
from disheap_kombu.publishing.header_routing import ExchangeKinds
from disheap_kombu.publishing.unconfirmed import Unconfirmed, suspend
from disheap_kombu.publishing.window import Window
from disheap_kombu.reading.events import SessionEvents
from disheap_kombu.revocations import KEPT_MS, LOOKED_UP_AT_ONCE, Lookups, keys_of, revoked_by
from disheap_kombu.subscription import Subscription

if TYPE_CHECKING:
    from kombu.message import Message

    from disheap_kombu.publishing.messages import Outgoing

RECONNECT_S = 0.5
"""The longest time that a transient publish spends on a lost connection. It is enough if a node can be reached."""
TRANSIENT_BYTES_MAX = 64 << 10
"""The largest payload that is sent without waiting for the answer. A larger one waits for its confirm, because only the
answer tells whether the node takes a message so large. Beside the time to send it the wait is short."""
COMMAND_BYTES_GUESS = 64 << 10
APPLIED_TIMEOUT_S = 2.0
"""The longest time for which the end of a consumer or a channel waits for the broker's answers."""


class Connection(SessionEvents):
    """What kombu calls a connection: one session of a blocking client, with its channels."""

    def __init__(
        self,
        client: BlockingClient,
        owner: Any,
        unconfirmed: Unconfirmed | None = None,
        priority_sign: int = 1,
        holds_back: bool = True,
        namespace: Namespace | None = None,
        window: Window | None = None,
    ) -> None:
        """`owner` is kombu's `Connection`. `unconfirmed` has the publishes under way in the client's session from
        before. `priority_sign` is -1 if the application's smaller priorities go first. `holds_back`: messages for a
        pool of workers wait until it has a free slot. `namespace` is the virtual host. With a
        `window` a publish returns before its confirm."""
        super().__init__(client, holds_back)
        self.client = owner  # kombu's name
        self.priority_sign = priority_sign
        self._namespace = namespace or Namespace()
        self._lookups = Lookups(self._namespace.name)
        self._session = client.session_id  # in which kombu declares what it then takes for granted
        self._channels: dict[int, Channel] = {}
        self._channel_ids = count(1)
        self._groups = count(1)
        self._declarations = Declarations()
        self.exchanges = ExchangeKinds(self.query)
        self._unconfirmed = Unconfirmed() if unconfirmed is None else unconfirmed
        self._has_sent_transient = False  # since the last query
        self._window = window
        if window is not None:
            window.attach(self._lock)
        forked.watch(self)

    # --- channels ---

    def channel(self) -> Channel:
        """A new channel."""
        self._check()
        channel = Channel(self, next(self._channel_ids))
        self._channels[channel.channel_id] = channel
        return channel

    def queue_of(self, topic: str) -> str:
        """The name of a queue, as the application knows it."""
        return self._namespace.queue_of(topic)

    def next_group(self) -> int:
        """A number under which consumers of this connection's session share a credit."""
        return next(self._groups)

    def release_channel(
        self, channel: Channel, subscriptions: Iterable[Subscription], tokens: list[broker.Token]
    ) -> None:
        """A channel was closed. Its consumers end. What they and the channel held goes back."""
        self._channels.pop(channel.channel_id, None)
        with self._lock:
            self._send_acks()  # first: these messages are acknowledged, and must not go back
            self._outbox.send_nacks(tokens)  # before the rest goes back, which no callback has had
            for subscription in subscriptions:
                self._deliveries.remove_consumer(subscription.number)
                self._outbox.send(broker.Cancel(subscription.number, give_back=True, release=True))
            self._deliveries.take_strays()  # the broker has them
            self.flush()
            self._wait_applied()

    # --- commands ---

    def call(self, command: broker.Command, timeout_s: float | None = None) -> Any:
        """Sends a command and returns its reply. Raises kombu's errors."""
        self._check()
        command = self._namespace.inward(command)
        try:
            with self._lock:
                self._send_acks()
                limit_s = self._limit_s(timeout_s)
                if command not in self._unconfirmed:
                    self._wait_leader(timeout_s)
                if isinstance(command, broker.Publish | broker.Batch):
                    reply: Any = self._unconfirmed.publish(self.driver, command, limit_s)
                else:
                    reply = self.driver.request(command, timeout_s=limit_s)
                self._start_keepalive()
                return self._namespace.outward(reply)
        except DisheapError as error:
            raise translated(error, isinstance(command, broker.Publish | broker.Batch)) from error
        finally:
            self._wake_waiter()

    def _wait_leader(self, timeout_s: float | None) -> None:
        """Without a session the command cannot leave. So the caller gets the error after kombu's `connect_timeout`, and
        not after that of a whole request. A consumer has leases to lose, and waits longer."""
        self.driver.check_after_pause()
        limit_s = getattr(self.client, "connect_timeout", None)
        if limit_s and not self.driver.ready and not self._deliveries.has_consumers:
            self.driver.connect(min(limit_s, self.driver.url.timeout_s if timeout_s is None else timeout_s))

    def _limit_s(self, timeout_s: float | None) -> float | None:
        """How long to wait for the answer to a command, in seconds; None for the URL's `timeout_s`. A consumer has
        leases to lose, and waits as long as for any request. A connection that only publishes and declares gets its
        error sooner when there is no quorum."""
        return self.driver.url.confirm_s if timeout_s is None and not self._deliveries.has_consumers else timeout_s

    def query(self, query: broker.Query) -> Any:
        """Sends a query and returns its reply. The reply reflects all that this connection did before. Reads do not go
        through the log, so they would overtake commands that are still under way."""
        self._check()
        try:
            with self._lock:
                self._send_acks()
                if self._has_sent_transient:
                    self._outbox.send(broker.Ack([]))  # transient commands have no answer; this comes after them
                    self._has_sent_transient = False
                self.driver.wait_answers(self._limit_s(None))
                reply = self.driver.query(self._namespace.inward(query), self._limit_s(None))
                return self._namespace.outward(reply)
        except DisheapError as error:
            raise translated(error) from error
        finally:
            self._wake_waiter()

    def send(self, command: broker.Command) -> None:
        """Sends a command without waiting for its answer."""
        self._check()
        with self._lock:
            self._outbox.send(command)
            self.flush()

    # --- publishing ---

    def publish(self, command: broker.Publish, timeout_s: float | None = None) -> broker.Published:
        """Publishes, and waits for the confirm. Raises `QueueFull` if a queue refused the message.

        A message may find no queue although one was declared. If the session is another one by now, the broker may have
        lost the declarations (a node in memory that was restarted). The error makes kombu connect, declare and publish
        again, so the message is not lost."""
        self._raise_failed()
        try:
            reply: broker.Published = self.call(command, timeout_s)
        except NotFound as error:
            self._raise_if_undeclared(error)
            raise
        if reply.refused:
            raise QueueFull(refusal_of_full_queues(reply))
        if not reply.routed and self._declarations.expects_route(command):
            self._raise_if_undeclared(None)
        return reply

    @property
    def has_window(self) -> bool:
        """Whether a publish may return before its confirm."""
        return self._window is not None

    def publish_in_window(
        self, command: broker.Publish, sent: tuple[Any, str, str], timeout_s: float | None = None
    ) -> None:
        """Publishes, and waits only while too many publishes have no confirm. `sent` is the message, its exchange and
        its routing key. Raises what publishes before have failed with."""
        self._check()
        window = self._window
        assert window is not None, "the caller asks for it"
        try:
            with self._lock:
                window.raise_failed()
                self._send_acks()
                self._wait_leader(timeout_s)
                declared_in = self._session if self._declarations.expects_route(command) else 0
                limit_s = self._limit_s(timeout_s)
                limit_s = self.driver.url.timeout_s if limit_s is None else limit_s
                window.publish(self.driver, self._namespace.inward(command), sent, declared_in, limit_s)
                self._start_keepalive()
        except DisheapError as error:
            raise translated(error) from error
        finally:
            self._wake_waiter()

    def _raise_failed(self) -> None:
        """Raises what publishes in the window have failed with."""
        if self._window is not None:
            with self._lock:
                self._window.raise_failed()

    @property
    def _is_confirming(self) -> bool:
        """Whether publishes in the window have no confirm yet."""
        return self._window is not None and len(self._window) > 0

    def _has_something_to_lose(self) -> bool:
        return self._is_confirming or super()._has_something_to_lose()

    def keepalive_tick(self) -> bool:
        """Sends what has no confirm to the next leader, if the program does nothing meanwhile."""
        with self._lock:
            if self._is_confirming and self.connected and self._hub is None and not self.driver.ready:
                with suppress(DisheapError):
                    self._reconnect()
            return super().keepalive_tick()

    @property
    def command_bytes(self) -> int:
        """The longest command that the node takes, in bytes. Before a node has said it, a guess that is low."""
        welcome = self.driver.welcome
        return COMMAND_BYTES_GUESS if welcome is None else welcome.limits.command_bytes

    def named_for_broker(self, command: broker.Publish) -> broker.Publish:
        """The command with the names that the broker knows: those of the virtual host."""
        named: broker.Publish = self._namespace.inward(command)
        return named

    @property
    def cluster(self) -> tuple[str, int]:
        """The id of the cluster, and the number of the group."""
        welcome = self.driver.welcome
        return ("" if welcome is None else welcome.cluster_id), self.driver.url.group

    def publish_batch(self, commands: list[broker.Publish], timeout_s: float | None = None) -> list[int]:
        """Publishes all messages or none, and waits for the confirm. Returns into how many queues each went. In another
        session than the one in which kombu declared, a message that finds no queue refuses all, as in `publish`. If the
        messages lead to more queues than one command may, each half is sent by itself."""
        if self.driver.session_id != self._session:
            commands = [
                structs.replace(one, mandatory=True) if self._declarations.expects_route(one) else one
                for one in commands
            ]
        self._raise_failed()
        items: list[broker.BatchItem] = [*commands]
        try:
            reply: broker.Batched = self.call(broker.Batch(items), timeout_s)
        except NotFound as error:
            self._raise_if_undeclared(error)
            raise
        except BatchTooLarge:
            if len(commands) == 1:
                raise
            half = len(commands) // 2
            return self.publish_batch(commands[:half], timeout_s) + self.publish_batch(commands[half:], timeout_s)
        return reply.results

    def note_declared(self, exchange: str, queue: str = "", is_temporary: bool = False) -> None:
        """A queue of the default exchange "", or a binding to another exchange, was declared."""
        self._declarations.add(exchange, queue, is_temporary)

    def note_bound(self, queue: str) -> None:
        """The queue gets messages from an exchange."""
        self._declarations.add_binding(queue)

    def consumes_without_leases(self, queue: str) -> bool:
        """Whether the messages of the queue are worth neither a lease nor an ack in the log."""
        return self._declarations.is_transient(queue)

    def _raise_if_undeclared(self, error: NotFound | None) -> None:
        """Raises `RecoverableConnectionError` if the session is not the one in which kombu declared."""
        if self.driver.session_id != self._session:
            self.collect()
            raise RecoverableConnectionError(
                "the message found no queue, and what was declared before the session lapsed may be gone: declare again"
            ) from error

    def mark_revoked(self, message: Outgoing) -> None:
        """Marks the tasks that a broadcast of remote control revokes. Returns when the marks are on the disks of a
        majority, one after the other. Raises kombu's errors; then nobody was told of the revoke."""
        for key in revoked_by(message, self._namespace.name):
            self.call(broker.SetValue(key, b"", KEPT_MS))

    def are_revoked(self, tasks: list[dict[str, Any]]) -> list[bool]:
        """Whether each of these tasks, by its headers, is marked as revoked."""
        keys = [keys_of(task, self._namespace.name) for task in tasks]
        marked: set[str] = set()
        named = iter(dict.fromkeys(chain.from_iterable(keys)))
        while some := list(islice(named, broker.KEYS_MAX)):
            reply = self.query(broker.GetValues(some))
            marked |= {value.key for value in reply.values} | set(reply.left)
        return [not marked.isdisjoint(of_task) for of_task in keys]

    def send_transient(self, command: broker.Publish) -> None:
        """Publishes at most once, and does not wait for the answer unless the message is large. Without a connection
        the message is kept for a while. The oldest are dropped when there are too many."""
        if len(command.message.payload) > TRANSIENT_BYTES_MAX:
            self.call(command)
            return
        self._check()
        try:
            with self._lock:
                self.driver.send_transient(self._namespace.inward(command))
                self._has_sent_transient = True
                self.driver.flush()
                if self._hub is None and not self.driver.ready:
                    self._reconnect()
        except DisheapError as error:
            raise translated(error) from error

    def _reconnect(self) -> None:
        """The session of an idle producer has lapsed, and there is no event loop to open the next one."""
        with suppress(ConnectionLost):  # the message goes out with what is published next
            self.driver.connect(RECONNECT_S)

    # --- consumers ---

    def _before_callback(self, push: broker.Deliver, message: Message) -> None:
        """Looks up whether a task was revoked while it waited, together with others that wait here."""
        if not has_worker() or not self._lookups.concerns(push, message.headers):
            return
        is_revoked = self._lookups.take(push)
        if is_revoked is None:
            query, keys = self._lookups.query((push, *self._deliveries.demand.first(LOOKED_UP_AT_ONCE)))
            try:
                with self._lock:
                    reply = self.driver.query(query, self._limit_s(None))
            except DisheapError as error:
                raise translated(error) from error
            self._lookups.learn(keys, reply)
            is_revoked = self._lookups.take(push)
        if is_revoked:
            revoke_here(message.headers["id"])

    def subscribe(self, command: broker.Subscribe, subscription: Subscription) -> None:
        """Starts a consumer, and remembers the subscription for its deliveries."""
        with self._lock:
            subscription.number = self.call(command).consumer
            self._deliveries.add_consumer(subscription)

    def unsubscribe(self, subscription: Subscription, wait: bool) -> None:
        """Ends a consumer. Messages that wait for its callback, or are still on their way, go back unseen."""
        with self._lock:
            self._deliveries.remove_consumer(subscription.number)
            self.send(broker.Cancel(subscription.number))
            strays = self._deliveries.take_strays()
            if strays:
                self.release(strays)
            if wait:
                self._wait_applied()

    def pop(self, command: broker.Pop) -> broker.Deliver | None:
        """One message, or None if the queue has none now. Other pushes that come meanwhile are buffered."""
        try:
            with self._lock:
                consumer: int = self.call(command).consumer
                return self._wait_popped(consumer, monotonic() + self.driver.url.timeout_s)
        finally:
            self._wake_waiter()

    def _wait_popped(self, consumer: int, deadline: float) -> broker.Deliver | None:
        found, is_over = None, False
        while (left_s := deadline - monotonic()) > 0:
            for push in self._poll(left_s):
                if isinstance(push, SessionLost) or push.consumer != consumer:
                    self._buffer([push])
                elif type(push) is broker.Deliver:
                    found = push
                else:
                    is_over = True
            if is_over:
                return found
            if self._deliveries.has_lapsed:
                self._raise_session_lost()
        self._outbox.send(broker.Cancel(consumer, give_back=True, release=True))
        raise RecoverableConnectionError("no answer to basic.get in time; no message was taken")

    def _wait_applied(self) -> None:
        """Waits until the broker has answered every command, unless an event loop has other work. Then every connection
        sees the effect. What was on its way has arrived, and goes back too."""
        if self._hub is None and self.driver.ready:
            self._wait_answers()
            self.read()
            self._wait_answers()  # for what has just gone back
            self._wake_waiter()

    def _wait_answers(self) -> None:
        try:
            with suppress(RequestTimeout):
                self.driver.wait_answers(APPLIED_TIMEOUT_S)
        except DisheapError as error:
            raise translated(error) from error

    # --- the end ---

    def close(self) -> None:
        """Ends the session. What it held goes back at once. May be called twice. With a window it waits for the
        confirmations, and raises what failed when the session has ended."""
        if not self.connected:
            self._raise_failed()
            return
        with self._lock:
            try:
                self.flush()
                self._wait_window()
                self._clear()
                self.driver.close()
            except DisheapError as error:
                raise translated(error) from error
        if self._window is not None:
            self._window.lose()
            self._raise_failed()

    def _wait_window(self) -> None:
        """What is still under way after this, or has failed, is reported at the end."""
        if self._window is not None:
            with suppress(OperationalError, RecoverableConnectionError):
                self._window.wait()

    def collect(self) -> None:
        """Drops the socket. What has no confirm will get none."""
        super().collect()
        if self._window is not None:
            self._window.lose()

    def abort_in_child(self) -> None:
        """After a fork. What has no confirm is the parent's."""
        if self._window is not None:
            self._window.forget()
        super().abort_in_child()

    def suspend_or_collect(self) -> None:
        """kombu wants another connection. If publishes are without an answer, the next connection goes on with this
        session. But if the session has consumers or leases, it is left, so that others get its messages."""
        has_consumers = self._deliveries.has_consumers
        is_owed = self._unconfirmed or self._is_confirming
        if self.connected and is_owed and not has_consumers and not self.driver.holds_anything:
            self._clear()
            suspend(self.client, self.driver, self._unconfirmed)
        else:
            self.collect()

    def _clear(self) -> None:
        """Forgets everything but the driver."""
        super()._clear()
        for channel in list(self._channels.values()):
            channel.collect()
        self._channels.clear()
