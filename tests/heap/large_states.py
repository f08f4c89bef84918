"""States so large that one call cannot do all the work on them."""

from __future__ import annotations

from disheap.protocol.broker import (
    BATCH_MAX,
    Bind,
    CreateExchange,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Subscribe,
    TopicSettings,
)
from disheap_heap.settings import (
    MAX_DELIVERIES_PER_CALL,
    MAX_END_UNITS_PER_CALL,
    MAX_RETURNS_PER_CALL,
)

from .driver import PLENTY, Driver

MANY = 3 * max(MAX_DELIVERIES_PER_CALL, MAX_RETURNS_PER_CALL)
"""Messages, more than one call delivers or gives back."""


def filled(count: int = MANY, delay_ms: int = 0, expires_ms: int = 0) -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", number % 3, delay_ms, expires_ms) for number in range(count)]))
    return driver


def end_a_session_that_has_much(driver: Driver) -> None:
    driver.do(CreateExchange("e"), session=2)
    for number in range(MAX_END_UNITS_PER_CALL):
        name = f"own-{number}"
        driver.do(CreateTopic(name, TopicSettings(exclusive=number % 3 == 0, auto_delete=True)), session=2)
        driver.do(Bind("e", name, name), session=2)
        driver.do(Enqueue(name, NewMessage(b"x")), session=2)
        driver.do(Subscribe(name, 5, group=number % 2), session=2)
    driver.do(Subscribe("jobs", MANY), session=2)
    driver.work_off(PLENTY)
    driver.do(Subscribe("jobs", 7))
    driver.expire(2)


def come_back_with_many_leases(driver: Driver) -> None:
    driver.do(EnqueueMany("jobs", [NewMessage(b"x")] * (BATCH_MAX - MANY)))
    driver.do(Subscribe("jobs", BATCH_MAX))
    driver.work_off(PLENTY)
    driver.detach(1)
    driver.attach(1)


def fan_out(driver: Driver) -> None:
    driver.do(CreateExchange("all", "fanout"))
    for number in range(MANY):
        driver.do(CreateTopic(f"topic-{number}"))
        driver.do(Bind("all", f"topic-{number}"))
        driver.do(Subscribe(f"topic-{number}", 1))
