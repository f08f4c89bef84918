"""The asyncio client: `async with disheap.connect("disheap://host1,host2") as client`.

Owns the words that people use: topics, messages, exchanges. Everything else is the driver's, and the driver is at hand
as `client.driver` for whoever wants to pipeline by himself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

from disheap.client.api.consuming import DEFAULT_CREDIT, Consumer, Delivery, Popping
from disheap.client.api.gathered import Gathered
from disheap.client.api.outgoing import new_batch, new_message
from disheap.client.core import faults
from disheap.client.core.two_phase import Call, TwoPhase, outcome_of
from disheap.client.core.url import BrokerUrl, resolve
from disheap.client.io.asyncio_driver import Driver
from disheap.client.io.dialing import LAST_NODES, open_transport
from disheap.errors import DisheapError, OutcomeUnknown
from disheap.interfaces import Transport
from disheap.protocol import broker
from disheap.protocol.broker import Headers, NewMessage


def connect(
    url: str | BrokerUrl = "disheap://",
    *,
    session_timeout_ms: int | None = None,
    timeout_s: float | None = None,
    label: str | None = None,
    observer: bool = False,
    opaque: bool = False,
    transport: Callable[[], Transport] | None = None,
) -> Connecting:
    """A client, by `await connect(url)` (then `close` it) or `async with connect(url) as client`.

    `timeout_s` is every request's where it says none, and the first connection's. The keywords override the URL's
    parameters. `observer` asks whichever node answers and opens no session: for `status` alone.
    `opaque`: the machine is one's own and no broker; use `call`, `query` and `driver.on_push`. Raises `UrlError` here,
    `ConnectionLost` and `WrongCluster` when awaited.
    """
    resolved = resolve(url, session_timeout_ms=session_timeout_ms, timeout_s=timeout_s, label=label)
    return Connecting(resolved, transport, observer, opaque)


class Connecting:
    """What `connect` returns: to be awaited, or entered."""

    def __init__(self, url: BrokerUrl, transport: Callable[[], Transport] | None, observer: bool, opaque: bool) -> None:
        self._url, self._transport, self._observer, self._opaque = url, transport, observer, opaque
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._open()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> Client:
        transport = self._transport() if self._transport else open_transport(self._url)
        driver = Driver(
            self._url,
            transport,
            observer=self._observer,
            opaque=self._opaque,
            last_nodes=LAST_NODES,
        )
        try:
            await driver.open()
        except BaseException:
            await driver.close(end_session=False)
            raise
        return Client(driver)


class Client:
    """A session with a cluster. It outlives connections and leaders; requests wait meanwhile."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    # --- topics ---

    def topic(self, name: str) -> Topic:
        """Costs nothing and asks nobody."""
        return Topic(self.driver, name)

    async def create_topic(
        self,
        name: str,
        *,
        mode: str = "max",
        max_messages: int = 0,
        message_ttl_ms: int = 0,
        expires_ms: int = 0,
        auto_delete: bool = False,
        exclusive: bool = False,
        overflow: str = "reject",
        priority_max: int = 0,
        delivery_limit: int = 0,
        dead_letter_topic: str = "",
        dead_letter_exchange: str = "",
        dead_letter_key: str = "",
        retry_delay_ms: int = 0,
        retry_delay_max_ms: int = 0,
    ) -> Topic:
        """Idempotent for the same settings; others raise `TopicMismatch`. See `broker.TopicSettings`."""
        lifetimes = (message_ttl_ms, expires_ms, auto_delete, exclusive)
        place = (dead_letter_topic, dead_letter_exchange, dead_letter_key)
        settings = broker.TopicSettings(
            mode, max_messages, *lifetimes, overflow, priority_max, delivery_limit, *place, retry_delay_ms,
            retry_delay_max_ms,
        )  # fmt: skip
        await self.driver.request(broker.CreateTopic(name, settings))
        return self.topic(name)

    async def update_topic(self, name: str, *, revision: int = 0, **changes: bool | int | str) -> broker.TopicInfo:
        """Changes these settings of a topic, by their names in `broker.TopicSettings`; the others stay. With a
        `revision` it raises `TopicMismatch` if the topic has another one by now. Raises `InvalidArgument` for settings
        that contradict each other, and `TopicNotFound`. Then nothing is changed."""
        reply: broker.TopicInfo = await self.driver.request(broker.UpdateTopic(name, changes, revision))
        return reply

    async def set_paused(
        self, name: str, *, deliveries: bool | None = None, enqueues: bool | None = None
    ) -> broker.TopicInfo:
        """Pauses a topic, or lets it go on. None leaves either as it is. While enqueues are paused, new messages raise
        `TopicPaused`. While deliveries are paused, consumers get nothing new. Raises `TopicNotFound`."""
        reply: broker.TopicInfo = await self.driver.request(broker.PauseTopic(name, deliveries, enqueues))
        return reply

    async def delete_topic(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """How many messages went with it. Raises `TopicNotFound`, and `TopicInUse` for consumers or messages that it
        must not have."""
        reply = await self.driver.request(broker.DeleteTopic(name, if_unused, if_empty))
        return int(reply.count)

    async def topics(self, prefix: str = "") -> list[broker.TopicInfo]:
        """All of them, in name order."""
        found: list[broker.TopicInfo] = []
        while True:
            answer = await self.driver.query(broker.ListTopics(prefix, found[-1].topic if found else ""))
            found += answer.topics
            if not answer.topics or len(found) >= answer.total:
                return found

    # --- exchanges ---

    async def create_exchange(
        self, name: str, *, kind: str = "direct", auto_delete: bool = False, alternate: str = ""
    ) -> None:
        """`kind` is direct, topic, fanout or headers. Idempotent; another kind raises `ExchangeMismatch`. With
        `auto_delete` it goes with its last binding. What leads nowhere goes to the exchange `alternate`, by the same
        key."""
        await self.driver.request(broker.CreateExchange(name, kind, auto_delete, alternate))

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Its bindings go with it; one that is not there is fine. With `if_unused`, bindings raise `TopicInUse`."""
        await self.driver.request(broker.DeleteExchange(name, if_unused))

    async def bind(
        self, exchange: str, topic: str, routing_key: str = "", arguments: broker.Arguments | None = None
    ) -> None:
        """What is published to the exchange by `routing_key` goes into the topic. Idempotent. For a topic exchange the
        key is a pattern: `*` is one word, `#` any number. For a headers exchange `arguments` is a flat map of headers
        and `x-match`. Raises `ExchangeNotFound`, `TopicNotFound` and `InvalidArgument`."""
        await self.driver.request(broker.Bind(exchange, topic, routing_key, broker.encode_arguments(arguments)))

    async def unbind(
        self, exchange: str, topic: str, routing_key: str = "", arguments: broker.Arguments | None = None
    ) -> None:
        """No longer; key and arguments are those of the bind. Idempotent. Raises `ExchangeNotFound`, `TopicNotFound`
        and `InvalidArgument`."""
        await self.driver.request(broker.Unbind(exchange, topic, routing_key, broker.encode_arguments(arguments)))

    async def exchanges(self, name: str = "") -> broker.ExchangeInfos:
        """All exchanges, bindings and alternates, or those of one exchange. Asked for in pages of 1,000: what changes
        meanwhile may be missing or there twice. Raises `ExchangeNotFound`."""
        found = broker.ExchangeInfos([], [])
        while True:
            skip = len(found.exchanges) + len(found.bindings)
            page = await self.driver.query(broker.ListExchanges(name, skip))
            found = found.joined(page)
            rows = len(page.exchanges) + len(page.bindings)
            if not rows or skip + rows >= page.total:
                return found

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        payload: bytes,
        *,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        mandatory: bool = False,
        headers: Headers | None = None,
        key: str = "",
        timeout_s: float | None = None,
    ) -> int:
        """Into how many topics it went; with `mandatory`, none raises `TopicNotFound`. Otherwise as `Topic.enqueue`.
        `TopicFull` also says that some topics refused it and others have it."""
        command = broker.Publish(
            exchange, routing_key, new_message(payload, priority, delay_ms, expires_ms, headers, key), mandatory
        )
        reply = await self.driver.request(command, timeout_s=timeout_s)
        return broker.check_routed(reply)

    def batch(self, *, timeout_s: float | None = None) -> Batch:
        """Enqueues, publishes and acks of several topics, all or nothing, in one command at the end of the `with`
        block. An exception in the block discards them. At most `broker.BATCH_PARTS_MAX` messages and acks; a publish to
        several topics counts for each. The error of a refused batch names the part that is at fault, and nothing was
        done. It is that part's error, such as `TopicFull`, `TopicNotFound` or `LeaseLost`. Raises `BatchTooLarge` for
        too many parts, and `PayloadTooLarge` if all payloads together are larger than one command may be.

        With `batch.on(client)`, a client of another group takes part. Then it is a transaction by two-phase commit. Its
        error names the group, and the batch is aborted in all groups. `TransactionOver`: it took longer than 30 s, or a
        group did not answer. `OutcomeUnknown`: the connection was lost at the end, and `transaction_outcome` tells how
        it ended. A batch whose end is cancelled or interrupted is aborted, unless its commit was under way. Once it
        is committed, it has `results`. `timeout_s` bounds each step."""
        return Batch(self.driver, timeout_s)

    async def transaction_outcome(self, name: str) -> str:
        """How a transaction ended: "committed", "aborted", or "open" while it waits. Ask a client of the lowest group
        that takes part. An open batch ends within 30 s. Raises `TransactionNotFound` if it never began here, or if
        10,000 others have ended since."""
        return outcome_of(name, await self.driver.query(broker.ListTransactions(name)))

    # --- the cluster ---

    async def stats(self) -> broker.Stats:
        """Counts over the whole cluster, of topics, consumers and messages by state; `message_bytes`; `time_ms`, the
        cluster's time."""
        stats: broker.Stats = await self.driver.query(broker.GetStats())
        return stats

    async def status(self) -> dict[str, Any]:
        """What the node at the other end says of itself and its cluster."""
        return await self.driver.admin({"op": "status"})

    async def state_hash(self) -> dict[str, Any]:
        """The state's hash at the node at the other end, with the index it stands for."""
        return await self.driver.admin({"op": "hash"})

    async def transfer(self, node: str = "") -> dict[str, Any]:
        """Hand leadership to `node`, or to whichever node is best up to date; {"leader": name} when another leads. Our
        own connection may end with it: then the next leader is asked. Raises `OutcomeUnknown` when that is another than
        was asked for, `InvalidArgument` for a node that is none, `Overloaded` when the transfer was given up."""
        before = self.driver.welcome.node if self.driver.welcome is not None else ""
        try:
            answer = await self.driver.admin({"op": "transfer", "target": node})
        except OutcomeUnknown:
            answer = await self.status()
        return faults.transferred(node, before, answer["leader"] or "")

    async def call(self, body: bytes, *, flags: int = 0, timeout_s: float | None = None) -> bytes:
        """One opaque command, for a state machine of one's own."""
        return await self.driver.call_opaque(body, flags=flags, timeout_s=timeout_s)

    async def query(self, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """One opaque query, for a state machine of one's own: a linearizable read that is not logged. Returns what the
        machine's `query` returned. Raises the `RequestError` of its refusal."""
        return await self.driver.query_opaque(request, timeout_s=timeout_s)

    def send(self, command: broker.Command, *, timeout_s: float | None = None) -> asyncio.Future[Any]:
        """Pipeline one command: a future of its `broker.Reply`. Raises `WindowExceeded`; `await room()` before."""
        return self.driver.send(command, timeout_s=timeout_s)

    async def room(self) -> None:
        """Wait until a command fits the session's window. Raises `RequestTimeout`."""
        await self.driver.room()

    async def close(self) -> None:
        """End the session: what it holds goes back at once. May be called twice."""
        await self.driver.close()


class Batch(Gathered[Driver]):
    """`async with client.batch() as batch`."""

    async def __aenter__(self) -> Batch:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        work = self._end(error)
        if isinstance(work, TwoPhase):
            await self._commit(work)
        elif work is not None:
            driver, command = work
            try:
                self._finish(await driver.request(command, timeout_s=self._timeout_s))
            except BaseException as failure:
                self._fail(failure)
                raise

    async def _commit(self, transaction: TwoPhase[Driver]) -> None:
        steps, answers = transaction.steps(), None
        try:
            while True:
                calls = next(steps) if answers is None else steps.send(answers)
                answers = await self._make(transaction, calls)
        except StopIteration as done:
            self._finish_transaction(done.value)
        except BaseException:
            self._fail_transaction(transaction)
            raise
        finally:
            del answers  # the traceback of an error holds this frame

    async def _make(self, transaction: TwoPhase[Driver], calls: list[Call[Driver]]) -> list[Any]:
        """Returns the reply to each call of a step, or its error. If it is cancelled, the transaction is aborted."""
        try:
            if transaction.pause_s:
                await asyncio.sleep(transaction.pause_s)
            return await asyncio.gather(*(self._call(*call) for call in calls), return_exceptions=True)
        except asyncio.CancelledError:
            for driver, command in transaction.left_over():
                with suppress(DisheapError):  # then its time ends it
                    driver.send(cast(broker.Command, command)).add_done_callback(_ignore)
            raise

    async def _call(self, driver: Driver, asked: broker.Command | broker.Query) -> Any:
        if isinstance(asked, broker.ListTransactions):
            return await driver.query(asked, self._timeout_s)
        return await driver.request(cast(broker.Command, asked), timeout_s=self._timeout_s)


def _ignore(future: asyncio.Future[Any]) -> None:
    """An error that nobody waits for is no news for asyncio's handler."""
    if not future.cancelled():
        future.exception()


class Topic:
    """One topic. Methods that send may be pipelined: `await asyncio.gather(*(topic.enqueue(p) for p in payloads))`."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        self.name = name

    def enqueue(
        self,
        payload: bytes,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        *,
        headers: Headers | None = None,
        key: str = "",
        timeout_s: float | None = None,
    ) -> Awaitable[int]:
        """The message's id, once a majority has it on disk. `priority` is a signed 64-bit number. Not delivered before
        `delay_ms`, and dropped when not delivered within `expires_ms` (0: never). `headers` map text to text, integers,
        floats, booleans or bytes, in at most 16 KiB; `key` has at most 255 bytes. Bad ones raise `InvalidHeaders` and
        `InvalidKey` at once. Raises `TopicNotFound`, `TopicFull`, `DiskFull`, `PriorityOutOfRange` and
        `PayloadTooLarge`."""
        command = broker.Enqueue(self.name, new_message(payload, priority, delay_ms, expires_ms, headers, key))
        if self._driver.has_room:
            return self._driver.send(command, _id, timeout_s=timeout_s)
        return self._driver.request(command, _id, timeout_s)

    def enqueue_nowait(
        self,
        payload: bytes,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        *,
        headers: Headers | None = None,
        key: str = "",
    ) -> asyncio.Future[int]:
        """As `enqueue`, but returns a future at once. Raises `WindowExceeded` when the window is full."""
        return self._driver.send(
            broker.Enqueue(self.name, new_message(payload, priority, delay_ms, expires_ms, headers, key)), _id
        )

    async def enqueue_many(
        self, messages: Sequence[bytes | NewMessage], *, priority: int = 0, timeout_s: float | None = None
    ) -> range:
        """All or none, in one command of at most `broker.BATCH_MAX`; their ids. `priority` is that of bare bytes.
        Headers of a `NewMessage` come from `encode_headers`. Raises `InvalidHeaders` and `InvalidKey` at once."""
        batch = new_batch(messages, priority)
        if not batch:
            return range(0)
        reply = await self._driver.request(broker.EnqueueMany(self.name, batch), timeout_s=timeout_s)
        return range(reply.first, reply.first + reply.count)

    async def pop(self, count: int = 1, wait_ms: int = 0, lease_ms: int = 0, *, no_ack: bool = False) -> list[Delivery]:
        """Up to `count` messages: those that are there, then those that come within `wait_ms`. A lease lasts
        `lease_ms`, or with 0 as long as the session; with `no_ack` they are settled already. Raises `TopicNotFound`."""
        return await Popping(self._driver, broker.Pop(self.name, count, wait_ms, lease_ms, no_ack)).wait_deliveries()

    def consume(
        self,
        *,
        credit: int = DEFAULT_CREDIT,
        credit_bytes: int = 0,
        lease_ms: int = 0,
        no_ack: bool = False,
        exclusive: bool = False,
        idle_s: float | None = None,
        credit_group: int = 0,
    ) -> Consumer:
        """`async for delivery in topic.consume()`. `credit` bounds the deliveries not yet settled, `credit_bytes` their
        payloads (0: the machine's bound). A lease lasts `lease_ms`, or with 0 as long as the session. With `no_ack` a
        delivery is settled before it comes. With `exclusive` nobody else may consume. The iteration ends after `idle_s`
        without a message (None: never). Consumers of this client with the same `credit_group`, 1 or more, share one
        credit: the one given last. Raises `TopicNotFound` and `TopicInUse` when it is begun."""
        command = broker.Subscribe(self.name, credit, credit_bytes, no_ack, lease_ms, exclusive, credit_group)
        return Consumer(self._driver, command, idle_s)

    async def peek(
        self, count: int = 1, *, delayed: bool = False, leased: bool = False, ready: bool = True
    ) -> list[broker.PeekedMessage]:
        """What would be delivered next, up to 1000; then, where asked for, what is delayed and what is leased. Without
        `ready`, these alone. Nothing changes. Raises `TopicNotFound`."""
        answer = await self._driver.query(broker.Peek(self.name, count, delayed, leased, ready))
        messages: list[broker.PeekedMessage] = answer.messages
        return messages

    async def browse(
        self, *, ready: bool = True, delayed: bool = True, leased: bool = True
    ) -> AsyncIterator[broker.PeekedMessage]:
        """All messages in the order of their ids, page by page. One that stays in the topic meanwhile comes exactly
        once. Those that come or go meanwhile may be among them. Nothing changes. Raises `TopicNotFound`, also for a
        topic that is deleted meanwhile."""
        after = -1
        while after:
            query = broker.Browse(self.name, max(0, after), ready=ready, delayed=delayed, leased=leased)
            page = await self._driver.query(query)
            for message in page.messages:
                yield message
            after = page.after

    async def explain(self, number: int) -> broker.Explained:
        """Where the message with this id is, how many are ahead of it, who holds it, and how many consumers could take
        one now. Raises `TopicNotFound`."""
        explained: broker.Explained = await self._driver.query(broker.Explain(self.name, number))
        return explained

    async def stats(self) -> broker.TopicInfo:
        """Its settings, messages by state, `consumers` and `ready_bytes`. Raises `TopicNotFound`."""
        info: broker.TopicInfo = await self._driver.query(broker.DescribeTopic(self.name))
        return info

    async def purge(self) -> int:
        """How many ready and delayed messages went. Raises `TopicNotFound`."""
        reply = await self._driver.request(broker.Purge(self.name))
        return int(reply.count)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}>"


def _id(reply: broker.Enqueued) -> int:
    return reply.id
