"""The blocking client: `disheap.sync.connect("disheap://host1,host2")`. No thread, no loop.

Owns the words that people use, as `client.asynchronous` does for asyncio; sockets and waiting are `BlockingClient`'s.
One client belongs to one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from disheap.client import faults
from disheap.client.blocking import BlockingClient
from disheap.client.broker_session import SessionLost
from disheap.client.consuming import DEFAULT_CREDIT
from disheap.client.delivered import Delivered
from disheap.client.dialing import Dial
from disheap.client.url import BrokerUrl, parse
from disheap.errors import ConsumerNotFound, LeaseLost, OutcomeUnknown, RequestError, RequestTimeout, SessionExpired
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap.version import __version__


def connect(
    url: str | BrokerUrl = "disheap://",
    *,
    session_timeout_ms: int | None = None,
    timeout_s: float | None = None,
    label: str | None = None,
    observer: bool = False,
    opaque: bool = False,
    dial: Dial | None = None,
) -> Client:
    """A client with a session; a context manager that ends it. See `disheap.connect` for the keywords and errors."""
    parsed = parse(url) if isinstance(url, str) else url
    given: dict[str, Any] = {"session_timeout_ms": session_timeout_ms, "timeout_s": timeout_s, "label": label}
    parsed = replace(parsed, **{key: value for key, value in given.items() if value is not None})
    client = Client(parsed, dial=dial, observer=observer, opaque=opaque, client=f"disheap {__version__}")
    try:
        client.connect()
    except BaseException:
        client.close(end_session=False)
        raise
    return client


class Client(BlockingClient):
    """Mirrors `disheap.Client`. While a consumer waits, nothing else of this client moves."""

    def __init__(self, url: str | BrokerUrl, **options: Any) -> None:
        super().__init__(url, **options)
        self._queues: dict[int, deque[broker.Push | SessionLost]] = {}

    # --- topics ---

    def topic(self, name: str) -> Topic:
        """Costs nothing and asks nobody."""
        return Topic(self, name)

    def create_topic(
        self,
        name: str,
        *,
        mode: str = "max",
        max_messages: int = 0,
        message_ttl_ms: int = 0,
        expires_ms: int = 0,
        auto_delete: bool = False,
        exclusive: bool = False,
    ) -> Topic:
        """Idempotent for the same settings; others raise `TopicMismatch`. See `broker.TopicSettings`."""
        settings = broker.TopicSettings(mode, max_messages, message_ttl_ms, expires_ms, auto_delete, exclusive)
        self.call(broker.CreateTopic(name, settings))
        return self.topic(name)

    def delete_topic(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """How many messages went with it."""
        return int(self.call(broker.DeleteTopic(name, if_unused, if_empty)).count)

    def topics(self, prefix: str = "") -> list[broker.TopicInfo]:
        """All of them, in name order."""
        found: list[broker.TopicInfo] = []
        while True:
            answer = self.query(broker.ListTopics(prefix, found[-1].topic if found else ""))
            found += answer.topics
            if not answer.topics or len(found) >= answer.total:
                return found

    # --- exchanges ---

    def create_exchange(self, name: str, *, kind: str = "direct", auto_delete: bool = False) -> None:
        self.call(broker.CreateExchange(name, kind, auto_delete))

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        self.call(broker.DeleteExchange(name, if_unused))

    def bind(self, exchange: str, topic: str, routing_key: str = "") -> None:
        self.call(broker.Bind(exchange, topic, routing_key))

    def unbind(self, exchange: str, topic: str, routing_key: str = "") -> None:
        self.call(broker.Unbind(exchange, topic, routing_key))

    def publish(
        self,
        exchange: str,
        routing_key: str,
        payload: bytes,
        *,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        mandatory: bool = False,
        timeout_s: float | None = None,
    ) -> int:
        """Into how many topics it went."""
        command = broker.Publish(exchange, routing_key, payload, priority, delay_ms, expires_ms, mandatory)
        return int(self.call(command, timeout_s=timeout_s).routed)

    # --- the cluster ---

    def stats(self) -> broker.Stats:
        stats: broker.Stats = self.query(broker.GetStats())
        return stats

    def status(self) -> dict[str, Any]:
        """What the node at the other end says of itself and its cluster."""
        return self.admin({"op": "status"})

    def state_hash(self) -> dict[str, Any]:
        """The state's hash at the node at the other end, with the index it stands for."""
        return self.admin({"op": "hash"})

    def transfer(self, node: str = "") -> dict[str, Any]:
        """Hand leadership to `node`, or to whichever node is best up to date; {"leader": name} when another leads. Our
        own connection may end with it: then the next leader is asked. Raises `OutcomeUnknown` when that is another than
        was asked for, `InvalidArgument` for a node that is none, `Overloaded` when the transfer was given up."""
        before = self.welcome.node if self.welcome is not None else ""
        try:
            answer = self.admin({"op": "transfer", "target": node})
        except OutcomeUnknown:
            answer = self.status()
        return faults.transferred(node, before, answer["leader"] or "")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- pushes, by consumer ---

    def next_push(self, consumer: int, timeout_s: float | None) -> broker.Push | None:
        """The next push for a consumer; None when nothing came in time. Raises `SessionExpired` where it is over."""
        deadline = None if timeout_s is None else self._clock() + timeout_s
        while not (mine := self._queues.setdefault(consumer, deque())):
            left_s = None if deadline is None else deadline - self._clock()
            if left_s is not None and left_s < 0:
                return None
            self._sort(self.poll(left_s))
        push = mine.popleft()
        if isinstance(push, SessionLost):
            raise SessionExpired("the session lapsed; what it held was given back")
        return push

    def begin(self, command: broker.Subscribe | broker.Pop) -> int:
        """The number of a consumer. What was said before the reply is not for it: an earlier session's end, say."""

        def begun(reply: broker.Reply | RequestError) -> None:
            if isinstance(reply, broker.Subscribed):
                pushes = list(self._pushes)
                self._pushes.clear()
                self._sort(pushes)
                self._queues[reply.consumer] = deque()

        return int(self.call(command, on_reply=begun).consumer)

    def forget(self, consumer: int) -> list[broker.Token]:
        """No more is wanted for a consumer: the leases that were queued for it."""
        self._sort(self.poll())
        queued = self._queues.pop(consumer, ())
        return [(push.id, push.epoch) for push in queued if isinstance(push, broker.Deliver) and push.epoch]

    def _sort(self, pushes: list[broker.Push | SessionLost]) -> None:
        for push in pushes:
            if isinstance(push, SessionLost):
                for waiting in self._queues.values():
                    waiting.clear()
                    waiting.append(push)
            else:
                self._queues.setdefault(push.consumer, deque()).append(push)


