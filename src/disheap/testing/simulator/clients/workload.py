"""Clients of a heap, of all kinds: every command there is, through the real asyncio client.

Each client does one thing after another, drawn at random, whatever happens to the cluster. Payloads are unique, so that
a message can be told from its repetition. What a client was promised is written down: an enqueue that was confirmed, an
ack that was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from disheap.client.api.asynchronous import Client
from disheap.client.api.consuming import Consumer, Delivery
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import (
    CommandRefused,
    InvalidArgument,
    LeaseLost,
    RequestError,
)
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage, TopicSettings
from disheap.testing.simulator.clients.client import Operation
from disheap.testing.simulator.clients.profiles import BROUGHT, MAX_BROUGHT, PROFILES, TOLD_S
from disheap.testing.simulator.clients.promises import Prepared, Promises
from disheap.testing.simulator.clients.shapes import (
    ARGUMENTS,
    DEAD,
    EXCHANGES,
    GUARDED,
    KEYS,
    LONG_PATTERNS,
    PATTERNS,
    RING,
    TOPIC_WEIGHTS,
    TOPICS,
    extras_of,
)
from disheap.testing.simulator.clients.topic_operations import TopicOperations
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.world.rng import Rng


class Worker(TopicOperations):
    """One client process."""

    def __init__(self, cluster: Cluster, promises: Promises, name: str, rng: Rng, pace_s: float, group: int) -> None:
        super().__init__(cluster, promises, name, rng, pace_s, group)
        self.promises = promises
        profile = rng.pick(PROFILES)
        self.operations = [(do, weight * (5 if do.__name__ in profile else 1)) for do, weight in self._all_operations()]
        self._lanes = rng.pick((1, 1, 1, 3, 6))
        self._consumers: list[Consumer] = []
        self._readers: list[asyncio.Task[None]] = []
        self._reading_for: dict[asyncio.Task[None], int] = {}  # the session that it subscribed in
        self._lapsed_at: dict[int, float] = {}
        self._deliveries: list[Delivery] = []
        self._old_tokens: list[broker.Token] = []
        self._numbers: list[int] = []

    # --- its life ---

    def _forget(self) -> None:
        self._consumers, self._readers, self._deliveries, self._numbers = [], [], [], []
        self._reading_for = {}
        self.promises.holding[self.name] = self._deliveries

    def _connected_by(self, driver: Driver) -> None:
        self._client = Client(driver)

    async def _session(self) -> None:
        """One client's whole life, of some operations."""
        for topic in ("jobs", "least"):
            await self._try("create_topic", partial(self._client.create_topic, topic, mode=TOPICS[topic].mode))
        for topic in (GUARDED, DEAD):
            create = broker.CreateTopic(topic, TOPICS[topic])
            await self._try("create_topic", partial(self._client.driver.request, create))
        count = self.rng.between(20, 120)
        await asyncio.gather(*(self._lane(count) for _ in range(self._lanes)))

    def _may_do(self, operation: Operation) -> bool:
        return operation.__name__ not in BROUGHT or self.promises.brought < MAX_BROUGHT

    def _look(self) -> None:
        """Whoever reads for a session that is over hears of that."""
        session, now = self._client.driver._session.id, self.cluster.loop.now
        for reader, known in list(self._reading_for.items()):
            if reader.done():
                del self._reading_for[reader]
            elif session not in (0, known) and now - self._lapsed_at.setdefault(known, now) > TOLD_S:
                self.cluster.fail(f"client {self.name}: session {known} is over, and its consumers are not told")

    def _all_operations(self) -> list[tuple[Callable[[], Awaitable[Any]], int]]:
        return [
            (self._enqueue, 20), (self._enqueue_many, 4), (self._pipeline, 4), (self._publish, 6), (self._fan_out, 2),
            (self._publish_by_words, 2), (self._publish_by_headers, 2), (self._cast, 2), (self._listen, 2),
            (self._call_out, 4), (self._batch, 6), (self._prepare, 4), (self._decide, 6), (self._pop, 8),
            (self._subscribe, 4), (self._settle, 20), (self._settle_stale, 2), (self._extend, 3),
            (self._set_credit, 2), (self._overtake, 3), (self._recover, 1), (self._cancel, 3), (self._create_topic, 5),
            (self._delete_topic, 1), (self._update_topic, 2), (self._pause_topic, 2),
            (self._purge, 1), (self._exclusive_topic, 1), (self._exchange, 4),
            (self._bind, 3), (self._unbind, 1), (self._peek, 5), (self._ask, 6), (self._set_value, 6),
            (self._set_barrier, 3), (self._watch, 3), (self._delete_values, 1), (self._status, 1), (self._transfer, 1),
        ]  # fmt: skip

    # --- what it does ---

    def _payload(self) -> bytes:
        self._made += 1
        self.promises.brought += 1
        size = self.rng.weighted(((0, 12), (200, 4), (3000, 1)))
        return f"{self.name}.{self._lives}.{self._made}.".encode() + b"x" * size

    def _new_message(self) -> NewMessage:
        return _message(self._payload())

    def _topic(self) -> str:
        return self.rng.weighted(TOPIC_WEIGHTS)

    def _message(self) -> NewMessage:
        rng = self.rng
        priority = rng.pick((0, 1, 5, -3, broker.PRIORITY_MAX, broker.PRIORITY_MIN))
        delay_ms = rng.weighted(((0, 8), (rng.between(1, 3000), 1)))
        expires_ms = rng.weighted(((0, 10), (rng.between(1, 4000), 1)))
        return _message(self._payload(), priority, delay_ms, expires_ms)

    async def _enqueue(self) -> None:
        one, topic = self._message(), self._topic()
        command = broker.Enqueue(topic, one)
        try:
            reply = await self._client.driver.request(command)
        except CommandRefused as refusal:
            self.promises.refused[one.payload] = refusal.code
            raise
        self.promises.enqueued[reply.id] = one

    async def _enqueue_many(self) -> None:
        batch = [self._message() for _ in range(self.rng.between(1, 6))]
        topic = self._client.topic(self._topic())
        try:
            numbers = await topic.enqueue_many(batch)
        except CommandRefused as refusal:
            self.promises.refused.update({one.payload: refusal.code for one in batch})
            raise
        self.promises.enqueued.update(zip(numbers, batch, strict=True))

    async def _pipeline(self) -> None:
        topic = self._client.topic("jobs")
        messages = [_message(self._payload()) for _ in range(self.rng.between(2, 12))]
        results = await asyncio.gather(
            *(topic.enqueue(one.payload, headers=one.headers, key=one.key) for one in messages), return_exceptions=True
        )
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, int):
                self.promises.enqueued[result] = message
            elif not isinstance(result, RequestError):
                raise result

    async def _publish(self) -> None:
        rng = self.rng
        exchange = rng.pick(("", *EXCHANGES))
        key = rng.pick(("jobs", "least", "small", "dropping")) if not exchange else rng.pick(KEYS)
        with contextlib.suppress(InvalidArgument) if exchange in RING else contextlib.nullcontext():
            await self._publish_one(
                exchange, key, priority=rng.between(-2, 2), delay_ms=rng.pick((0, 0, 0, 400)),
                mandatory=rng.chance(0.3),
            )  # fmt: skip

    async def _publish_one(self, exchange: str, routing_key: str, **options: Any) -> None:
        payload = self._payload()
        headers, key = extras_of(payload)
        await self._client.publish(exchange, routing_key, payload, headers=headers, key=key, **options)

    async def _fan_out(self) -> None:
        """To topics of which some soon refuse and some drop."""
        await self._make_exchange("all")
        for topic in ("tiny", "dropping", "jobs"):
            await self._client.driver.request(broker.CreateTopic(topic, TOPICS[topic]))
            await self._client.bind("all", topic)
        delay_ms = self.rng.pick((0, 0, 2000))
        for _ in range(self.rng.between(1, 5)):
            priority = self.rng.between(-2, 2)
            await self._publish_one("all", "", priority=priority, delay_ms=delay_ms)

    async def _publish_by_words(self) -> None:
        """By long keys and patterns; what leads nowhere goes to the alternates."""
        for exchange in ("words", "spare", "all"):
            await self._make_exchange(exchange)
        await self._client.bind("all", "least")
        await self._client.bind("words", "jobs", self.rng.pick(LONG_PATTERNS))
        for _ in range(self.rng.between(1, 3)):
            await self._publish_one("words", self.rng.pick(KEYS))

    async def _publish_by_headers(self) -> None:
        """To whoever asked for messages with such headers. What matches nothing goes to the alternates."""
        for exchange in ("by-headers", "spare"):
            await self._make_exchange(exchange)
        await self._client.bind("by-headers", "jobs", *self._place("by-headers"))
        await self._client.bind("by-headers", "least", *self._place("by-headers"))
        for _ in range(self.rng.between(1, 4)):
            await self._publish_one("by-headers", self.rng.pick(KEYS))

    async def _cast(self) -> None:
        self._client.driver.send_transient(broker.Enqueue(self._topic(), _message(self._payload())))

    async def _listen(self) -> None:
        """As workers do for events: a queue of its own, that all messages of an exchange reach, and no acks."""
        if len(self._consumers) >= 3:
            return
        await self._make_exchange("events")
        name = f"ears-{self.name}"
        await self._client.create_topic(name, exclusive=True)
        await self._client.bind("events", name)
        await self._start(self._client.topic(name).consume(no_ack=True))

    async def _call_out(self) -> None:
        for _ in range(self.rng.between(1, 4)):
            message = _message(self._payload(), self.rng.between(-2, 2), self.rng.pick((0, 0, 0, 300)))
            exchange, key = self.rng.pick((("events", ""), ("events", ""), ("", self._topic())))
            self._client.driver.send_transient(broker.Publish(exchange, key, message))

    async def _batch(self) -> None:
        """Enqueues, publishes and settles over several topics. Some batches have a part that is refused."""
        rng = self.rng
        enqueued = [self._message() for _ in range(rng.between(1, 3))]
        published = [_message(self._payload()) for _ in range(rng.pick((0, 0, 1)))]
        taken = [self._deliveries.pop() for _ in range(min(rng.between(0, 2), len(self._deliveries)))]
        taken = [one for one in taken if one._driver is self._client.driver]  # not of an earlier life
        acked = taken[: rng.between(0, 2)]
        try:
            async with self._client.batch() as batch:
                for one in enqueued:
                    place, fields = self._topic(), (one.payload, one.priority, one.delay_ms, one.expires_ms)
                    batch.enqueue(place, *fields, headers=one.encoded_headers, key=one.key)
                for delivery in taken:
                    if delivery in acked:
                        batch.ack(delivery)
                    else:
                        batch.nack(delivery, delay_ms=rng.pick((0, 300)), discard=rng.chance(0.2))
                for one in published:
                    batch.publish(rng.pick(("", "all")), "jobs", one.payload, headers=one.headers, key=one.key)
                if rng.chance(0.15):
                    batch.enqueue("nowhere", b"")
        except CommandRefused as refusal:
            self.promises.refused.update({one.payload: refusal.code for one in (*enqueued, *published)})
            if not isinstance(refusal, LeaseLost):
                self._deliveries += taken
            raise
        self.promises.enqueued.update(zip(batch.results, enqueued, strict=False))
        self._old_tokens = [*self._old_tokens[-10:], *(delivery.token for delivery in taken)]
        self.promises.settled.update({delivery.id: delivery.attempts for delivery in acked})

    async def _prepare(self) -> None:
        """Under a name of its own. Whoever decides it may be another client."""
        rng = self.rng
        messages = [self._message() for _ in range(rng.between(0, 2))]
        taken = [self._deliveries.pop() for _ in range(min(rng.between(0, 2), len(self._deliveries)))]
        taken = [one for one in taken if one._driver is self._client.driver]
        items: list[broker.Enqueue | broker.Publish | broker.Ack] = [
            broker.Enqueue(self._topic(), one) for one in messages
        ]
        items += [broker.Ack([delivery.token]) for delivery in taken]
        if not items:
            return
        name, epoch = f"{self.name}.{self._lives}.{self._made}.{len(self.promises.transactions)}", rng.between(1, 2)
        acked = {delivery.id: delivery.attempts for delivery in taken}
        self.promises.transactions[name] = Prepared(epoch, messages, acked)
        try:
            await self._client.driver.request(broker.Prepare(name, epoch, rng.pick((0, 400, 3000)), items))
        except CommandRefused as refusal:
            self.promises.refused.update({one.payload: refusal.code for one in messages})
            del self.promises.transactions[name]
            raise

    async def _decide(self) -> None:
        """Commits or aborts any transaction, often one that is decided. Some decisions have another epoch."""
        known = self.promises.transactions
        if not known:
            return
        name = self.rng.pick(list(known)[-6:])
        prepared, epoch = known[name], known[name].epoch + self.rng.weighted(((0, 9), (1, 1)))
        if self.rng.chance(0.4):
            await self._client.driver.request(broker.Abort(name, epoch))
            return
        reply = await self._client.driver.request(broker.Commit(name, epoch))
        if reply.count == len(prepared.messages):  # otherwise a topic was deleted meanwhile
            numbers = range(reply.first, reply.first + reply.count)
            self.promises.enqueued.update(zip(numbers, prepared.messages, strict=True))
        self.promises.settled.update(prepared.acked)

    async def _pop(self) -> None:
        rng = self.rng
        topic = self._client.topic(self._topic())
        no_ack = rng.chance(0.15)
        deliveries = await topic.pop(
            rng.between(1, 4), rng.pick((0, 300, 2000)), rng.pick((0, 800, 4000)), no_ack=no_ack
        )
        self._took(deliveries)

    def _took(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if (broker.without_death(delivery.headers), delivery.key) != extras_of(delivery.payload):
                self.cluster.fail(f"message {delivery.id} came with other headers or another key than it was sent with")
            settled = self.promises.settled.get(delivery.id)
            if settled is not None and delivery.attempts > settled:
                self.cluster.fail(f"message {delivery.id} is delivered again after its ack under epoch {settled}")
            if delivery.token[1]:
                self._check_handed_once(delivery.token)
            if not delivery.settled:
                self._deliveries.append(delivery)

    def _check_handed_once(self, token: broker.Token) -> None:
        """A lease is one delivery to one application, however often a connection broke meanwhile."""
        before = self.promises.handed.setdefault(token, "")
        if before:
            self.cluster.fail(
                f"client {self.name}: message {token[0]} under epoch {token[1]} was given to {before} before"
            )
        self.promises.handed[token] = self.name

    async def _subscribe(self) -> None:
        if len(self._consumers) >= 3:
            return
        rng = self.rng
        no_ack = rng.chance(0.15)
        consumer = self._client.topic(self._topic()).consume(
            credit=rng.between(1, 6), credit_bytes=rng.pick((0, 0, 500)), lease_ms=rng.pick((0, 0, 1500, 6000)),
            no_ack=no_ack, exclusive=rng.chance(0.1), credit_group=0 if no_ack else rng.pick((0, 1)),
        )  # fmt: skip
        await self._start(consumer)

    async def _start(self, consumer: Consumer) -> None:
        await consumer.__aenter__()
        self._consumers.append(consumer)
        self._numbers.append(consumer._number or 0)
        self._readers.append(self.process.start(self._read(consumer)))
        self._reading_for[self._readers[-1]] = self._client.driver._session.id

    async def _read(self, consumer: Consumer) -> None:
        try:
            async for delivery in consumer:
                self._took([delivery])
        except RequestError as error:
            self._say("consumer", error)

    async def _settle(self) -> None:
        if not self._deliveries:
            return
        rng = self.rng
        for _ in range(rng.between(1, 4)):
            if not self._deliveries:
                return
            delivery = self._deliveries.pop(rng.below(len(self._deliveries)))
            self._old_tokens = [*self._old_tokens[-10:], delivery.token]
            how = rng.weighted((("ack", 10), ("nack", 3), ("release", 1), ("discard", 1), ("forget", 1)))
            if how == "ack":
                await delivery.ack()
                self.promises.settled[delivery.id] = delivery.attempts
            elif how != "forget":
                delay_ms, error = rng.pick(((0, ""), (0, "failed"), (500, ""))) if how == "nack" else (0, "")
                releases = how == "release"
                await delivery.nack(delay_ms=delay_ms, discard=how == "discard", release=releases, error=error)

    async def _settle_stale(self) -> None:
        """Tokens of leases that are over, or never were ours. None is guessed that this client may be given later. An
        answer that calls it stale would make it let go of what it holds by then."""
        strange = [(self.rng.between(1, 50), self.rng.between(1000, 1003)) for _ in range(2)]
        others = [
            held.token for name, those in self.promises.holding.items() if name != self.name for held in those[-3:]
        ]
        tokens = [*self._old_tokens[-3:], *strange, *others]
        if self.rng.chance(0.5):  # one alone goes another way through the machine
            tokens = [self.rng.pick(others or tokens)]
        command = broker.Ack(tokens) if self.rng.chance(0.5) else broker.Nack(tokens)
        await self._client.driver.request(command)

    async def _extend(self) -> None:
        if self._deliveries:
            await self.rng.pick(self._deliveries).extend(self.rng.pick((0, 1000, 5000)))

    async def _set_credit(self) -> None:
        if self._consumers:
            await self.rng.pick(self._consumers).set_credit(self.rng.between(1, 8))

    async def _overtake(self) -> None:
        """The consumers of group 1 ask for something more urgent than they have."""
        if self._consumers:
            await self._client.driver.request(broker.Overtake(1, self.rng.pick((-3, 0, 0, 1, broker.PRIORITY_MIN))))

    async def _recover(self) -> None:
        if self._numbers:
            await self._client.driver.request(broker.Recover([self.rng.pick(self._numbers)]))

    async def _cancel(self) -> None:
        if self._consumers:
            consumer = self._consumers.pop(self.rng.below(len(self._consumers)))
            if self.rng.chance(0.3):
                await self._client.driver.request(broker.Cancel(consumer._number or 0, True, self.rng.chance(0.5)))
            await consumer.close()

    async def _create_topic(self) -> None:
        name = self.rng.pick(list(TOPICS))
        settings = (
            TOPICS[name]
            if name in (GUARDED, DEAD) or self.rng.chance(0.9)
            else TopicSettings(mode="min", max_messages=3)
        )
        await self._client.driver.request(broker.CreateTopic(name, settings))

    async def _exclusive_topic(self) -> None:
        name = f"own-{self.rng.between(1, 2)}"
        await self._client.create_topic(name, exclusive=True)
        await self._client.driver.request(broker.Enqueue(name, _message(self._payload())))
        self._took(await self._client.topic(name).pop(1, 0))

    async def _exchange(self) -> None:
        name = self.rng.pick(list(EXCHANGES))
        if self.rng.chance(0.2):
            await self._client.delete_exchange(name, if_unused=self.rng.chance(0.5))
        else:
            await self._make_exchange(name)

    async def _make_exchange(self, name: str) -> None:
        shape = EXCHANGES[name]
        await self._client.create_exchange(
            name, kind=shape.kind, auto_delete=shape.auto_delete, alternate=shape.alternate
        )

    async def _bind(self) -> None:
        exchange = self.rng.pick(list(EXCHANGES))
        await self._client.bind(exchange, self._topic(), *self._place(exchange))

    def _place(self, exchange: str) -> tuple[str, broker.Arguments]:
        """The routing key and the arguments of a binding."""
        if EXCHANGES[exchange].kind != "headers":
            return self.rng.pick(PATTERNS), {}
        return self.rng.pick(("", "a")), self.rng.pick(ARGUMENTS)

    async def _unbind(self) -> None:
        exchange = self.rng.pick(list(EXCHANGES))
        await self._client.unbind(exchange, self._topic(), *self._place(exchange))

    async def _peek(self) -> None:
        topic, count = self._client.topic(self._topic()), self.rng.between(1, 5)
        if count == 5:
            _ = [one async for one in topic.browse()]
        elif count == 4:
            page = await self._client.driver.query(broker.Browse(topic.name, limit=count))
            for one in page.messages[-1:]:
                await topic.explain(one.id)
        else:
            await topic.peek(count)

    async def _ask(self) -> None:
        kind = self.rng.below(4)
        if kind == 0:
            await self._client.stats()
        elif kind == 1:
            await self._client.topics()
        elif kind == 2:
            await self._client.exchanges()
        else:
            await self._client.topic(self._topic()).stats()

    async def _status(self) -> None:
        await self._client.status()

    async def _transfer(self) -> None:
        if self.rng.chance(0.5):
            with contextlib.suppress(InvalidArgument):  # one without a vote cannot lead
                await self._client.transfer(self.rng.pick(self.cluster.hosts).name)
        else:
            await self._client.driver.admin({"op": "snapshot"})

    async def _end(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


def _message(payload: bytes, priority: int = 0, delay_ms: int = 0, expires_ms: int = 0) -> NewMessage:
    headers, key = extras_of(payload)
    return NewMessage(payload, priority, delay_ms, expires_ms, broker.encode_headers(headers), key)
