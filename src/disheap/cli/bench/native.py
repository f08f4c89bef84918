"""The workloads of the native asyncio client: pipelined enqueues, pop and ack, and one enqueue at a time.

Each gets a topic of its own and leaves it to the caller to delete. Every message is a command and a frame of its own;
only the filling before `pop`, which is not measured, goes in batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from time import perf_counter_ns

from disheap.cli.bench.figures import Meter
from disheap.client.api.asynchronous import Client
from disheap.errors import RequestTimeout
from disheap.protocol import broker

CREDIT = 256
FILL_BATCH = 500
FILL_BATCH_BYTES = 128 << 10
FILL_BATCHES = 8  # under way: about 1 MB
DRAIN_S = 30.0
ASK_EVERY = 256
"""Operations between two looks at the time, where there is no burst to do it by."""


async def enqueue(client: Client, topic: str, payload: bytes, window: int, seconds: float) -> Meter:
    """Latency: from handing the command to the client to the answer that a majority has it on disk. Time spent in the
    pipeline counts, and with a window of 2,000 that is most of it."""
    pipeline = Pipeline(client, broker.Enqueue(topic, broker.NewMessage(payload)), window, Meter(seconds))
    return await pipeline.run()


class Pipeline:
    """Keeps `window` commands unanswered: each burst of answers is followed by as many commands, in one write."""

    def __init__(self, client: Client, command: broker.Command, window: int, meter: Meter) -> None:
        self._driver = client.driver
        self._command, self._window, self._meter = command, window, meter
        self._began_ns: deque[int] = deque()  # of those unanswered; answers come in the order of sending
        self._refilling = False
        self._idle = asyncio.Event()

    async def run(self) -> Meter:
        """Keep the window full until the time is over, wait for the answers, and return the meter."""
        self._refill()
        try:
            async with asyncio.timeout(self._meter.seconds + DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            raise RequestTimeout(f"{len(self._began_ns)} enqueues were refused, or got no answer in time") from None
        return self._meter

    def _refill(self) -> None:
        self._refilling = False
        now_ns = perf_counter_ns()
        if self._meter.due(now_ns):
            if not self._began_ns:  # each answer of the last window comes by here
                self._idle.set()
            return
        send, command, answered = self._driver.send, self._command, self._answered
        burst = self._window - len(self._began_ns)
        self._began_ns.extend([now_ns] * burst)
        for _ in range(burst):
            send(command, answered)

    def _answered(self, reply: broker.Enqueued) -> None:
        self._meter.add(perf_counter_ns() - self._began_ns.popleft())
        if not self._refilling:
            self._refilling = True
            self._driver.loop.call_soon(self._refill)


async def pop(client: Client, topic: str, messages: int, seconds: float) -> Meter:
    """`messages` wait in the topic. Latency: from the delivery's arrival to the answer that its ack is on a majority's
    disks. Ends early when the topic is empty."""
    meter = Meter(seconds)
    taken = 0
    async with client.topic(topic).consume(credit=CREDIT) as consumer:
        async for delivery in consumer:
            delivery.ack().add_done_callback(partial(_acked, meter, perf_counter_ns()))
            taken += 1
            if taken == messages or (not taken % ASK_EVERY and meter.due(perf_counter_ns())):
                break
        meter.stop(perf_counter_ns())
    return meter


def _acked(meter: Meter, began_ns: int, future: asyncio.Future[None]) -> None:
    future.result()
    meter.add(perf_counter_ns() - began_ns)


async def fill(client: Client, topic: str, payload: bytes, messages: int) -> None:
    """Enqueues so many messages, quickly."""
    batch = max(1, min(FILL_BATCH, FILL_BATCH_BYTES // max(1, len(payload))))
    batches = iter(range(0, messages, batch))

    async def filler() -> None:
        for start in batches:
            await client.topic(topic).enqueue_many([payload] * min(batch, messages - start))

    await asyncio.gather(*(filler() for _ in range(FILL_BATCHES)))


async def round_trip(client: Client, topic: str, payload: bytes, seconds: float) -> Meter:
    """One enqueue, its answer, the next. Latency: of each."""
    meter = Meter(seconds)
    began_ns = perf_counter_ns()
    while not meter.due(began_ns):
        await client.topic(topic).enqueue(payload)
        ended_ns = perf_counter_ns()
        meter.add(ended_ns - began_ns)
        began_ns = ended_ns
    return meter
