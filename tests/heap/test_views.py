"""Views of the state: taken with bounded work, written in bounded pieces, and closed completely."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from disheap.protocol.broker import (
    Ack,
    Bind,
    Cancel,
    CreateExchange,
    CreateTopic,
    DeleteExchange,
    DeleteTopic,
    EnqueueMany,
    Extend,
    Nack,
    NewMessage,
    Pop,
    Purge,
    Recover,
    SetCredit,
    Subscribe,
    TopicSettings,
)
from disheap_heap.view import FREED_AT_ONCE, IDS_PER_PAUSE

from .driver import PLENTY, Driver, token


def count_calls(call: Callable[[], Any]) -> tuple[int, Any]:
    """The number of function calls, functions in C included, and the result."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        result = call()
    finally:
        sys.setprofile(None)
    return calls, result


def grown(size: int) -> Driver:
    """Many topics with messages, bindings, and consumers with leases."""
    driver = Driver()
    driver.do(CreateExchange("e"))
    for number in range(size):
        name = f"t{number}"
        driver.do(CreateTopic(name))
        driver.do(Bind("e", name, name))
        driver.do(EnqueueMany(name, [NewMessage(b"x"), NewMessage(b"x"), NewMessage(b"x", delay_ms=50)]))
        driver.do(Subscribe(name, 1, group=number % 3))
    return driver


def test_taking_a_view_calls_as_much_whatever_the_state_holds() -> None:
    """100,000 topics, each with a message and a consumer, took 240 ms."""
    small, large = (count_calls(grown(size).machine.snapshot)[0] for size in (10, 200))
    assert small == large


def busy() -> Driver:
    """At least one record of every kind that a view shows."""
    driver = Driver(sessions=4)
    driver.do(CreateExchange("e"))
    driver.do(CreateTopic("jobs"))
    driver.do(CreateTopic("least", TopicSettings("min", 10_000, 0, 0, False, False)))
    driver.do(CreateTopic("brief", TopicSettings(expires_ms=300)))
    driver.do(CreateTopic("mine", TopicSettings(exclusive=True)), session=2)
    for name in ("jobs", "least", "mine"):
        driver.do(Bind("e", name, name), session=2)
        driver.do(EnqueueMany(name, [NewMessage(b"x", number % 3, 9 * (number % 2)) for number in range(20)]))
    driver.do(Subscribe("jobs", 3, lease_ms=50))
    driver.do(Subscribe("jobs", 2, group=1))
    driver.do(Subscribe("least", 2, group=1))
    driver.do(Subscribe("mine", 5), session=2)
    driver.do(Pop("least", 30, wait_ms=900), session=3)
    driver.detach(2)
    driver.taken()
    return driver


def do(*commands: Any, session: int = 1) -> Callable[[Driver], Any]:
    return lambda driver: [driver.do(command, session) for command in commands]


