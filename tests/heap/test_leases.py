"""Leases: tokens, epochs, attempts, and what settles them (docs/reference/topics-and-messages.md)."""

from __future__ import annotations

import pytest

from disheap.errors import ConsumerNotFound
from disheap.protocol.broker import (
    Ack,
    Cancel,
    CreateTopic,
    Deliver,
    Enqueue,
    Extend,
    Nack,
    NewMessage,
    Recover,
    Subscribe,
)

from .driver import Driver, token


@pytest.fixture
def jobs() -> Driver:
    driver = Driver(sessions=3)
    driver.do(CreateTopic("jobs"))
    return driver


def held(driver: Driver, count: int = 1, lease_ms: int = 0, session: int = 1) -> list[Deliver]:
    """Messages that a consumer with just enough credit holds."""
    for number in range(count):
        driver.do(Enqueue("jobs", NewMessage(b"x", -number)))
    driver.do(Subscribe("jobs", count, lease_ms=lease_ms), session)
    return driver.deliveries(session)


def test_an_acknowledged_message_is_gone(jobs: Driver) -> None:
    (one,) = held(jobs)
    assert (jobs.do(Ack([token(one)])).count, jobs.info().leased) == (1, 0)
    assert jobs.machine.stats()["message_bytes"] == 0


def test_a_second_ack_is_stale_and_does_nothing(jobs: Driver) -> None:
    (one,) = held(jobs)
    settled = jobs.do(Ack([token(one), token(one)]))
    assert (settled.count, settled.stale) == (1, [token(one)])
    assert jobs.do(Ack([token(one)])).stale == [token(one)]


def test_a_token_is_good_for_the_session_that_holds_the_lease_alone(jobs: Driver) -> None:
    (one,) = held(jobs)
    for command in (Ack([token(one)]), Nack([token(one)]), Extend([token(one)], 10)):
        assert jobs.do(command, session=2).stale == [token(one)]
    assert jobs.info().leased == 1


def test_a_token_of_an_earlier_epoch_is_stale(jobs: Driver) -> None:
    (one,) = held(jobs)
    jobs.do(Nack([token(one)]))
    (again,) = jobs.deliveries()
    assert (again.id, again.epoch) == (one.id, 2)
    assert jobs.do(Ack([token(one)])).stale == [token(one)]
    assert jobs.do(Ack([token(again)])).count == 1


def test_in_a_batch_each_token_counts_for_itself(jobs: Driver) -> None:
    first, second, third = held(jobs, 3)
    jobs.do(Nack([token(second)]))
    (again,) = jobs.deliveries()
    settled = jobs.do(Ack([token(first), token(second), (99, 1), token(third), token(third)]))
    assert (settled.count, settled.stale) == (2, [token(second), (99, 1), token(third)])
    assert jobs.do(Nack([token(again), token(second), token(again)])).stale == [token(second), token(again)]


def test_a_discarded_message_is_gone(jobs: Driver) -> None:
    (one,) = held(jobs)
    assert jobs.do(Nack([token(one)], discard=True)).count == 1
    assert (jobs.deliveries(), jobs.info().ready) == ([], 0)


def test_a_nack_with_a_delay_keeps_the_message_back(jobs: Driver) -> None:
    (one,) = held(jobs)
    jobs.do(Nack([token(one)], delay_ms=100))
    jobs.wait(99)
    assert (jobs.deliveries(), jobs.info().delayed) == ([], 1)
    jobs.wait(1)
    assert [again.epoch for again in jobs.deliveries()] == [2]


def test_a_batch_of_nacks_is_in_place_before_any_of_it_is_delivered_again(jobs: Driver) -> None:
    first, second = held(jobs, 2)
    jobs.do(Nack([token(second), token(first)]))
    assert [one.id for one in jobs.deliveries()] == [first.id, second.id]


def test_a_lease_ends_at_its_deadline_and_the_message_goes_to_whoever_is_next(jobs: Driver) -> None:
    (one,) = held(jobs, lease_ms=50)
    assert one.lease_until_ms == 50
    jobs.do(Subscribe("jobs", 1), session=2)
    jobs.wait(49)
    assert jobs.taken() == []
    jobs.wait(1)
    (again,) = jobs.deliveries(session=2)
    assert token(again) == (one.id, 2)
    assert jobs.do(Ack([token(one)])).stale == [token(one)]


def test_an_expired_lease_gives_its_credit_back(jobs: Driver) -> None:
    held(jobs, lease_ms=50)
    jobs.do(Enqueue("jobs", NewMessage(b"later", -9)))
    jobs.wait(50)
    assert [one.epoch for one in jobs.deliveries()] == [2]


def test_an_extended_lease_ends_later_and_with_zero_at_the_sessions_end(jobs: Driver) -> None:
    first, second = held(jobs, 2, lease_ms=50)
    jobs.wait(40)
    jobs.do(Extend([token(first)], 100))
    jobs.do(Extend([token(second)], 0))
    jobs.wait(60)
    assert jobs.info().leased == 2
    assert jobs.deliveries() == []
    jobs.wait(40)
    assert [one.id for one in jobs.deliveries()] == [first.id]
    jobs.wait(10_000)
    assert second.id not in [one.id for one in jobs.deliveries()]


def test_a_lease_can_be_shortened(jobs: Driver) -> None:
    (one,) = held(jobs, lease_ms=1000)
    jobs.do(Extend([token(one)], 5))
    assert jobs.machine.next_deadline() == 5


def test_recover_gives_back_everything_in_its_order(jobs: Driver) -> None:
    first, second, third = held(jobs, 3)
    jobs.do(Ack([token(second)]))
    jobs.do(Recover([1]))
    assert [(one.id, one.epoch) for one in jobs.deliveries()] == [(first.id, 2), (third.id, 2)]


def test_a_cancelled_consumer_keeps_its_leases_until_each_is_settled(jobs: Driver) -> None:
    first, second = held(jobs, 2)
    jobs.do(Cancel(1))
    assert jobs.info().leased == 2
    jobs.do(Nack([token(first)]))
    jobs.do(Ack([token(second)]))
    assert (jobs.info().leased, jobs.info().ready) == (0, 1)
    assert jobs.taken() == []
    assert jobs.machine.stats()["consumers"] == 0


def test_a_cancel_that_gives_back_does_so_at_once(jobs: Driver) -> None:
    held(jobs, 2)
    jobs.do(Cancel(1, give_back=True))
    assert (jobs.info().leased, jobs.info().ready, jobs.info().consumers) == (0, 2, 0)


def test_a_cancel_may_be_repeated_but_not_by_another_session(jobs: Driver) -> None:
    held(jobs)
    with pytest.raises(ConsumerNotFound):
        jobs.do(Cancel(1), session=2)
    for _ in range(2):
        jobs.do(Cancel(1, give_back=True))
    with pytest.raises(ConsumerNotFound):
        jobs.do(Cancel(99))


def test_attempts_count_leases_granted(jobs: Driver) -> None:
    (one,) = held(jobs)
    for attempt in range(2, 6):
        jobs.do(Nack([token(one)]))
        (one,) = jobs.deliveries()
        assert one.epoch == attempt