class Topic:
    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def enqueue(
        self,
        payload: bytes,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> int:
        """The message's id, once a majority has it on disk."""
        command = broker.Enqueue(self.name, payload, priority, delay_ms, expires_ms)
        return int(self._client.call(command, timeout_s=timeout_s).id)

    def enqueue_many(
        self, messages: Sequence[bytes | NewMessage], *, priority: int = 0, timeout_s: float | None = None
    ) -> range:
        """All or none, in one command of at most `broker.BATCH_MAX`; their ids."""
        batch = [m if isinstance(m, NewMessage) else NewMessage(m, priority) for m in messages]
        if not batch:
            return range(0)
        reply = self._client.call(broker.EnqueueMany(self.name, batch), timeout_s=timeout_s)
        return range(reply.first, reply.first + reply.count)

    def pop(self, count: int = 1, wait_ms: int = 0, lease_ms: int = 0, *, no_ack: bool = False) -> list[Delivery]:
        """Up to `count` messages: those that are there, then those that come within `wait_ms`."""
        client = self._client
        ticket = client.begin(broker.Pop(self.name, count, wait_ms, lease_ms, no_ack))
        got: list[Delivery] = []
        done = False
        try:
            while not done:
                push = client.next_push(ticket, wait_ms / 1000 + client.url.timeout_s)
                if push is None:
                    raise RequestTimeout("the pop did not end in time; what had come was given back")
                if isinstance(push, broker.Deliver):
                    got.append(Delivery(client, push))
                else:
                    done = True
        finally:
            tokens = client.forget(ticket)
            if not done:
                client.send(broker.Cancel(ticket, give_back=True))
                _give_back(client, tokens + [delivery.token for delivery in got if not delivery.settled])
        return got

    def consume(
        self,
        *,
        credit: int = DEFAULT_CREDIT,
        credit_bytes: int = 0,
        lease_ms: int = 0,
        no_ack: bool = False,
        exclusive: bool = False,
        idle_s: float | None = None,
    ) -> Consumer:
        """`for delivery in topic.consume()`. `credit` bounds the deliveries not yet settled; the iteration ends after
        `idle_s` without a message (None: never)."""
        command = broker.Subscribe(self.name, credit, credit_bytes, no_ack, lease_ms, exclusive)
        return Consumer(self._client, command, idle_s)

    def peek(self, count: int = 1, *, delayed: bool = False, leased: bool = False) -> list[broker.PeekedMessage]:
        """What would be delivered next; nothing changes."""
        messages: list[broker.PeekedMessage] = self._client.query(
            broker.Peek(self.name, count, delayed, leased)
        ).messages
        return messages

    def stats(self) -> broker.TopicInfo:
        info: broker.TopicInfo = self._client.query(broker.DescribeTopic(self.name))
        return info

    def purge(self) -> int:
        """How many ready and delayed messages went."""
        return int(self._client.call(broker.Purge(self.name)).count)


class Consumer:
    """An iterator over deliveries and a context manager that ends it; see `client.consuming.Consumer`."""

    def __init__(self, client: Client, command: broker.Subscribe, idle_s: float | None) -> None:
        self._client, self._command, self._idle_s = client, command, idle_s
        self._number: int | None = None
        self._over = False

    def __iter__(self) -> Consumer:
        return self

    def __next__(self) -> Delivery:
        if self._over:
            raise StopIteration
        if self._number is None:
            self._number = self._client.begin(self._command)
        try:
            push = self._client.next_push(self._number, self._idle_s)
        except SessionExpired:
            self._over = True
            raise
        if isinstance(push, broker.Deliver):
            return Delivery(self._client, push)
        self._over = push is not None
        if push is None:
            self.close()
        raise StopIteration

    def close(self) -> None:
        """End the consumer: what was not taken from it goes back. May be called twice."""
        if self._number is None or self._over:
            self._over = True
            return
        self._over = True
        try:
            self._client.call(broker.Cancel(self._number))
        except ConsumerNotFound:
            pass  # it is gone, as was wanted
        _give_back(self._client, self._client.forget(self._number))

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Delivery(Delivered):
    """One message under one lease. `with` acks it on success and gives it back on an exception."""

    __slots__ = ("_client",)

    def __init__(self, client: Client, push: broker.Deliver) -> None:
        super().__init__(push)
        self._client = client

    def ack(self) -> None:
        """Done with it. Raises `LeaseLost` when the lease was not ours any more."""
        self._settle(broker.Ack([self.token]))

    def ack_nowait(self) -> None:
        """Done with it, and no wish to hear of it: goes out with the next request, or when the consumer waits."""
        self.settled = True
        if self._push.epoch and self._client.holds(self.token):
            self._client.send(broker.Ack([self.token]))

    def nack(self, *, delay_ms: int = 0, discard: bool = False) -> None:
        """Give it back, to its old place or after `delay_ms`; with `discard` drop it. Raises `LeaseLost`."""
        self._settle(broker.Nack([self.token], delay_ms, discard))

    def extend(self, lease_ms: int = 0) -> None:
        """The lease ends `lease_ms` from now (0: with the session). Raises `LeaseLost`."""
        settled = self.settled
        self._settle(broker.Extend([self.token], lease_ms))
        self.settled = settled

    def _settle(self, command: broker.Ack | broker.Nack | broker.Extend) -> None:
        self.settled = True
        if not self._push.epoch:
            return
        if not self._client.holds(self.token):
            raise LeaseLost(f"the lease on message {self.id} was lost, or given back before")
        self._check(self._client.call(command))

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.settled:
            return
        if error is None:
            self.ack()
        else:
            self.settled = True
            _give_back(self._client, [self.token])


def _give_back(client: Client, tokens: list[broker.Token]) -> None:
    mine = [token for token in tokens if client.holds(token)]
    for start in range(0, len(mine), broker.BATCH_MAX):
        client.send(broker.Nack(mine[start : start + broker.BATCH_MAX]))
    client.flush()
