"""No call frees more than a bounded number of bytes, however large the messages are that it drops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from disheap.protocol.broker import (
    Ack,
    Bind,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Publish,
    Purge,
    Subscribe,
    TopicSettings,
)
from disheap_heap.settings import BYTES_PER_RECORD, FREED_BYTES_PER_CALL

from .driver import PLENTY, Driver, token

MIB = 1 << 20
COUNT = 2 * FREED_BYTES_PER_CALL // MIB
EXPIRES_MS = 50


def filled(**settings: object) -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs", TopicSettings(**settings)))  # type: ignore[arg-type]
    for number in range(COUNT):
        driver.do(Enqueue("jobs", NewMessage(bytes([number]) + bytes(MIB), expires_ms=EXPIRES_MS)))
    return driver


def purge(driver: Driver) -> None:
    driver.do(Purge("jobs"))


def delete(driver: Driver) -> None:
    driver.do(DeleteTopic("jobs"))


def overflow(driver: Driver) -> None:
    driver.do(EnqueueMany("jobs", [NewMessage(b"")] * COUNT))


def expire(driver: Driver) -> None:
    driver.wait(EXPIRES_MS, 500)


def acknowledge(driver: Driver) -> None:
    tokens = [token(one) for one in driver.deliveries()]
    assert len(tokens) == COUNT
    driver.do(Ack(tokens))


@pytest.mark.parametrize("drop", [purge, delete, overflow, expire, acknowledge])
def test_a_call_frees_a_bounded_number_of_bytes(drop: Callable[[Driver], None]) -> None:
    """One EnqueueMany of 3,000 small messages dropped 3 GiB: 240 ms."""
    driver = filled(max_messages=COUNT, overflow="drop")
    if drop is acknowledge:
        driver.do(Subscribe("jobs", COUNT, credit_bytes=2 * COUNT * MIB))
        driver.work_off(PLENTY)
    freed = []

    def measure(call: Callable[[], object]) -> None:
        before = driver.machine.memory_bytes()
        call()
        freed.append(before - driver.machine.memory_bytes())

    measure(lambda: drop(driver))
    while driver.machine.backlog():
        measure(lambda: driver.machine.advance(driver.now, 500))
    assert sum(freed) > (COUNT - 1) * MIB, "at last everything is freed"
    assert max(freed) <= FREED_BYTES_PER_CALL + 2 * MIB


def test_what_a_view_kept_is_freed_in_slices_of_bounded_bytes() -> None:
    """A slice of 1,000 records of 1 MiB took 62 ms."""
    driver = filled(max_messages=COUNT, overflow="drop")
    view = driver.machine.snapshot()
    overflow(driver)
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() > COUNT * MIB, "the view has them"
    del view
    assert driver.work_off(100) >= COUNT * MIB // BYTES_PER_RECORD // (100 + MIB // BYTES_PER_RECORD)


def test_to_free_large_messages_is_more_work() -> None:
    driver = filled()
    driver.do(Purge("jobs"))
    before = driver.machine.work_done()
    driver.work_off(100)
    assert driver.machine.work_done() - before >= COUNT * MIB // BYTES_PER_RECORD


@pytest.mark.parametrize("size", [1, 5_000, 200_000])
def test_what_was_dropped_is_not_counted_any_more(size: int) -> None:
    driver, count = Driver(), 2 * FREED_BYTES_PER_CALL // 200_000
    driver.do(CreateTopic("jobs", TopicSettings(max_messages=count, overflow="drop")))
    driver.do(EnqueueMany("jobs", [NewMessage(b"")] * count))
    empty = driver.machine.memory_bytes()
    for number in range(count):
        driver.do(Enqueue("jobs", NewMessage(bytes([number % 256]) * size)))
    driver.do(EnqueueMany("jobs", [NewMessage(b"")] * count))
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() == empty


def test_a_body_that_other_messages_share_is_freed_with_the_last_of_them() -> None:
    driver = Driver()
    driver.do(CreateExchange("all", "fanout"))
    for name in ("a", "b"):
        driver.do(CreateTopic(name, TopicSettings(max_messages=COUNT, overflow="drop")))
        driver.do(Bind("all", name))
    for number in range(COUNT):
        driver.do(Publish("all", "", NewMessage(bytes([number]) + bytes(MIB))))
    full = driver.machine.memory_bytes()
    for name in ("a", "b"):
        assert not driver.machine.backlog()
        driver.do(EnqueueMany(name, [NewMessage(b"")] * COUNT))
    assert driver.machine.backlog(), "the second topic had the last copies"
    assert driver.machine.memory_bytes() > full - FREED_BYTES_PER_CALL - 2 * MIB
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() < full - (COUNT - 1) * MIB