CHANGES: dict[str, Callable[[Driver], Any]] = {
    "a topic is taken over": do(CreateTopic("mine", TopicSettings(exclusive=True)), session=4),
    "a topic is deleted": do(DeleteTopic("jobs")),
    "a topic is emptied": do(Purge("jobs"), EnqueueMany("jobs", [NewMessage(b"new")] * 9)),
    "a topic is used": do(Subscribe("brief", 1)),
    "a topic is made": do(CreateTopic("new"), Bind("e", "new"), DeleteExchange("e")),
    "messages are delivered": do(SetCredit(1, 9)),
    "leases end": do(Ack([(number, 1) for number in range(1, 90)])),
    "leases go back": do(Nack([(number, 1) for number in range(1, 90)], 5)),
    "leases are extended": do(Extend([(number, 1) for number in range(1, 90)], 999)),
    "leases are given back": do(Recover([1, 2, 3])),
    "the credit of a group grows": do(SetCredit(0, 7, 0, 1)),
    "the credit of a group shrinks": do(SetCredit(0, 1, 0, 1)),
    "a consumer joins a group": do(Subscribe("jobs", 4, group=1)),
    "a group is made": do(Subscribe("jobs", 4, group=2)),
    "consumers leave": do(Cancel(1, True), Cancel(2, True), Cancel(3)),
    "time passes": lambda driver: [driver.wait(step) for step in (5, 20, 400, 900)],
    "a session loses its connection": lambda driver: driver.detach(1),
    "a session comes back": lambda driver: driver.attach(2),
    "a session ends": lambda driver: driver.expire(1),
    "an owner ends": lambda driver: driver.expire(2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_view_shows_nothing_of_what_happens_after_it(change: Callable[[Driver], Any]) -> None:
    driver = busy()
    before, view = b"".join(driver.machine.snapshot()), driver.machine.snapshot()
    change(driver)
    driver.work_off(3)
    assert b"".join(driver.machine.snapshot()) != before
    assert b"".join(view) == before


def test_a_piece_in_which_little_is_found_is_cut_short() -> None:
    driver = Driver()
    driver.do(CreateTopic("q"))
    for _ in range(6):
        driver.do(EnqueueMany("q", [NewMessage(b"x")] * 10_000))
    driver.do(EnqueueMany("q", [NewMessage(b"x", delay_ms=50)]))
    pieces, costs = driver.machine.snapshot(), []
    piece: bytes | None = b""
    while piece is not None:
        calls, piece = count_calls(lambda: next(pieces, None))
        costs.append(calls)
    assert max(costs) < 8 * IDS_PER_PAUSE


@pytest.mark.parametrize("command", [Purge("q"), DeleteTopic("q")])
def test_purged_messages_are_freed_when_no_view_reads_them(command: Purge | DeleteTopic) -> None:
    driver = Driver()
    empty = driver.machine.memory_bytes()
    driver.do(CreateTopic("q"))
    driver.do(EnqueueMany("q", [NewMessage(b"x" * 100)] * 5000))
    before, view = b"".join(driver.machine.snapshot()), driver.machine.snapshot()
    driver.do(command)
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() > empty + 5000 * 100
    assert b"".join(view) == before
    del view
    driver.work_off(PLENTY)
    driver.do(DeleteTopic("q")) if command == Purge("q") else None
    assert driver.machine.memory_bytes() == empty


def test_a_view_that_is_given_up_leaves_nothing() -> None:
    driver = grown(5)
    view = driver.machine.snapshot()
    assert len(driver.machine._state.views) == 1
    next(view)
    del view
    assert driver.machine._state.views == []


def test_ids_of_messages_that_are_gone_are_swept_up() -> None:
    driver = Driver()
    driver.do(CreateTopic("q"))
    driver.do(EnqueueMany("q", [NewMessage(b"x")] * 10_000))
    arrivals = driver.machine._state.topics["q"].arrivals
    assert arrivals.entries() == 10_000
    driver.do(Subscribe("q", 100))
    for _ in range(100):
        driver.do(Ack([token(one) for one in driver.deliveries()]))
        driver.work_off(PLENTY)
    assert driver.info("q").ready == 0
    assert arrivals.entries() < 2000
    driver.do(EnqueueMany("q", [NewMessage(b"x", delay_ms=9)] * 10_000))
    driver.do(Purge("q"))
    driver.work_off(PLENTY)
    assert arrivals.entries() < 600


def settled_under_a_view(is_written: bool) -> tuple[Driver, list[int]]:
    """All messages are settled while a view is open. Returns the bytes of each piece that was written after that."""
    driver = Driver()
    driver.do(CreateTopic("q"))
    driver.do(EnqueueMany("q", [NewMessage(b"x")] * 5000))
    view = driver.machine.snapshot()
    driver.do(Pop("q", 5000))
    driver.work_off(PLENTY)
    driver.do(Ack([token(one) for one in driver.deliveries()]))
    return driver, [len(piece) for piece in view] if is_written else []


def test_what_a_view_kept_is_freed_in_portions_when_it_is_written() -> None:
    driver, pieces = settled_under_a_view(True)
    end = len(pieces) - pieces[::-1].index(next(size for size in reversed(pieces) if size))
    assert len(pieces) - end >= 5000 // FREED_AT_ONCE
    assert driver.machine._state.unfreed == []


def test_what_a_view_kept_is_freed_as_postponed_work_when_it_is_given_up() -> None:
    driver, _ = settled_under_a_view(False)
    assert driver.machine.backlog()
    assert driver.work_off(500) >= 5000 // 500
    assert driver.machine._state.unfreed == []
