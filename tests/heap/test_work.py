"""The work limit: no call does more than its limit, and postponed work is state like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from disheap.protocol.broker import (
    Ack,
    Bind,
    Cancel,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Pop,
    PopDone,
    Publish,
    Purge,
    Recover,
    Subscribe,
    TopicSettings,
)
from disheap_heap.settings import (
    MAX_DELIVERIES_PER_CALL,
    MAX_PUSH_BYTES_PER_CALL,
    STEPS_PER_UNIT,
    WORDS_PER_UNIT,
)
from tests.support.calls import CallCounter

from .driver import PLENTY, Driver, token
from .large_states import MANY, come_back_with_many_leases, end_a_session_that_has_much, fan_out, filled


def test_a_subscription_is_served_in_slices() -> None:
    driver = filled()
    driver.do(Subscribe("jobs", MANY))
    first = driver.deliveries()
    assert len(first) == MAX_DELIVERIES_PER_CALL
    driver.work_off(100)
    rest = driver.deliveries()
    assert len(first) + len(rest) == MANY
    assert [(-one.priority, one.id) for one in first + rest] == sorted((-one.priority, one.id) for one in first + rest)


def test_a_no_ack_subscription_is_served_in_slices() -> None:
    driver = filled()
    driver.do(Subscribe("jobs", 1, no_ack=True))
    assert len(driver.deliveries()) == MAX_DELIVERIES_PER_CALL
    assert driver.work_off(PLENTY) == 1
    assert (len(driver.deliveries()), driver.info().ready) == (MANY - MAX_DELIVERIES_PER_CALL, 0)


@pytest.mark.parametrize("asked", [MANY - 1, MANY, MANY + 1])
@pytest.mark.parametrize("limit", [100, PLENTY])
def test_a_large_pop_is_served_in_slices_and_ends_when_it_has_what_there_was(asked: int, limit: int) -> None:
    driver = filled()
    driver.wait(1)
    driver.do(Pop("jobs", asked))
    assert len(driver.taken()) == MAX_DELIVERIES_PER_CALL
    twin = driver.restored()
    for one in (driver, twin):
        one.work_off(limit)
        *deliveries, done = one.taken()
        assert len(deliveries) == min(asked, MANY) - MAX_DELIVERIES_PER_CALL
        assert done == PopDone(1, min(asked, MANY))
    assert driver.machine.next_deadline() is None
    assert driver.machine.state_hash() == twin.machine.state_hash()


def test_a_message_for_many_topics_is_delivered_in_slices() -> None:
    driver = Driver()
    fan_out(driver)
    driver.do(Publish("all", "", NewMessage(b"x")))
    assert len(driver.deliveries()) == MAX_DELIVERIES_PER_CALL
    driver.work_off(100)
    assert len(driver.deliveries()) == MANY - MAX_DELIVERIES_PER_CALL


def test_messages_that_fall_due_together_are_worked_off_in_slices() -> None:
    driver = filled(1000, delay_ms=50)
    assert driver.wait(50, limit=0) == 0
    assert driver.work_off(100) == 10
    assert driver.info().ready == 1000
    assert driver.machine.next_deadline() is None


def test_due_and_expired_messages_share_the_limit_in_order_of_their_deadlines() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", 0, 10), NewMessage(b"x", 0, 0, 20), NewMessage(b"x", 0, 30)]))
    assert driver.wait(30, limit=2) == 2
    assert (driver.info().ready, driver.info().delayed) == (1, 1)
    assert driver.machine.backlog()
    assert driver.wait(0) == 1
    assert not driver.machine.backlog()


def test_a_recovering_consumer_gets_nothing_new_before_it_gave_all_back() -> None:
    driver = filled(MANY + 5)
    driver.do(Subscribe("jobs", MANY))
    driver.work_off(PLENTY)
    driver.taken()
    driver.do(Recover([1]))
    driver.wait(0, limit=10)
    assert driver.deliveries() == []
    driver.work_off(100)
    again = driver.deliveries()
    assert len(again) == MANY
    assert {one.epoch for one in again} == {2}


def test_a_lease_may_be_settled_while_it_waits_to_be_given_back() -> None:
    driver = filled()
    driver.do(Subscribe("jobs", MANY))
    driver.work_off(PLENTY)
    last = driver.deliveries()[-1]
    driver.do(Recover([1]))
    assert driver.do(Ack([token(last)])).count == 1
    driver.work_off(1000)
    assert last.id not in [one.id for one in driver.deliveries()]


@pytest.mark.parametrize("command", [Purge("jobs"), DeleteTopic("jobs")])
def test_purged_messages_are_invisible_at_once_and_freed_in_slices(command: Purge | DeleteTopic) -> None:
    driver = filled(1000, expires_ms=50)
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", 0, 70, 90)] * 500))
    assert driver.do(command).count == 1500
    assert driver.machine.stats()["message_bytes"] == 0
    assert driver.machine.backlog()
    assert driver.work_off(100) >= 15
    assert driver.machine.stats()["timers"] == 0


def test_what_is_freed_counts_as_work() -> None:
    driver = filled(1000)
    driver.do(Purge("jobs"))
    before = driver.machine.work_done()
    driver.work_off(100)
    assert driver.machine.work_done() - before >= 1000


def test_timers_of_purged_messages_find_nothing() -> None:
    driver = filled(100, delay_ms=50, expires_ms=60)
    driver.do(Purge("jobs"))
    driver.do(Enqueue("jobs", NewMessage(b"kept")))
    assert driver.wait(100, limit=1) == 0
    assert driver.info().ready == 1


def test_topics_that_wait_to_be_served_take_turns() -> None:
    driver = Driver()
    for name in ("a", "b"):
        driver.do(CreateTopic(name))
        driver.do(EnqueueMany(name, [NewMessage(b"x")] * MANY))
        driver.do(Subscribe(name, MANY))
    driver.taken()
    driver.wait(0, limit=2 * MAX_DELIVERIES_PER_CALL)
    consumers = [one.consumer for one in driver.deliveries()]
    assert (consumers.count(1), consumers.count(2)) == (MAX_DELIVERIES_PER_CALL, MAX_DELIVERIES_PER_CALL)


def test_advancing_when_nothing_is_due_does_nothing() -> None:
    driver = filled(10, delay_ms=50)
    before = driver.machine.stats()
    assert driver.wait(49) == 0
    assert driver.machine.stats() == before


@pytest.mark.parametrize("command", [Purge("jobs"), DeleteTopic("jobs")])
def test_a_topic_without_messages_no_longer_waits_to_be_served(
    command: Purge | DeleteTopic,
) -> None:
    driver = filled()
    driver.do(Subscribe("jobs", MANY))
    assert driver.machine._state.unserved
    driver.do(command)
    assert not driver.machine._state.unserved
    assert driver.restored().machine.state_hash() == driver.machine.state_hash()


def subscribe(driver: Driver) -> None:
    driver.do(Subscribe("jobs", MANY))


def lose_a_session(driver: Driver) -> None:
    driver.do(Subscribe("jobs", MANY), session=2)
    driver.work_off(PLENTY)
    driver.do(Subscribe("jobs", 7))
    driver.expire(2)


def cancel(driver: Driver) -> None:
    driver.do(Subscribe("jobs", MANY))
    driver.work_off(PLENTY)
    driver.do(Cancel(1, give_back=True))


def delete(driver: Driver) -> None:
    driver.do(Subscribe("jobs", MANY))
    driver.work_off(PLENTY)
    driver.do(DeleteTopic("jobs"))


def recover(driver: Driver) -> None:
    driver.do(Subscribe("jobs", MANY))
    driver.work_off(PLENTY)
    driver.do(Recover([1]))


def fall_due(driver: Driver) -> None:
    driver.do(CreateTopic("later", TopicSettings(message_ttl_ms=30)))
    driver.do(Subscribe("later", 40))
    driver.do(EnqueueMany("later", [NewMessage(b"x", number % 5, 10 + number % 7) for number in range(200)]))
    driver.wait(40, limit=1)


@pytest.mark.parametrize(
    "start",
    [
        subscribe,
        lose_a_session,
        cancel,
        delete,
        recover,
        fall_due,
        end_a_session_that_has_much,
        pytest.param(come_back_with_many_leases, marks=pytest.mark.proof),
    ],
)
def test_a_replica_restored_amid_postponed_work_goes_on_in_step(start: Callable[[Driver], None]) -> None:
    driver = filled()
    start(driver)
    assert driver.machine.backlog()
    twin = driver.restored()
    driver.taken()
    for step in range(400):
        if step % 20 == 0:
            twin = driver.restored()
        units = [one.wait(0, limit=37) for one in (driver, twin)]
        assert units[0] == units[1] <= 37
        assert driver.taken() == twin.taken()
        assert driver.machine.state_hash() == twin.machine.state_hash()
        if not driver.machine.backlog():
            break
    assert not driver.machine.backlog()
    assert not twin.machine.backlog()


def test_one_call_pushes_a_bounded_number_of_bytes() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    size = MAX_PUSH_BYTES_PER_CALL // 8
    for _ in range(20):
        driver.do(Enqueue("jobs", NewMessage(b"x" * size)))
    driver.do(Subscribe("jobs", 100, 1 << 40))
    assert len(driver.deliveries()) == 8
    twin = driver.restored()
    for one in (driver, twin):
        one.wait(0)
        assert len(one.deliveries()) == 8
        one.wait(0)
        assert len(one.deliveries()) == 4
        assert not one.machine.backlog()
    assert driver.machine.state_hash() == twin.machine.state_hash()


def test_a_pop_gets_what_there_was_although_it_is_many_bytes() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    for _ in range(12):
        driver.do(Enqueue("jobs", NewMessage(b"x" * (MAX_PUSH_BYTES_PER_CALL // 8))))
    driver.do(Pop("jobs", 20))
    driver.work_off(PLENTY)
    *deliveries, done = driver.taken()
    assert (len(deliveries), done) == (12, PopDone(1, 12))


def test_work_that_was_done_is_counted_in_units() -> None:
    driver = Driver()
    done = driver.machine.work_done
    driver.do(CreateTopic("t"))
    driver.do(CreateExchange("e", "topic"))
    for number in range(100):
        driver.do(Bind("e", "t", f"{'*.' * (number % 10)}#.{number}"))
    bound = done()
    assert bound == 100 + sum((number % 10 + 1) // WORDS_PER_UNIT for number in range(100))
    key = ".".join(["a"] * 100)
    driver.do(Publish("e", key, NewMessage(b"x")))
    steps = driver.machine._state.exchanges["e"].index.steps
    assert steps > 900
    assert done() == bound + 1 + steps // STEPS_PER_UNIT
    driver.do(EnqueueMany("t", [NewMessage(b"x")] * 10))
    before = done()
    driver.do(Subscribe("t", 10))
    driver.do(Ack([(number, 1) for number in range(1, 11)]))
    driver.do(DeleteTopic("t"))
    assert done() - before == 10 + 10 + 1 + 1 + bound, "deliveries, leases, a topic, a consumer, bindings"


def test_timers_of_purged_messages_are_never_found_due() -> None:
    """Each took 3 us, however many there were: 300,000 messages that were purged just before they were due stopped the
    loop for 860 ms."""
    driver = Driver()
    for name in ("jobs", "other"):
        driver.do(CreateTopic(name))
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", 0, 1000, 5000)] * 5000))
    driver.do(Enqueue("other", NewMessage(b"y", 0, 1000)))
    driver.do(Purge("jobs"))
    driver.now += 2000
    with CallCounter(max_calls=500 * 60):
        driver.machine.advance(driver.now, 500)
    assert driver.info("other").ready == 1
    driver.work_off(PLENTY)
    assert driver.machine.next_deadline() is None
    assert len(driver.machine._state.timers) == 0
