"""The memory estimate of the machine against what CPython allocates, for every kind of record."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from unittest.mock import patch

import pytest

from disheap.interfaces import Principal
from disheap.protocol.broker import (
    Ack,
    Bind,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    DeleteValues,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Overtake,
    Pop,
    Publish,
    SetBarrier,
    SetCredit,
    SetValue,
    Subscribe,
    Watch,
    encode_arguments,
    encode_headers,
)
from disheap_heap.commands import sessions
from disheap_heap.state import state
from tests.support.memory import held_bytes

from .driver import PLENTY, Driver

pytestmark = pytest.mark.proof

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
    "bindings by headers": lambda driver, n: driver.do(
        Bind("h", "jobs", "", encode_arguments({"type": f"{n:06}" + "x" * 500, "user": n}))
    ),
    "bindings by any header": lambda driver, n: driver.do(
        Bind("h", "jobs", "", encode_arguments({"type": f"{n:06}", "user": n, "x-match": "any"}))
    ),
    "consumers": lambda driver, n: driver.do(Subscribe("jobs", 10)),
    "values": lambda driver, n: driver.do(SetValue(f"celery-task-meta-{n:036}", distinct(200, n))),
    "values that expire": lambda driver, n: driver.do(SetValue(f"value-{n:06}", distinct(20, n), 86_400_000 + n)),
    "watches": lambda driver, n: driver.do(Watch([f"celery-task-meta-{n:036}"])),
    "barriers": lambda driver, n: driver.do(
        SetBarrier(f"barrier-{n:06}", 9, message=Publish("", "q", NewMessage(b"")))
    ),
    "parts of a barrier": lambda driver, n: driver.do(SetValue(f"part-{n:06}", b"", barrier="all", order=n)),
    "sessions": lambda driver, n: driver.machine.session_opened(1000 + n, Principal()),
    "sessions with a consumer": lambda driver, n: (
        driver.machine.session_opened(1000 + n, Principal()),
        driver.do(Subscribe("jobs", 10), session=1000 + n),
    ),
}


def ack(driver: Driver, n: int) -> None:
    driver.do(Pop("full", 1))
    driver.do(Ack([(n + 1, 1)]))


def give_back(driver: Driver, n: int) -> None:
    driver.do(Pop("full", 1))
    driver.do(Nack([(n + 1, 1)], delay_ms=10_000))


WITH_VIEW: dict[str, Step] = {
    "messages settled": ack,
    "messages delivered": lambda driver, n: driver.do(Pop("full", 1)),
    "messages delayed": give_back,
    "messages delivered without acknowledgement": lambda driver, n: driver.do(Pop("full", 1, no_ack=True)),
    "topics deleted": lambda driver, n: driver.do(DeleteTopic(f"t{n}")),
    "values dropped": lambda driver, n: driver.do(DeleteValues([f"value-{n}"])),
    "credit of consumers": lambda driver, n: driver.do(SetCredit(n + 1, 5)),
}
"""What is done to records of which an open view keeps what they were."""


def with_records() -> Driver:
    driver = prepared()
    for name in ("full", "idle"):
        driver.do(CreateTopic(name))
    for number in range(ROUNDS):
        driver.do(Enqueue("full", NewMessage(distinct(100, number))))
        driver.do(CreateTopic(f"t{number}"))
        driver.do(Subscribe("idle", 10))
        driver.do(SetValue(f"value-{number}", distinct(100, number)))
    driver.taken()
    return driver


def prepared() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    for name in ("a", "b", "c"):
        driver.do(CreateTopic(name))
    for name, kind in (("f", "fanout"), ("d", "direct"), ("t", "topic"), ("h", "headers")):
        driver.do(CreateExchange(name, kind))
    for name in ("a", "b", "c"):
        driver.do(Bind("f", name))
    driver.do(SetBarrier("all", ROUNDS))
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


@pytest.mark.parametrize("case", WITH_VIEW)
def test_what_an_open_view_keeps_is_counted(case: str) -> None:
    """A run with a view makes the calls of a run without one. What differs is what the view keeps."""
    (real_without, without), (real_with, with_view) = (grown(WITH_VIEW[case], is_open) for is_open in (False, True))
    real, estimate = real_with - real_without, with_view - without
    print(f"{case:28} real/each {real / ROUNDS:8.0f} est {estimate / ROUNDS:8.0f} ratio {estimate / real:5.2f}")
    assert real / FACTOR < estimate < real * FACTOR, f"{real // ROUNDS} bytes each, estimated {estimate // ROUNDS}"


def grown(step: Step, is_open: bool) -> tuple[int, int]:
    """By how much the real size and the estimate grow, while a view is open or not."""
    tracemalloc.start()
    try:
        driver = with_records()
        view = driver.machine.snapshot() if is_open else None
        gc.collect()
        before = tracemalloc.get_traced_memory()[0], driver.machine.memory_bytes()
        for number in range(ROUNDS):
            step(driver, number)
        driver.taken()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0], driver.machine.memory_bytes()
        del view
        return after[0] - before[0], after[1] - before[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("is_written", [True, False])
def test_what_a_view_kept_does_not_count_when_the_view_has_ended(is_written: bool) -> None:
    driver = with_records()
    before, view = driver.machine.memory_bytes(), driver.machine.snapshot()
    for number in range(ROUNDS):
        driver.do(SetCredit(number + 1, 5))
    assert driver.machine.memory_bytes() > before + 100 * ROUNDS
    if is_written:
        for _ in view:
            pass
    del view
    assert driver.machine.memory_bytes() == before


def test_groups_that_wait_for_something_more_urgent_count() -> None:
    driver = with_records()
    for number in range(ROUNDS):
        driver.do(Subscribe("idle", 1, group=1 + number))
        driver.do(SetCredit(0, 0, 0, 1 + number))
    before = driver.machine.memory_bytes()

    def grow() -> None:
        for number in range(ROUNDS):
            driver.do(Overtake(1 + number, number))

    real = held_bytes(grow)
    estimate = driver.machine.memory_bytes() - before
    assert real / FACTOR < estimate < real * FACTOR, f"{real // ROUNDS} bytes each, estimated {estimate // ROUNDS}"


def test_leases_that_are_sent_again_count() -> None:
    driver = with_records()
    driver.do(Subscribe("full", ROUNDS))
    driver.work_off(PLENTY)
    driver.detach(1)
    before = driver.machine.memory_bytes()
    with patch.object(sessions, "MAX_RESENT_PER_REPLY", 1), patch.object(state, "MAX_DELIVERIES_PER_CALL", 1):
        driver.attach(1, *((number, 2) for number in range(ROUNDS)))
    assert driver.machine.memory_bytes() > before + 100 * 2 * ROUNDS
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() == before
