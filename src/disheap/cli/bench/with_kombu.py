"""The workloads through kombu, as Celery uses it: confirmed publishes one by one, and receive and ack.

Blocking, in the calling thread. kombu is loaded when a workload runs.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

from disheap.cli.bench.figures import Meter
from disheap.errors import RequestTimeout

PREFETCH = 64
DRAIN_S = 10.0


def publish(url: str, queue: str, payload: bytes, seconds: float) -> Meter:
    """Latency: of one `Producer.publish`, which returns when a majority has the message on disk."""
    with _connection(url) as connection:
        producer = connection.Producer(serializer=None)
        meter = Meter(seconds)
        began_ns = perf_counter_ns()
        while not meter.due(began_ns):
            publish_one(producer, queue, payload)
            ended_ns = perf_counter_ns()
            meter.add(ended_ns - began_ns)
            began_ns = ended_ns
    return meter


def publish_sample(url: str, queue: str, payload: bytes) -> None:
    """One message, so that the rest can be copied from it."""
    with _connection(url) as connection:
        publish_one(connection.Producer(serializer=None), queue, payload)


def publish_one(producer: Any, queue: str, payload: bytes) -> None:
    """Publish `payload` to `queue` as bytes, without a serializer."""
    producer.publish(payload, routing_key=queue, content_type="application/data", content_encoding="binary")


def consume(url: str, queue: str, messages: int, seconds: float) -> Meter:
    """`messages` wait in the queue. Latency: from one message in the callback to the next, for acks do not wait. Ends
    early when the queue is empty."""
    with _connection(url) as connection:
        consumption = Consumption(Meter(seconds), messages)
        consumer = connection.Consumer(
            [_queue(queue)],
            callbacks=[consumption.received],
            accept=["application/data"],
            prefetch_count=PREFETCH,
            auto_declare=False,
        )
        with consumer:
            while not consumption.over:
                consumption.check(connection)
    return consumption.meter


class Consumption:
    """Counts the messages that a consumer has received and acknowledged."""

    def __init__(self, meter: Meter, messages: int) -> None:
        self.meter, self.over = meter, False
        self._left = messages
        self._last_ns = perf_counter_ns()

    def received(self, body: Any, message: Any) -> None:
        """The consumer's callback: acknowledge one message, and record the time since the one before."""
        message.ack()
        now_ns = perf_counter_ns()
        self.meter.add(now_ns - self._last_ns)
        self._last_ns = now_ns
        self._left -= 1

    def check(self, connection: Any) -> None:
        """All that has arrived, then a look at the time."""
        try:
            connection.drain_events(timeout=DRAIN_S)
        except TimeoutError:
            raise RequestTimeout(f"no message came for {DRAIN_S:g} s, and {self._left} are waiting") from None
        if self.meter.due(self._last_ns):
            self.over = True
        elif self._left <= 0:
            self.meter.stop(self._last_ns)
            self.over = True


def _connection(url: str) -> Any:
    from kombu.connection import Connection

    connect: Any = Connection
    return connect(url)


def _queue(name: str) -> Any:
    from kombu.entity import Queue

    queue: Any = Queue
    return queue(name)
