"""The memory estimate of the machine against what CPython allocates, for every kind of record."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from disheap.interfaces import Principal
from disheap.protocol.broker import (
    Bind,
    CreateExchange,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Pop,
    Publish,
    Subscribe,
    encode_headers,
)
from tests.support.memory import held_bytes

from .driver import Driver

ROUNDS = 2000
FACTOR = 1.5
"""The estimate is neither larger nor smaller than the real growth by more than this. Dicts and lists grow by steps, so
the real growth for one record is within a fifth of its mean."""

Step = Callable[[Driver, int], object]


def distinct(size: int, number: int) -> bytes:
    return b"%07d" % number * (size // 7) + bytes(size % 7)


def enqueue(size: int) -> Step:
    return lambda driver, n: driver.do(Enqueue("jobs", NewMessage(distinct(size, n))))


def lease(driver: Driver, n: int) -> None:
    driver.do(Enqueue("jobs", NewMessage(distinct(14, n))))
    driver.do(Pop("jobs", 1))


def fan_out(driver: Driver, n: int) -> None:
    driver.do(Publish("f", "", NewMessage(distinct(1400, n))))


CASES: dict[str, Step] = {
    "empty messages": lambda driver, n: driver.do(Enqueue("jobs", NewMessage(b""))),
    "small messages": enqueue(100),
    "messages of 1 KiB": enqueue(1024),
    "large messages": enqueue(20_000),
    "messages of one batch": lambda driver, n: driver.do(
        EnqueueMany("jobs", [NewMessage(distinct(50, n * 10 + one), one) for one in range(10)])
    ),
    "delayed messages": lambda driver, n: driver.do(Enqueue("jobs", NewMessage(distinct(100, n), delay_ms=10_000 + n))),
    "messages that expire": lambda driver, n: driver.do(
        Enqueue("jobs", NewMessage(distinct(100, n), expires_ms=10_000 + n))
    ),
    "messages with a key": lambda driver, n: driver.do(Enqueue("jobs", NewMessage(distinct(100, n), key=f"key-{n}"))),
    "messages with headers": lambda driver, n: driver.do(
        Enqueue("jobs", NewMessage(distinct(100, n), encoded_headers=encode_headers({"n": n, "t": "x" * 200})))
    ),
    "shared headers": lambda driver, n: driver.do(
        Publish(
            "f", "", NewMessage(distinct(100, n), encoded_headers=encode_headers({"n": n, "t": "x" * 2000}), key="k")
        )
    ),
    "leases": lease,
    "shared payloads": fan_out,
    "topics": lambda driver, n: driver.do(CreateTopic(f"topic-{n:06}")),
    "exchanges": lambda driver, n: driver.do(CreateExchange(f"exchange-{n:06}", "direct")),
    "bindings by key": lambda driver, n: driver.do(Bind("d", "jobs", f"key-{n:06}")),
    "bindings by pattern": lambda driver, n: driver.do(Bind("t", "jobs", f"a{n:06}.*.b.#")),
    "consumers": lambda driver, n: driver.do(Subscribe("jobs", 10)),
    "sessions": lambda driver, n: driver.machine.session_opened(1000 + n, Principal()),
    "sessions with a consumer": lambda driver, n: (
        driver.machine.session_opened(1000 + n, Principal()),
        driver.do(Subscribe("jobs", 10), session=1000 + n),
    ),
}


def prepared() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    for name in ("a", "b", "c"):
        driver.do(CreateTopic(name))
    for name, kind in (("f", "fanout"), ("d", "direct"), ("t", "topic")):
        driver.do(CreateExchange(name, kind))
    for name in ("a", "b", "c"):
        driver.do(Bind("f", name))
    return driver


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_of_each_kind_of_record_is_close_to_its_real_size(case: str) -> None:
    driver, step = prepared(), CASES[case]
    before = driver.machine.memory_bytes()

    def grow() -> None:
        for number in range(ROUNDS):
            step(driver, number)
        driver.taken()

    real = held_bytes(grow)
    estimate = driver.machine.memory_bytes() - before
    print(f"{case:28} real/each {real / ROUNDS:8.0f} est {estimate / ROUNDS:8.0f} ratio {estimate / real:5.2f}")
    assert real / FACTOR < estimate < real * FACTOR, f"{real // ROUNDS} bytes each, estimated {estimate // ROUNDS}"
