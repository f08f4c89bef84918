"""A channel: AMQP's verbs as the broker's commands, and the delivery tags.

Owns its consumers' tags, the prefetch count, and which delivery tag stands for which lease. It refuses to know sockets
and event loops: everything goes through its `Connection`. A delivery tag is a number of this channel's own. It stands
for (message id, lease epoch), which any leader knows. So an ack is as good after a failover as before it.

Prefetch is credit that the consumers of a channel share, whatever `a_global` says (Celery asks for it so). A worker
that takes from five queues has the count in hand, and not five times as much. Between the queues the one served longest
ago goes first. Without a count (0) a channel has `CREDIT_MAX` and `UNLIMITED_BYTES`, never infinity. Consumers without
acks have a credit each.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from amqp.exceptions import (
    AMQPNotImplementedError,
    ChannelError,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
)
from amqp.protocol import queue_declare_ok_t
from kombu.transport import base

from disheap.protocol import broker
from disheap_kombu.channel_connection import ChannelConnection
from disheap_kombu.exchanges import ExchangeMethods
from disheap_kombu.publishing import messages
from disheap_kombu.publishing.delays import delay_ms, take_due_time
from disheap_kombu.publishing.messages import Outgoing
from disheap_kombu.publishing.publish_batch import PublishBatch
from disheap_kombu.queues import topic_settings, warn_of_consumer_arguments
from disheap_kombu.reading.dead_letters import add_history
from disheap_kombu.subscription import Subscription

if TYPE_CHECKING:
    from kombu.message import Message

TRANSIENT = 1  # AMQP's delivery mode
REMOTE_CONTROL = ".pidbox"
"""The end of the name of the exchanges of kombu's remote control, whose messages are transient whatever they say."""
NO_ROUTE = 312
UNLIMITED_BYTES = 256 << 20
"""Payload in the hands of a consumer that asked for no bound. The leader may have to keep as much for a socket that
nobody reads."""
NO_ACK_CREDIT, NO_ACK_CREDIT_BYTES = 1000, 4 << 20
"""What may be on its way to a consumer without acks. It takes leases all the same, and acknowledges each message before
its callback. The broker's own no-ack consumers are sent everything at once, however slowly they read. They lose what is
under way when a connection breaks. Events and remote control are worth neither an acknowledgement in the log nor a
lease: their queues (`Connection.consumes_without_leases`) are consumed so."""


