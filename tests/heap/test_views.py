"""Views of the state: taken with bounded work, written in bounded pieces, and closed completely."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from disheap.protocol.broker import (
    TOKENS_MAX,
    Abort,
    Ack,
    Batch,
    Bind,
    Cancel,
    Confirm,
    CreateExchange,
    CreateTopic,
    DeleteExchange,
    DeleteTopic,
    EnqueueMany,
    Extend,
    Nack,
    NewMessage,
    Overtake,
    Pop,
    Prepare,
    Publish,
    Purge,
    Recover,
    SetCredit,
    Subscribe,
    TopicSettings,
)
from disheap_heap.state.footprint import OUTBOX_BYTES
from disheap_heap.state.kept import KeptLeases
from disheap_heap.state.state import Resend
from disheap_heap.state.view import FREED_AT_ONCE, IDS_PER_PAUSE
from disheap_heap.state.views import open_view
from disheap_heap.tables.arrivals import CHUNK
from tests.support.memory import peak_bytes

from .driver import PLENTY, Driver, token


def count_calls(call: Callable[[], Any]) -> tuple[int, Any]:
    """The number of function calls, functions in C included, and the result."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # libraries call functions of their own when rubbish is collected
    sys.setprofile(count)
    try:
        result = call()
    finally:
        sys.setprofile(None)
        gc.enable()
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


def with_decisions(groups: int, transactions: int) -> Driver:
    """Aborted transactions whose participants have not confirmed it yet."""
    driver = Driver(outbox_messages=2000)
    for number in range(transactions):
        driver.do(Prepare(f"{number}", 1, 1000, [Publish("", "q", NewMessage(b"x"))], list(range(1, groups + 1))))
        driver.do(Abort(f"{number}", 1))
    return driver


def test_taking_a_view_copies_no_message_for_another_group() -> None:
    """63,000 of them took 37 to 52 ms."""
    few, many = with_decisions(3, 10), with_decisions(3, 500)
    small, large = (peak_bytes(lambda one=one: open_view(one.machine._state)) for one in (few, many))
    assert large - small < 100 * 500  # a reference to each outcome, and to each chunk


def test_messages_that_are_confirmed_under_a_view_are_counted_and_freed() -> None:
    driver = with_decisions(2, 1500)
    expected = b"".join(driver.machine.snapshot())
    views = [driver.machine.snapshot() for _ in range(2)]
    before = driver.machine.memory_bytes()
    for group in (1, 2):
        driver.do(Confirm(group, 1000), session=0)
    driver.do(Prepare("new", 1, 1000, [Publish("", "q", NewMessage(b"x"))], [1, 2]))
    driver.do(Abort("new", 1))
    assert abs(driver.machine.memory_bytes() - before) < 2000
    pieces = list(views.pop(0))
    assert b"".join(pieces) == expected
    assert pieces[::-1].index(next(piece for piece in reversed(pieces) if piece)) >= 2 * 1500 // FREED_AT_ONCE
    views.clear()
    driver.work_off(100)
    assert driver.machine._state.unfreed == []
    assert abs(before - driver.machine.memory_bytes() - 2 * 1000 * OUTBOX_BYTES) < 2000


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
    "a group asks for more": do(Overtake(1, 0)),
    "a group is sent more": do(Overtake(1, 0), EnqueueMany("jobs", [NewMessage(b"x", 9)] * 2)),
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


def leased(count: int, consumers: int = 1) -> Driver:
    """Each consumer holds so many messages."""
    driver = Driver()
    driver.do(CreateTopic("q"))
    for _ in range(consumers):
        driver.do(Subscribe("q", count))
        driver.do(EnqueueMany("q", [NewMessage(b"x")] * count))
        driver.work_off(PLENTY)
    driver.taken()
    return driver


FIRST_CHANGES = {
    "acknowledged": Ack([(1, 1)]),
    "given back": Nack([(1, 1)]),
    "given back later": Nack([(1, 1)], 1000),
    "extended": Extend([(1, 1)], 1000),
    "delivered": EnqueueMany("q", [NewMessage(b"x")]),
}


@pytest.mark.parametrize("change", FIRST_CHANGES.values(), ids=FIRST_CHANGES.keys())
def test_a_change_under_a_view_copies_no_other_lease_of_the_consumer(change: Any) -> None:
    """The ids of all leases were copied: 0.5 ms for each consumer with 65,535. Both states have several partitions of
    leases, of which a change may copy one."""

    def peak(leases: int) -> int:
        driver = leased(leases)
        driver.do(SetCredit(1, leases + 1))
        view = driver.machine.snapshot()
        peak = peak_bytes(lambda: driver.do(change))
        del view
        return peak

    few, many = peak(1_000), peak(10_000)
    assert many < few + 8_000, "8 bytes for each lease are a copy of all"


def test_a_batch_under_a_view_copies_no_leases_that_it_does_not_settle() -> None:
    def peak(leases: int) -> int:
        driver = leased(leases, consumers=50)
        view = driver.machine.snapshot()
        tokens = [(1 + leases * number, 1) for number in range(50)]
        peak = peak_bytes(lambda: driver.do(Batch([Ack(tokens)])))
        del view
        return peak

    few, many = peak(10), peak(400)
    assert many < few + 50 * 400


