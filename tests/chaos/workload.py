"""Clients that enqueue, take, acknowledge, give back, forget and die, and note what they see.

Each loop survives whatever happens to its client: a client that is broken is replaced by a new one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import disheap
from disheap.client.api.asynchronous import Client, Topic
from disheap.client.api.consuming import Delivery
from disheap.errors import (
    ConnectionLost,
    DisheapError,
    LeaseLost,
    OutcomeUnknown,
    RequestError,
    RequestTimeout,
    SessionExpired,
)
from disheap.protocol.broker import NewMessage
from tests.chaos.history import Delivered, Enqueue, History, Outcome, Settle

TOPIC = "chaos"
SESSION_MS = 3000
LEASE_MS = 2500
TIMEOUT_S = 10.0
PRIORITIES = (-(1 << 63), -5, 0, 0, 0, 7, 7, (1 << 63) - 1)
PAUSE_S = 0.01
"""Between two requests of one client: the load is steady, not heavy."""
BATCH = 100
DRAIN_S = 120.0

UNKNOWN = (OutcomeUnknown, RequestTimeout, ConnectionLost, SessionExpired)


class Workload:
    """`start()`, `await stop()`, `await drain()`; `history` is what was seen."""

    def __init__(self, url: str, generator: random.Random, *, producers: int = 3, consumers: int = 3) -> None:
        self.history = History()
        self.backlog_limit = 2000
        self._url = url
        self._random = generator
        self._producers, self._consumers = producers, consumers
        self._tasks: list[asyncio.Task[None]] = []
        self._clients = 0
        self._stopping = False
        self._progress = asyncio.Event()
        self.failure: BaseException | None = None

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def start(self) -> None:
        async with self._client("setup", timeout_s=60) as (client, _):
            await client.create_topic(TOPIC)
        roles: list[Callable[[int], Awaitable[None]]] = [self._produce] * self._producers
        roles += [self._produce_batches, self._consume_by_pops]
        roles += [self._consume] * self._consumers
        self._tasks = [asyncio.create_task(self._kept_up(role, number)) for number, role in enumerate(roles)]

    async def stop(self) -> None:
        """Every client has ended its session, as far as a node could be told."""
        self._stopping = True
        _, late = await asyncio.wait(self._tasks, timeout=TIMEOUT_S * 2)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.failure is not None:
            raise self.failure

    async def wait_service(self, within_s: float) -> None:
        """Waits until an enqueue that was sent from now on is confirmed. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s):
            begin = self._now
            while True:
                self._progress.clear()
                await self._progress.wait()
                if any(entry.sent > begin and entry.outcome is Outcome.OK for entry in self.history.enqueues[-50:]):
                    return

    async def drain(self) -> None:
        """Alone with the topic: wait until nothing is leased or delayed, then take everything in its order."""
        async with asyncio.timeout(DRAIN_S), self._client("drain", timeout_s=60) as (client, holder):
            topic = client.topic(TOPIC)
            while (seen := await topic.stats()).leased or seen.delayed:
                await asyncio.sleep(0.2)
            place = 0
            while got := await topic.pop(BATCH, lease_ms=600_000):
                for delivery in got:
                    self._note(delivery, holder, place)
                    place += 1
                await asyncio.gather(*(self._ack(delivery) for delivery in got))

    # --- clients ---

    async def _kept_up(self, role: Callable[[int], Awaitable[None]], number: int) -> None:
        while not self._stopping:
            try:
                await role(number)
            except DisheapError:
                await asyncio.sleep(0.1)
            except Exception as error:  # not the cluster's fault: ours, or the client library's
                self.failure = self.failure or error
                raise

    @asynccontextmanager
    async def _client(self, role: str, timeout_s: float = TIMEOUT_S) -> AsyncIterator[tuple[Client, str]]:
        self._clients += 1
        holder = f"{role} {self._clients}"
        client = await disheap.connect(
            self._url, session_timeout_ms=SESSION_MS, timeout_s=timeout_s, label=holder.replace(" ", "-")
        )
        try:
            yield client, holder
        finally:
            await client.close()

    async def _produce(self, number: int) -> None:
        async with self._client("producer") as (client, _):
            topic = client.topic(TOPIC)
            while not self._stopping:
                await self._enqueue(topic, number)
                await self._rest(topic)

    async def _enqueue(self, topic: Topic, number: int) -> None:
        entry = self._new(number)
        try:
            entry.id = await topic.enqueue(entry.payload, entry.priority)
            entry.outcome = Outcome.OK
        except DisheapError as error:
            entry.outcome = _outcome(error)
            raise
        finally:
            self._answered(entry)

    async def _produce_batches(self, number: int) -> None:
        async with self._client("batches") as (client, _):
            topic = client.topic(TOPIC)
            while not self._stopping:
                entries = [self._new(number) for _ in range(self._random.randint(2, 10))]
                try:
                    ids = await topic.enqueue_many([NewMessage(entry.payload, entry.priority) for entry in entries])
                    for entry, given in zip(entries, ids, strict=True):
                        entry.id, entry.outcome = given, Outcome.OK
                except DisheapError as error:
                    for entry in entries:
                        entry.outcome = _outcome(error)
                    raise
                finally:
                    for entry in entries:
                        entry.answered = self._now  # one command: they share one place in the order
                    self._progress.set()
                await asyncio.sleep(PAUSE_S * 10)

    def _new(self, number: int) -> Enqueue:
        payload = b"%d-%d" % (number, len(self.history.enqueues))
        size = self._random.choice((0, 0, 20, 200, 2000))
        entry = Enqueue(payload.ljust(size, b"."), self._random.choice(PRIORITIES), self._now)
        self.history.enqueues.append(entry)
        return entry

    def _answered(self, entry: Enqueue | Settle) -> None:
        entry.answered = self._now
        self._progress.set()

    async def _rest(self, topic: Topic) -> None:
        """Where consumers cannot keep up, wait for them; the look is a linearizable read."""
        await asyncio.sleep(PAUSE_S)
        if self._random.random() < 0.02:
            self.history.others += 1
            while (await topic.stats()).ready > self.backlog_limit and not self._stopping:
                await asyncio.sleep(0.2)

    # --- consumers ---

    async def _consume(self, number: int) -> None:
        """A few seconds of one session; then it is closed, or left to lapse with all that it holds."""
        async with self._client("consumer") as (client, holder):
            until = self._now + self._random.uniform(2, 12)
            consumer = client.topic(TOPIC).consume(credit=16, lease_ms=LEASE_MS)
            late: set[asyncio.Task[None]] = set()
            while self._now < until and not self._stopping:
                try:
                    async with asyncio.timeout(0.5):
                        delivery = await anext(consumer)
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    break
                self._note(delivery, holder)
                task = asyncio.create_task(self._handle(delivery))
                late.add(task)
                task.add_done_callback(late.discard)
                await asyncio.sleep(PAUSE_S)
            if self._random.random() < 0.4:
                await client.driver.close(end_session=False)
            await asyncio.gather(*late, return_exceptions=True)

    async def _consume_by_pops(self, number: int) -> None:
        async with self._client("pops") as (client, holder):
            topic = client.topic(TOPIC)
            while not self._stopping:
                for delivery in await topic.pop(self._random.randint(1, 5), wait_ms=300, lease_ms=LEASE_MS):
                    self._note(delivery, holder)
                    await self._handle(delivery)
                await asyncio.sleep(PAUSE_S)

    def _note(self, delivery: Delivery, holder: str, place: int = -1) -> None:
        self.history.deliveries.append(
            Delivered(holder, delivery.id, delivery.attempts, delivery.priority, delivery.payload, self._now, place)
        )

    async def _handle(self, delivery: Delivery) -> None:
        """Most are done with at once; some come too late, some are given back, some are forgotten."""
        draw = self._random.random()
        with suppress(RequestError):
            if draw < 0.80:
                await self._ack(delivery)
            elif draw < 0.85:
                await asyncio.sleep(LEASE_MS / 1000 * self._random.uniform(0.8, 1.3))
                await self._ack(delivery)
            elif draw < 0.92:
                self.history.others += 1
                await delivery.nack(delay_ms=self._random.choice((0, 0, 300)))
            elif draw < 0.95:
                self.history.others += 1
                await delivery.extend(LEASE_MS)
                await self._ack(delivery)
            elif draw < 0.97:
                await self._discard(delivery)

    async def _ack(self, delivery: Delivery) -> None:
        await self._settle(delivery, delivery.ack)

    async def _discard(self, delivery: Delivery) -> None:
        await self._settle(delivery, lambda: delivery.nack(discard=True))

    async def _settle(self, delivery: Delivery, how: Callable[[], Awaitable[Any]]) -> None:
        entry = Settle(delivery.id, delivery.attempts, self._now)
        self.history.settles.append(entry)
        try:
            await how()
            entry.outcome = Outcome.OK
        except LeaseLost:
            entry.outcome = Outcome.REFUSED
        except DisheapError as error:
            entry.outcome = _outcome(error)
        self._answered(entry)


def _outcome(error: DisheapError) -> Outcome:
    return Outcome.UNKNOWN if isinstance(error, UNKNOWN) or not isinstance(error, RequestError) else Outcome.REFUSED
