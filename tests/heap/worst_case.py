"""What one command or query costs at worst, measured: `python -m tests.heap.worst_case`.

Each row builds the state that is worst for it within the default limits, then measures one call: the time, and the
memory that it and its answer left allocated. Figures of one machine: docs/explanation/cost-of-commands.md.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from disheap.protocol import broker
from disheap.protocol.broker import NewMessage

from .driver import PLENTY, Driver

TOPICS = 10_000
MANY = broker.BATCH_MAX


def many_topics(count: int = TOPICS) -> Driver:
    driver = Driver(fanout=count)
    driver.do(broker.CreateExchange("all", "fanout"))
    for number in range(count):
        driver.do(broker.CreateTopic(f"t{number}"))
        driver.do(broker.Bind("all", f"t{number}"))
    return driver


def many_patterns() -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("t"))
    driver.do(broker.CreateExchange("e", "topic"))
    for number in range(2000):
        parts = ["a" if number >> place & 1 else "*" for place in range(11)]
        driver.do(broker.Bind("e", "t", ".".join(["#", *parts, "a", "#", "b"])))
    return driver


def filled(count: int = MANY, **message: int) -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    driver.do(broker.EnqueueMany("q", [NewMessage(b"x", number % 7, **message) for number in range(count)]))
    return driver


def leased() -> Driver:
    driver = filled()
    driver.do(broker.Subscribe("q", broker.CREDIT_MAX))
    driver.work_off(PLENTY)
    driver.taken()
    return driver


def bound_often() -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    driver.do(broker.CreateExchange("e", "topic"))
    for number in range(MANY):
        driver.do(broker.Bind("e", "q", f"user.{number}.#"))
    return driver


def many_consumers() -> Driver:
    driver = filled(1)
    for _ in range(MANY):
        driver.do(broker.Subscribe("q", 1))
    driver.taken()
    return driver


TOKENS = [(number, 1) for number in range(1, MANY + 1)]
CASES: list[tuple[str, Callable[[], Driver], Any]] = [
    ("10,000 topics", many_topics, broker.Publish("all", "", b"x" * 1000)),
    ("2,000 patterns of wildcards", many_patterns, broker.Publish("e", ".".join(["a"] * 120), b"x")),
    ("an empty topic", lambda: filled(1), broker.EnqueueMany("q", [NewMessage(b"x")] * MANY)),
    ("10,000 messages", filled, broker.Subscribe("q", broker.CREDIT_MAX)),
    ("10,000 messages", filled, broker.Pop("q", MANY)),
    ("10,000 messages", filled, broker.Purge("q")),
    ("10,000 leases", leased, broker.Ack(TOKENS)),
    ("10,000 leases", leased, broker.Nack(TOKENS, 1000)),
    ("10,000 leases", leased, broker.Extend(TOKENS, 1000)),
    ("10,000 leases", leased, broker.Recover([1])),
    ("10,000 leases", leased, broker.Cancel(1, True)),
    ("10,000 bindings", bound_often, broker.DeleteTopic("q")),
    ("10,000 bindings", bound_often, broker.DeleteExchange("e")),
    ("10,000 consumers", many_consumers, broker.DeleteTopic("q")),
    ("10,000 topics", many_topics, broker.CreateTopic("a")),
    ("10,000 topics", many_topics, broker.GetStats()),
    ("10,000 topics", many_topics, broker.ListTopics()),
    ("10,000 topics", many_topics, broker.ListExchanges("all")),
    ("10,000 messages", filled, broker.Peek("q", 1000)),
]


def measure() -> Iterator[tuple[str, str, float, int]]:
    """(command, state, milliseconds, bytes left allocated)."""
    for state, build, asked in CASES:
        times, sizes, refused = [], [], ""
        for counts_bytes in (False, True):
            driver = build()
            body, machine = broker.encode(asked), driver.machine
            if counts_bytes:
                tracemalloc.start()
            began = time.perf_counter()
            try:
                if isinstance(asked, broker.Query):
                    answer: Any = machine.query(0, 1, body)
                else:
                    answer = machine.apply(driver.index + 1, driver.now, 1, body)
            except Exception as refusal:
                answer = None
                refused = f" ({type(refusal).__name__})"
            times.append(time.perf_counter() - began)
            if counts_bytes:
                sizes.append(tracemalloc.get_traced_memory()[0])
                tracemalloc.stop()
            del answer
        yield type(asked).__name__, state + refused, times[0] * 1000, sizes[0]


if __name__ == "__main__":
    print(f"{'command':16} {'state':46} {'ms':>8} {'bytes':>12}")
    for name, state, milliseconds, size in measure():
        print(f"{name:16} {state:46} {milliseconds:8.1f} {size:12,}")
