"""Order, turns and credit (docs/reference/topics-and-messages.md): which message goes to whom, and when."""

from __future__ import annotations

import pytest

from disheap.protocol import broker
from disheap.protocol.broker import (
    Ack,
    Cancel,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Pop,
    PopDone,
    SetCredit,
    Subscribe,
    TopicSettings,
)

from .driver import Driver, token


@pytest.fixture
def jobs() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    return driver


def put(driver: Driver, *priorities: int) -> None:
    for priority in priorities:
        driver.do(Enqueue("jobs", NewMessage(str(priority).encode(), priority)))


def popped(driver: Driver, count: int = 100) -> list[bytes]:
    driver.do(Pop("jobs", count, no_ack=True))
    return driver.payloads()


def test_the_largest_priority_comes_first_and_equals_in_order_of_enqueueing(jobs: Driver) -> None:
    for name, priority in ((b"a", 1), (b"b", 5), (b"c", 1), (b"d", 5), (b"e", -3)):
        jobs.do(Enqueue("jobs", NewMessage(name, priority)))
    assert popped(jobs) == [b"b", b"d", b"a", b"c", b"e"]


def test_in_mode_min_the_smallest_priority_comes_first() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs", TopicSettings(mode="min")))
    put(driver, 5, -2, 7)
    assert popped(driver) == [b"-2", b"5", b"7"]


def test_priorities_span_all_64_bits(jobs: Driver) -> None:
    put(jobs, 0, broker.PRIORITY_MIN, broker.PRIORITY_MAX, broker.PRIORITY_MAX - 1)
    jobs.do(Pop("jobs", 4))
    assert [one.priority for one in jobs.deliveries()] == [
        broker.PRIORITY_MAX,
        broker.PRIORITY_MAX - 1,
        0,
        broker.PRIORITY_MIN,
    ]


def test_a_message_that_is_given_back_keeps_its_place(jobs: Driver) -> None:
    put(jobs, 1, 1, 1)
    jobs.do(Pop("jobs", 1))
    (first,) = jobs.deliveries()
    jobs.do(Nack([token(first)]))
    jobs.do(Pop("jobs", 3))
    assert [(one.id, one.epoch) for one in jobs.deliveries()] == [(1, 2), (2, 1), (3, 1)]


def test_a_delayed_message_waits_and_then_ranks_by_when_it_was_enqueued(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"early", 0, delay_ms=100)))
    jobs.do(Enqueue("jobs", NewMessage(b"late")))
    jobs.wait(99)
    assert jobs.info().delayed == 1
    jobs.wait(1)
    assert popped(jobs) == [b"early", b"late"]


def test_a_waiting_consumer_gets_a_message_inside_the_enqueue(jobs: Driver) -> None:
    jobs.do(Subscribe("jobs", 1), session=2)
    reply = jobs.do(Enqueue("jobs", NewMessage(b"x", 7)))
    assert jobs.pushed == [(2, broker.Deliver(1, reply.id, 1, 7, 0, b"x"))]


def test_consumers_take_turns(jobs: Driver) -> None:
    for session in (1, 2):
        jobs.do(Subscribe("jobs", 10), session)
    put(jobs, *range(4))
    assert [one.consumer for one in jobs.deliveries()] == [1, 2, 1, 2]


def test_a_consumer_without_credit_misses_its_turn_and_joins_at_the_end(jobs: Driver) -> None:
    jobs.do(Subscribe("jobs", 1))
    jobs.do(Subscribe("jobs", 2), session=2)
    put(jobs, 3, 2, 1, 0)
    first, *others = jobs.deliveries()
    assert [one.consumer for one in others] == [2, 2]
    jobs.do(Ack([token(first)]))
    assert [(one.consumer, one.priority) for one in jobs.deliveries()] == [(1, 0)]


def test_credit_bounds_what_a_consumer_holds(jobs: Driver) -> None:
    put(jobs, *range(5))
    jobs.do(Subscribe("jobs", 2))
    held = jobs.deliveries()
    assert len(held) == 2
    jobs.do(Ack([token(held[0]), token(held[1])]))
    assert len(jobs.deliveries()) == 2


def test_credit_in_bytes_stops_at_the_bound_and_lets_one_large_message_pass(jobs: Driver) -> None:
    jobs.do(Subscribe("jobs", 100, credit_bytes=10))
    for _ in range(3):
        jobs.do(Enqueue("jobs", NewMessage(b"x" * 50)))
    (large,) = jobs.deliveries()
    jobs.do(Ack([token(large)]))
    assert len(jobs.deliveries()) == 1
    assert jobs.info().ready == 1


def test_credit_can_be_raised_and_lowered_while_messages_are_held(jobs: Driver) -> None:
    put(jobs, *range(6))
    jobs.do(Subscribe("jobs", 1))
    jobs.do(SetCredit(1, 3))
    held = jobs.deliveries()
    assert len(held) == 3
    jobs.do(SetCredit(1, 1))
    jobs.do(Ack([token(held[0]), token(held[1])]))
    assert jobs.deliveries() == []
    jobs.do(Ack([token(held[2])]))
    assert len(jobs.deliveries()) == 1


def test_a_no_ack_consumer_gets_everything_and_holds_nothing(jobs: Driver) -> None:
    put(jobs, 1, 2)
    jobs.do(Subscribe("jobs", 1, no_ack=True))
    put(jobs, 3)
    deliveries = jobs.deliveries()
    assert [(one.priority, one.epoch) for one in deliveries] == [(2, 0), (1, 0), (3, 0)]
    assert (jobs.info().leased, jobs.info().ready) == (0, 0)
    assert jobs.do(Ack([token(deliveries[0])])).stale == [token(deliveries[0])]


