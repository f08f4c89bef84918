"""A state that was replaced is freed in slices, each of a bounded number of bytes."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import pairwise

import pytest

from disheap.errors import SnapshotDamaged
from disheap.interfaces import Principal
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage, TopicSettings
from disheap_heap.snapshots.snapshot import PIECE_BYTES
from disheap_heap.state.state import State

from .driver import PLENTY, Driver

FREED_MAX = 2_500_000
"""The bytes that one slice may free: 1,000 records, or the empty tables at the end. The whole state takes
12,600,000."""


def large() -> Driver:
    """Every kind of record, thousands of most."""
    driver = Driver(sessions=300)
    for number in range(300):
        driver.do(broker.CreateTopic(f"t{number}", TopicSettings(exclusive=number % 50 == 0)), 1 + number)
    driver.do(broker.CreateTopic("dropping", TopicSettings(max_messages=900, overflow="drop")))
    driver.do(broker.CreateTopic("jobs"))
    for kind in ("direct", "fanout", "topic"):
        driver.do(broker.CreateExchange(kind, kind))
        for number in range(1, 300):
            driver.do(broker.Bind(kind, f"t{number}", f"a.{number}.*.#"), 1 + number)
    for topic in ("jobs", "jobs", "t1", "dropping"):
        driver.do(broker.EnqueueMany(topic, [NewMessage(b"x" * 50, number % 7) for number in range(10_000)]), 2)
    driver.do(broker.EnqueueMany("t3", [NewMessage(b"x" * 50, 0, 1000, 9000)] * 5_000), 4)
    for number in range(20):
        driver.do(broker.Publish("fanout", "", NewMessage(b"y" * 5_000 + bytes([number]))))
    for session in range(1, 301):
        driver.do(broker.Subscribe("jobs", 20, group=session % 3), session)
    driver.do(broker.Purge("t1"), 2)
    driver.do(broker.DeleteExchange("direct"))
    driver.work_off(PLENTY // 10)
    driver.taken()
    return driver


def traced() -> int:
    return tracemalloc.get_traced_memory()[0]


@pytest.fixture
def traced_driver() -> Driver:
    gc.collect()
    tracemalloc.start()
    try:
        yield large()  # type: ignore[misc]
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_discarded_state_is_freed_in_slices_and_nothing_is_left(traced_driver: Driver) -> None:
    before = traced()
    gc.disable()
    freed, at = [], before
    for _ in traced_driver.machine.discarding():
        now = traced()
        freed.append(at - now)
        at = now
    freed.append(at - traced())
    assert len(freed) > 40
    assert max(freed) < FREED_MAX
    assert traced() < FREED_MAX, "what is left is freed in one step, or never"


def test_the_estimate_falls_with_what_is_freed() -> None:
    """The node returns freed memory to the system in steps, and goes by the estimate."""
    driver = large()
    estimates = [driver.machine.memory_bytes()]
    for _ in driver.machine.discarding():
        estimates.append(driver.machine.memory_bytes())
    estimates.append(driver.machine.memory_bytes())
    falls = [before - after for before, after in pairwise(estimates)]
    assert min(estimates) >= 0 and estimates[-1] < estimates[0] / 100
    assert max(falls) < estimates[0] / 4, "in steps"


@pytest.mark.parametrize("cut", [1, 40_000])
def test_what_was_built_of_a_damaged_snapshot_is_not_freed_in_one_step(
    traced_driver: Driver, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step holds the interpreter, and the node's loop waits although it runs on another thread."""
    snapshot, fresh = b"".join(traced_driver.machine.snapshot())[:-cut], Driver().machine
    pieces = [snapshot[start : start + PIECE_BYTES] for start in range(0, len(snapshot), PIECE_BYTES)]
    gc.disable()
    before, at = traced(), list[int]()
    monkeypatch.setattr(State, "__del__", lambda state: at.append(traced()))
    try:
        fresh.restore(pieces)
    except SnapshotDamaged:
        pass
    else:
        raise AssertionError("the snapshot that was cut was not refused")
    assert len(at) == 1
    assert at[0] - traced() < FREED_MAX
    assert traced() - before < FREED_MAX, "something of it is left"


def test_large_payloads_are_freed_in_more_slices() -> None:
    """The operating system takes 30 us to take a megabyte back."""
    driver = Driver()
    driver.do(broker.CreateTopic("jobs"))
    for number in range(50):
        driver.do(broker.Enqueue("jobs", NewMessage(bytes([number]) * (8 << 20))))
    assert sum(1 for _ in driver.machine.discarding()) >= 6


def test_nothing_is_freed_while_a_view_is_open() -> None:
    driver = large()
    expected, view = b"".join(driver.machine.snapshot()), driver.machine.snapshot()
    slices = driver.machine.discarding()
    shown = [next(view)]
    for piece in view:
        next(slices)
        shown.append(piece)
    assert b"".join(shown) == expected
    del view
    assert sum(1 for _ in slices) > 40


def test_what_waits_to_be_freed_is_freed_with_the_state() -> None:
    """Purged messages, an exchange that was deleted, and a session that is ending."""
    driver = Driver()
    driver.machine.session_opened(9, Principal())
    driver.do(broker.CreateTopic("jobs"))
    driver.do(broker.CreateExchange("e", "topic"))
    driver.do(broker.Bind("e", "jobs", "a.b"))
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 2000))
    for _ in range(600):
        driver.do(broker.Subscribe("jobs", 1), 9)
    driver.work_off(PLENTY)
    driver.expire(9)
    driver.do(broker.Purge("jobs"))
    driver.do(broker.DeleteExchange("e"))
    state = driver.machine._state
    assert state.ending and state.unfreed
    for _ in driver.machine.discarding():
        pass
    assert not (state.ending or state.unfreed or state.topics or state.leases or state.consumers or len(state.timers))