class Channel(ExchangeMethods, base.StdChannel):
    """A kombu channel: the methods of AMQP, as commands of the machine `heap`."""

    def __init__(self, connection: ChannelConnection, channel_id: int) -> None:
        self.connection: ChannelConnection | None = connection
        self.channel_id = channel_id
        self.events: dict[str, set[Callable[..., Any]]] = defaultdict(set)
        self.is_open = True
        self._group = 0
        self.credit_limit: int | None = None  # set by a pool that takes no more than it can begin
        self._prefetch = 0
        self._prefetch_bytes = 0
        self.no_ack_consumers: set[str] = set()  # type: ignore[assignment]  # kombu reads it before it acknowledges
        self._consumers: dict[str, Subscription] = {}
        self._tags = count(1)
        self._made_exchanges: set[str] = set()  # of the standard exchanges
        self._unacked: dict[int, broker.Token] = {}  # in the order of delivery
        self._gathered: list[broker.Publish] | None = None

    # --- messages out ---

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Outgoing:
        """Packs a message for `basic_publish`. A task with an eta or a countdown will wait in the broker."""
        headers, due_s = take_due_time(headers or {})
        return Outgoing(body, priority, content_type, content_encoding, headers, properties, due_s)

    def basic_publish(
        self,
        message: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **_: Any,
    ) -> None:
        """Returns when the message is on the disks of a majority. A transient one (`delivery_mode=1`, like
        events, and all of remote control) is sent, and never waited for. Unknown exchange: 404. Unknown outcome:
        `PublishOutcomeUnknown`. `immediate` is refused with 540, as RabbitMQ does. With `{"confirm": "window"}` it
        returns at once, unless `mandatory` asks for the answer; see `publishing/window.py`."""
        message, command = self.publication(message, exchange, routing_key, immediate)
        if self._gathered is not None:
            self._gathered.append(self._open_connection.named_for_broker(command))
            return
        if command.exchange.endswith(REMOTE_CONTROL):
            self._open_connection.mark_revoked(message)
        if message.properties.get("delivery_mode") == TRANSIENT or command.exchange.endswith(REMOTE_CONTROL):
            self._open_connection.send_transient(command)
            return
        if self._open_connection.has_window and not mandatory:
            self._open_connection.publish_in_window(
                command, (message, exchange or "", routing_key or ""), confirm_timeout or timeout
            )
            return
        reply = self._open_connection.publish(command, confirm_timeout or timeout)
        if mandatory and not reply.routed:
            self.return_message(message, exchange, routing_key)

    @contextmanager
    def gather(self) -> Iterator[list[broker.Publish]]:
        """Within this block, what is published through this channel is not sent. It is added to the list, for a
        command that does more than to publish. Declarations are sent."""
        gathered, self._gathered = self._gathered, []
        try:
            yield self._gathered
        finally:
            self._gathered = gathered

    @property
    def cluster(self) -> tuple[str, int]:
        """The cluster and the group that this channel publishes in."""
        return self._open_connection.cluster

    def publication(
        self, message: Any, exchange: str, routing_key: str, immediate: bool
    ) -> tuple[Outgoing, broker.Publish]:
        """The message, and the command that publishes it. Creates the exchange if it is one of AMQP's own."""
        if immediate:
            raise AMQPNotImplementedError("immediate=True is not supported (nor by RabbitMQ); use expiration instead")
        if type(message) is not Outgoing:
            message = Outgoing(message, content_type="text/plain", content_encoding="utf-8")
        exchange, routing_key = exchange or "", routing_key or ""
        payload = messages.encode(message, exchange, routing_key)
        headers = b""
        if exchange:
            self._ensure_standard_exchange(exchange)
            if not exchange.endswith(REMOTE_CONTROL):
                headers = self._open_connection.exchanges.routing_headers(exchange, message.headers)
        new = broker.NewMessage(
            payload,
            messages.checked_priority(message.priority, self._open_connection.priority_sign),
            delay_ms(message.due_s),
            messages.expires_ms(message.properties),
            headers,
        )
        return message, broker.Publish(exchange, routing_key, new)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """kombu 5.7 calls this for `Producer.batch`."""
        return PublishBatch(self, max_size)

    @property
    def command_bytes(self) -> int:
        """The longest command that the node takes, in bytes."""
        return self._open_connection.command_bytes

    def publish_batch(self, commands: list[broker.Publish], timeout_s: float | None) -> list[int]:
        """Publishes several messages, all or none. Returns into how many queues each went."""
        return self._open_connection.publish_batch(commands, timeout_s)

    def return_message(self, message: Outgoing, exchange: str, routing_key: str) -> None:
        """No queue took a mandatory message: tells the handlers, or raises."""
        error = ChannelError(f"no queue takes {routing_key!r} from exchange {exchange!r}", reply_code=NO_ROUTE)
        handlers = self.events.get("basic_return")
        if not handlers:
            raise error
        for handler in handlers:
            handler(error, exchange, routing_key, message)

    # --- messages in ---

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Message], Any] | None = None,
        arguments: dict[str, Any] | None = None,
        on_cancel: Callable[[str], Any] | None = None,
        **_: Any,
    ) -> str:
        """Deliveries come by themselves from here on. 404 for an unknown queue."""
        tag = consumer_tag or f"ctag.{uuid.uuid4().hex}"
        if tag in self._consumers:
            raise PreconditionFailed(f"consumer tag {tag!r} is in use on this channel")
        warn_of_consumer_arguments(queue, arguments or {})
        subscription = Subscription(self, tag, callback or _ignore, bool(no_ack), on_cancel)
        without_leases = no_ack and self._open_connection.consumes_without_leases(queue)
        credit = (NO_ACK_CREDIT, NO_ACK_CREDIT_BYTES) if no_ack else (max(1, self._credit[0]), self._credit[1])
        subscription.group = 0 if no_ack else self._group_for_next_consumer()
        command = broker.Subscribe(queue, *credit, without_leases, 0, bool(exclusive), subscription.group)
        self._open_connection.subscribe(command, subscription)
        self._consumers[tag] = subscription
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False, **_: Any) -> None:
        """No more deliveries; those in hand may still be acknowledged. An unknown tag is fine."""
        subscription = self.remove_consumer(consumer_tag)
        if subscription is not None:
            self._open_connection.unsubscribe(subscription, wait=not nowait)

    def basic_get(self, queue: str = "", no_ack: bool = False, **_: Any) -> Message | None:
        """The next message of a queue, or None if it has none."""
        push = self._open_connection.pop(broker.Pop(queue, 1, 0, 0, bool(no_ack)))
        return None if push is None else self.incoming(push, None)

    def delayed(self, queue: str, number: int) -> list[broker.PeekedMessage]:
        """At most so many messages that wait for their time, 1 to 1000, in the order of publication. Nothing changes.
        404 for an unknown queue."""
        found: list[broker.PeekedMessage] = self._open_connection.query(
            broker.Peek(queue, number, delayed=True, ready=False)
        ).messages
        return found

    def topic_info(self, queue: str) -> broker.TopicInfo:
        """How many messages and consumers a queue has. 404 for an unknown queue."""
        info: broker.TopicInfo = self._open_connection.query(broker.DescribeTopic(queue))
        return info

    def delayed_total(self, queue: str) -> int:
        """How many messages of a queue wait for their time. 404 for an unknown queue."""
        return self.topic_info(queue).delayed

    @property
    def priority_sign(self) -> int:
        """1 if the application's larger priorities go first, -1 if its smaller ones do."""
        return self._open_connection.priority_sign

    def headers_of(self, message: broker.PeekedMessage) -> dict[str, Any]:
        """The headers of a message that waits; none for one that kombu did not write."""
        return messages.decode(message.payload).headers

    def revoked(self, tasks: list[dict[str, Any]]) -> list[bool]:
        """Whether each of these tasks, by its headers, is marked as revoked in the broker."""
        return self._open_connection.are_revoked(tasks)

    def incoming(self, push: broker.Deliver, consumer_tag: str | None, no_ack: bool = False) -> Message:
        """Makes a kombu message from a delivery, and gives it a delivery tag."""
        delivery_tag = next(self._tags)
        if no_ack and push.epoch:
            self._open_connection.ack([(push.id, push.epoch)])
        elif push.epoch:  # not of a no-ack get, whose message is gone already
            self._unacked[delivery_tag] = (push.id, push.epoch)
        message = messages.to_message(push, delivery_tag, consumer_tag, self, self._open_connection.priority_sign)
        if push.encoded_headers or push.attempts > 1:
            add_history(message, push, self._open_connection.queue_of)
        return message

    def message_to_python(self, raw_message: Message) -> Message:
        """What callbacks get is kombu's message already."""
        return raw_message

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **_: Any) -> None:
        """Pipelined: returns at once. From any thread."""
        connection = self._open_connection
        if multiple:
            connection.ack(list(self._take_up_to(delivery_tag)))
        else:
            connection.ack([self._take(delivery_tag)])

    def basic_reject(self, delivery_tag: int, requeue: bool = False, **_: Any) -> None:
        """`requeue`: back to its old place in the queue, which it keeps; otherwise dead-lettered, or dropped if the
        queue has no exchange for dead letters."""
        self._open_connection.nack([self._take(delivery_tag)], discard=not requeue)

    def basic_recover(self, requeue: bool = False, **_: Any) -> None:
        """Everything unacknowledged goes back to its place, and is delivered again."""
        tokens = list(self._take_up_to(0))
        if tokens:
            self._open_connection.nack(tokens, discard=False)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, a_global: bool = False, **_: Any) -> None:
        """Holds for all consumers of the channel together: those to come, and at once for those that are there."""
        self._prefetch, self._prefetch_bytes = prefetch_count, prefetch_size
        for group in self.credit_groups():
            self._open_connection.send(broker.SetCredit(0, *self._credit, group))

    @property
    def unacked(self) -> int:
        """How many messages were delivered to callbacks and are not settled."""
        return len(self._unacked)

    @property
    def credit(self) -> int:
        """How many messages the consumers may hold, over all groups."""
        return self._credit[0] * len(self.credit_groups())

    def credit_groups(self) -> list[int]:
        """The groups of consumers that share a credit."""
        return [group for group in self._groups() if group]

    def limit_credit(self, limit: int) -> list[broker.SetCredit]:
        """Bounds the credit of each group. Returns what to send for it."""
        if limit == self.credit_limit:
            return []
        self.credit_limit = limit
        return [broker.SetCredit(0, *self._credit, group) for group in self.credit_groups()]

    def _groups(self) -> Counter[int]:
        """The groups that share a credit, and how many consumers each has."""
        return Counter(subscription.group for subscription in self._consumers.values())

    def _group_for_next_consumer(self) -> int:
        """The group of the next consumer. There is one for each `CREDIT_GROUP_CONSUMERS_MAX` consumers: so a channel of
        more queues has the prefetch count for each so many."""
        counts = self._groups()
        if counts[self._group] >= broker.CREDIT_GROUP_CONSUMERS_MAX or not self._group:
            self._group = self._open_connection.next_group()
        return self._group

    def flow(self, active: bool = True) -> None:
        """Stop and go on with deliveries: not supported (nor by RabbitMQ); cancel the consumer instead."""
        raise AMQPNotImplementedError("channel.flow is not supported; cancel the consumer instead")

    @property
    def _credit(self) -> tuple[int, int]:
        """Messages and bytes. A consumer that bounds messages gets so many. A worker's prefetch count grows with each
        task that waits for its time. The worker must not stop at a bound that it never named."""
        messages = min(self._prefetch or broker.CREDIT_MAX, broker.CREDIT_MAX)
        if self.credit_limit is not None:
            messages = min(messages, self.credit_limit)
        size = self._prefetch_bytes or (broker.CREDIT_BYTES_MAX if self._prefetch else UNLIMITED_BYTES)
        return messages, min(size, broker.CREDIT_BYTES_MAX)

    def _take(self, delivery_tag: int) -> broker.Token:
        try:
            return self._unacked.pop(delivery_tag)
        except KeyError:
            raise PreconditionFailed(
                f"unknown delivery tag {delivery_tag}: settled already, or of a no-ack consumer"
            ) from None

    def _take_up_to(self, delivery_tag: int) -> Iterator[broker.Token]:
        """AMQP's `multiple`: 0 means all there are."""
        for tag in list(self._unacked):
            if delivery_tag and tag > delivery_tag:
                break
            yield self._unacked.pop(tag)

    # --- queues ---

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        """Translates kombu's options of a queue into AMQP's arguments."""
        prepared: dict[str, Any] = base.to_rabbitmq_queue_arguments(arguments or {}, **options)
        return prepared

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        **_: Any,
    ) -> Any:
        """(queue, messages, consumers). 404: passive and not there; 405: exclusive to another session, and passive or
        its owner is connected; 406: there with other arguments. Every queue is durable."""
        if passive:
            info = self._open_connection.query(broker.DescribeTopic(queue, require_access=True))
        else:
            queue = queue or f"amq.gen-{uuid.uuid4().hex}"
            sign = self._open_connection.priority_sign
            settings = topic_settings(queue, arguments or {}, bool(exclusive), bool(auto_delete), sign)
            info = self._open_connection.call(broker.CreateTopic(queue, settings))
            self._open_connection.note_declared("", info.topic, is_temporary=bool(exclusive or auto_delete))
        return queue_declare_ok_t(info.topic, info.ready, info.consumers)

    def queue_purge(self, queue: str = "", nowait: bool = False, **_: Any) -> int:
        """How many messages were dropped; those in somebody's hands stay."""
        count: int = self._open_connection.call(broker.Purge(queue)).count
        return count

    def queue_delete(
        self, queue: str = "", if_unused: bool = False, if_empty: bool = False, nowait: bool = False, **_: Any
    ) -> int:
        """How many messages went with it. Deleting what is not there is fine, as in RabbitMQ."""
        try:
            count: int = self._open_connection.call(broker.DeleteTopic(queue, bool(if_unused), bool(if_empty))).count
        except NotFound:
            return 0
        return count

    # --- the channel itself ---

    def close(self) -> None:
        """Its consumers end, and what was not acknowledged goes back to its place."""
        connection = self.connection
        if connection is None:
            return
        subscriptions, tokens = list(self._consumers.values()), list(self._unacked.values())
        self.collect()
        connection.release_channel(self, subscriptions, tokens)

    def collect(self) -> None:
        """Forget the connection, without a word to the broker."""
        self.connection, self.is_open = None, False
        self._consumers.clear()
        self.no_ack_consumers.clear()
        self._unacked.clear()
        self.events.clear()

    def remove_consumer(self, consumer_tag: str) -> Subscription | None:
        """Removes a consumer of this tag. Returns its subscription, or None."""
        self.no_ack_consumers.discard(consumer_tag)
        return self._consumers.pop(consumer_tag, None)

    def after_reply_message_received(self, queue: str) -> None:
        """Nothing: reply queues are exclusive, and end with their owner."""

    @property
    def _open_connection(self) -> ChannelConnection:
        if self.connection is None:
            raise RecoverableConnectionError("the channel is closed")
        return self.connection


def _ignore(_: Message) -> None:
    """A consumer without a callback."""