def test_a_batch_is_in_place_before_any_of_it_is_delivered(jobs: Driver) -> None:
    jobs.do(Subscribe("jobs", 2))
    reply = jobs.do(EnqueueMany("jobs", [NewMessage(b"low", 1), NewMessage(b"high", 9), NewMessage(b"mid", 5)]))
    assert (reply.first, reply.count) == (1, 3)
    assert jobs.payloads() == [b"high", b"mid"]


def test_a_pop_that_does_not_wait_ends_at_once_with_what_there_is(jobs: Driver) -> None:
    put(jobs, 1)
    ticket = jobs.do(Pop("jobs", 3)).consumer
    delivery, done = jobs.taken()
    assert delivery.consumer == ticket
    assert done == PopDone(ticket, 1)
    put(jobs, 2)
    assert jobs.taken() == []


def test_a_pop_that_waits_takes_what_comes_until_it_has_enough(jobs: Driver) -> None:
    ticket = jobs.do(Pop("jobs", 2, wait_ms=100)).consumer
    put(jobs, 1)
    jobs.wait(50)
    put(jobs, 2, 3)
    assert jobs.taken()[-1] == PopDone(ticket, 2)
    assert jobs.info().ready == 1
    jobs.wait(100)
    assert jobs.taken() == []


def test_a_pop_that_waits_ends_when_its_time_is_over(jobs: Driver) -> None:
    ticket = jobs.do(Pop("jobs", 2, wait_ms=100)).consumer
    assert jobs.machine.next_deadline() == 100
    jobs.wait(100)
    assert jobs.taken() == [PopDone(ticket, 0)]


def test_the_leases_of_a_pop_outlive_the_pop(jobs: Driver) -> None:
    put(jobs, 1)
    jobs.do(Pop("jobs", 1))
    (delivery,) = jobs.deliveries()
    assert jobs.info().leased == 1
    assert jobs.do(Ack([token(delivery)])).count == 1
    assert jobs.machine.stats()["consumers"] == 0


def test_a_cancelled_pop_gets_nothing_more(jobs: Driver) -> None:
    ticket = jobs.do(Pop("jobs", 1, wait_ms=100)).consumer
    jobs.do(Cancel(ticket))
    put(jobs, 1)
    jobs.wait(200)
    assert jobs.taken() == []


def test_a_message_not_delivered_in_time_is_dropped(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", expires_ms=10)))
    jobs.do(Enqueue("jobs", NewMessage(b"delayed", delay_ms=100, expires_ms=20)))
    jobs.wait(9)
    assert jobs.info().ready == 1
    jobs.wait(1)
    assert (jobs.info().ready, jobs.info().delayed) == (0, 1)
    jobs.wait(10)
    assert jobs.info().delayed == 0
    assert jobs.machine.stats()["expired"] == 2
    assert jobs.machine.stats()["timers"] == 0


def test_a_topics_own_expiry_holds_for_messages_that_bring_none() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs", TopicSettings(message_ttl_ms=10)))
    driver.do(Enqueue("jobs", NewMessage(b"short")))
    driver.do(Enqueue("jobs", NewMessage(b"long", expires_ms=50)))
    driver.wait(10)
    assert popped(driver) == [b"long"]


def test_a_delayed_message_that_expires_first_never_becomes_ready(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", delay_ms=100, expires_ms=20)))
    assert jobs.machine.next_deadline() == 20
    twin = jobs.restored()
    for driver in (jobs, twin):
        driver.wait(200)
        assert (driver.info().ready, driver.info().delayed) == (0, 0)
        assert driver.machine.next_deadline() is None
    assert jobs.machine.state_hash() == twin.machine.state_hash()


def test_a_delayed_message_expires_after_it_became_ready(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", delay_ms=20, expires_ms=100)))
    assert jobs.machine.next_deadline() == 20
    jobs.wait(20)
    twin = jobs.restored()
    for driver in (jobs, twin):
        assert (driver.info().ready, driver.machine.next_deadline()) == (1, 100)
        driver.wait(80)
        assert (driver.info().ready, driver.machine.stats()["expired"]) == (0, 1)


def test_a_leased_message_expires_when_it_is_given_back_too_late(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", expires_ms=10)))
    jobs.do(Pop("jobs", 1))
    (delivery,) = jobs.deliveries()
    jobs.wait(10)
    assert jobs.info().leased == 1
    jobs.do(Nack([token(delivery)]))
    assert (jobs.info().leased, jobs.info().ready) == (0, 0)


def test_a_message_that_is_given_back_still_expires_in_time(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", expires_ms=10)))
    jobs.do(Pop("jobs", 1))
    (delivery,) = jobs.deliveries()
    jobs.wait(5)
    jobs.do(Nack([token(delivery)]))
    jobs.wait(4)
    assert jobs.info().ready == 1
    jobs.wait(1)
    assert jobs.info().ready == 0


def test_messages_due_together_are_delivered_by_priority(jobs: Driver) -> None:
    jobs.do(Subscribe("jobs", 2))
    for priority in (1, 9, 5):
        jobs.do(Enqueue("jobs", NewMessage(b"x", priority, delay_ms=10)))
    jobs.wait(10)
    assert [one.priority for one in jobs.deliveries()] == [9, 5]


def test_a_message_due_earlier_is_delivered_before_a_deadline_ends_the_pop(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", delay_ms=10)))
    ticket = jobs.do(Pop("jobs", 1, wait_ms=20)).consumer
    jobs.wait(1000)
    assert jobs.taken()[-1] == PopDone(ticket, 1)