def most_calls_of_a_piece(pieces: Any) -> int:
    costs, piece = [], b""
    while piece is not None:
        calls, piece = count_calls(lambda: next(pieces, None))
        costs.append(calls)
    return max(costs)


def test_a_piece_is_cut_short_when_many_topics_have_nothing_to_show() -> None:
    """The pause came after the ids of 2,048 topics, each of which had fewer than 2,048."""
    driver = Driver()
    for number in range(40):
        driver.do(CreateTopic(f"t{number}"))
        driver.do(EnqueueMany(f"t{number}", [NewMessage(b"x", delay_ms=50)] * 1000))
    assert most_calls_of_a_piece(driver.machine.snapshot()) < 8 * (IDS_PER_PAUSE + CHUNK)


def test_a_piece_is_cut_short_when_consumers_have_only_later_leases() -> None:
    """Their messages were ready when the view was opened."""
    driver = Driver()
    driver.do(CreateTopic("q"))
    driver.do(EnqueueMany("q", [NewMessage(b"x")] * 10_000))
    for _ in range(20):
        driver.do(Subscribe("q", 1))
    view = open_view(driver.machine._state)
    for number in range(20):
        driver.do(SetCredit(number + 1, 500))
    driver.work_off(PLENTY)
    looked = sum(len(consumer.leases) for consumer in driver.machine._state.consumers.values())
    assert looked == 10_000
    shown = list(view.leases())
    assert len(shown) - shown.count(None) == 20, "only the leases of before the view"
    assert shown.count(None) >= looked // (2 * IDS_PER_PAUSE)


def test_leases_that_a_view_kept_are_found_in_the_order_of_their_grants() -> None:
    driver = leased(300, consumers=2)
    before, view = b"".join(driver.machine.snapshot()), driver.machine.snapshot()
    for number in (250, 3, 599, 100, 2, 300, 301):
        driver.do(Ack([(number, 1)]))
    driver.do(Extend([(number, 1) for number in (299, 5, 598)], 77))
    driver.do(EnqueueMany("q", [NewMessage(b"later")] * 9))
    assert b"".join(view) == before


def test_a_restored_consumer_counts_its_leases_anew() -> None:
    driver = leased(300)
    driver.do(Ack([(number, 1) for number in range(100, 200)]))
    twin = driver.restored()
    twin.do(EnqueueMany("q", [NewMessage(b"x")] * 50))
    (consumer,) = twin.machine._state.consumers.values()
    orders = [lease.order for lease in consumer.leases.values()]
    assert orders == sorted(set(orders))
    assert orders[-1] < consumer.delivered


def test_a_piece_in_which_little_is_found_is_cut_short() -> None:
    driver = Driver()
    driver.do(CreateTopic("q"))
    for _ in range(6):
        driver.do(EnqueueMany("q", [NewMessage(b"x")] * 10_000))
    driver.do(EnqueueMany("q", [NewMessage(b"x", delay_ms=50)]))
    assert most_calls_of_a_piece(driver.machine.snapshot()) < 8 * IDS_PER_PAUSE


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
    tokens = [token(one) for one in driver.deliveries()]
    for start in range(0, len(tokens), TOKENS_MAX):
        driver.do(Ack(tokens[start : start + TOKENS_MAX]))
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


def test_leases_that_a_view_kept_are_freed_one_by_one() -> None:
    """A table whose rows were lists of leases was freed by a thousand lists at once."""
    driver = leased(50, consumers=3)
    kept, leases = KeptLeases[Any](), list(driver.machine._state.leases.values())
    for lease in leases:
        kept.add(lease)
    freed = []
    while kept:
        left = len(kept)
        freed.append(kept.popitem())
        assert len(kept) == left - 1
    assert sorted(freed, key=id) == sorted(leases, key=id)


def come_back(driver: Driver) -> Resend:
    """Session 1 has lost its connection and comes back, and is sent its leases again."""
    driver.detach(1)
    driver.attach(1)
    resend = driver.machine._state.sessions[1].resend
    assert resend is not None
    return resend


def test_the_tokens_of_a_long_resend_are_freed_in_slices() -> None:
    """Seven million of them took 200 ms in one step."""
    driver = leased(10_000)
    resend = come_back(driver)
    tokens = len(resend.tokens)
    assert tokens == 10_000
    driver.detach(1)
    assert len(resend.tokens) == tokens
    while driver.machine.backlog():
        driver.machine.advance(driver.now, 500)
        assert tokens - len(resend.tokens) <= 500
        tokens = len(resend.tokens)
    assert tokens == 0


def test_the_tokens_of_a_resend_stay_while_a_view_reads_them() -> None:
    driver = leased(10_000)
    resend = come_back(driver)
    before, view = b"".join(driver.machine.snapshot()), driver.machine.snapshot()
    memory_bytes = driver.machine.memory_bytes()
    driver.detach(1)
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() >= memory_bytes
    assert b"".join(view) == before
    driver.work_off(PLENTY)
    assert not resend.tokens
