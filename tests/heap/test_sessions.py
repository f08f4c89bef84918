"""Sessions: what a detached one keeps, what an attached one is sent, what an expired one gives back."""

from __future__ import annotations

import pytest

from disheap.protocol.broker import (
    Ack,
    ConsumerEnded,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Pop,
    PopDone,
    Recover,
    Subscribe,
    TopicSettings,
)
from disheap_heap.settings import MAX_ANSWER_BYTES

from .driver import Driver, token


@pytest.fixture
def jobs() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    return driver


def test_a_detached_session_keeps_its_leases_and_gets_no_new_messages(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"held")))
    jobs.do(Subscribe("jobs", 5))
    jobs.taken()
    jobs.detach(1)
    jobs.do(Enqueue("jobs", NewMessage(b"new")), session=2)
    assert jobs.taken() == []
    assert (jobs.info().leased, jobs.info().ready) == (1, 1)


def test_while_one_session_is_detached_the_others_are_served(jobs: Driver) -> None:
    for session in (1, 2):
        jobs.do(Subscribe("jobs", 5), session)
    jobs.detach(1)
    for _ in range(3):
        jobs.do(Enqueue("jobs", NewMessage(b"x")), session=2)
    assert [one.consumer for one in jobs.deliveries()] == [2, 2, 2]


def test_an_attach_sends_the_missing_leases_and_then_new_messages(jobs: Driver) -> None:
    for _ in range(3):
        jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(Subscribe("jobs", 4))
    first, second, third = jobs.deliveries()
    jobs.detach(1)
    jobs.do(Enqueue("jobs", NewMessage(b"new")), session=2)
    resumed = jobs.attach(1, token(second), (third.id, 9))
    assert resumed.deliveries == [first, third]
    assert jobs.payloads(1) == [b"new"]


def test_an_attach_without_a_detach_before_it_sends_the_same(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(Subscribe("jobs", 2))
    (one,) = jobs.deliveries()
    assert jobs.attach(1).deliveries == [one]
    assert jobs.attach(1, token(one)).deliveries == []


def test_leases_that_do_not_fit_the_reply_follow_as_pushes(jobs: Driver) -> None:
    for _ in range(5):
        jobs.do(Enqueue("jobs", NewMessage(b"x" * (MAX_ANSWER_BYTES // 3))))
    jobs.do(Subscribe("jobs", 5))
    held = jobs.deliveries()
    resumed = jobs.attach(1)
    assert len(resumed.deliveries) == 2
    assert resumed.deliveries + jobs.deliveries() == held


def test_an_attach_tells_which_pops_and_consumers_have_ended(jobs: Driver) -> None:
    jobs.do(CreateTopic("gone"))
    kept = jobs.do(Subscribe("jobs", 1)).consumer
    lost = jobs.do(Subscribe("gone", 1)).consumer
    ticket = jobs.do(Pop("jobs", 1, wait_ms=10)).consumer
    waiting = jobs.do(Pop("jobs", 1, wait_ms=1000)).consumer
    jobs.detach(1)
    jobs.do(DeleteTopic("gone"), session=2)
    jobs.wait(10)
    assert jobs.taken() == []
    resumed = jobs.attach(1, tickets=[ticket, waiting], consumers=[kept, lost])
    assert [type(one) for one in resumed.ended] == [PopDone, ConsumerEnded]
    assert [one.consumer for one in resumed.ended] == [ticket, lost]


def test_a_pop_continues_after_an_attach(jobs: Driver) -> None:
    ticket = jobs.do(Pop("jobs", 1, wait_ms=1000)).consumer
    jobs.detach(1)
    jobs.do(Enqueue("jobs", NewMessage(b"x")), session=2)
    assert jobs.attach(1, tickets=[ticket]).ended == []
    assert [push.consumer for push in jobs.taken(1)] == [ticket, ticket]


def test_an_expired_session_gives_back_what_it_held_in_order(jobs: Driver) -> None:
    for _ in range(3):
        jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(Subscribe("jobs", 3))
    first, second, third = jobs.deliveries()
    jobs.do(Ack([token(second)]))
    jobs.do(Subscribe("jobs", 5), session=2)
    jobs.expire(1)
    assert [token(one) for one in jobs.deliveries(2)] == [(first.id, 2), (third.id, 2)]
    assert jobs.info().consumers == 1


def test_an_expired_sessions_topics_and_auto_delete_topics_are_gone(jobs: Driver) -> None:
    jobs.do(CreateTopic("mine", TopicSettings(exclusive=True)))
    jobs.do(CreateTopic("auto", TopicSettings(auto_delete=True)))
    jobs.do(Subscribe("auto", 1))
    jobs.do(Enqueue("mine", NewMessage(b"x")))
    jobs.expire(1)
    assert list(jobs.machine._state.topics) == ["jobs"]
    assert jobs.machine.stats()["message_bytes"] == 0
    assert jobs.machine.stats()["sessions"] == 1


def test_expiring_or_detaching_an_unknown_session_does_nothing(jobs: Driver) -> None:
    before = jobs.machine.state_hash()
    jobs.expire(77)
    jobs.detach(77)
    assert jobs.machine.state_hash() == before


def test_a_topic_without_its_owners_session_outlives_the_leases_of_others(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(Subscribe("jobs", 1), session=2)
    (one,) = jobs.deliveries(2)
    jobs.expire(1)
    assert jobs.do(Nack([token(one)]), session=2).count == 1


def test_leases_that_are_being_given_back_are_not_in_the_reply_to_attach() -> None:
    """The client forgets these leases. Their messages are delivered again with another epoch."""
    driver = Driver(sessions=1)
    driver.do(CreateTopic("jobs"))
    driver.do(EnqueueMany("jobs", [NewMessage(b"x")] * 1500))
    consumer = driver.do(Subscribe("jobs", 1500)).consumer
    while driver.machine.backlog():
        driver.wait(0)
    first = {token(push) for push in driver.deliveries()}
    assert len(first) == 1500
    driver.do(Recover([consumer]))
    repeated = driver.attach(1, consumers=[consumer]).deliveries
    assert not first & {token(push) for push in repeated}


def test_a_session_that_expires_is_given_nothing_of_what_it_gives_back(jobs: Driver) -> None:
    """Its no-ack consumer took the message that its other consumer gave back, and the message was lost."""
    jobs.do(Subscribe("jobs", 1))
    jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(Subscribe("jobs", 1, no_ack=True))
    jobs.taken()
    jobs.expire(1)
    jobs.work_off(100)
    assert (jobs.info().ready, jobs.taken()) == (1, [])
