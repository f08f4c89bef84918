"""Why a message is where it is: its rank, its holder, and who could take it."""

from __future__ import annotations

import random

import pytest

from disheap.errors import TopicLocked, TopicNotFound
from disheap.protocol.broker import (
    Ack,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    Explain,
    Explained,
    NewMessage,
    Pop,
    Prepare,
    SetCredit,
    Subscribe,
    TopicSettings,
)

from .driver import Driver, token


@pytest.fixture
def jobs() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.wait(3)
    return driver


def test_a_ready_message_knows_how_many_are_ahead_of_it(jobs: Driver) -> None:
    draw = random.Random(2)
    order: list[tuple[int, int]] = []
    for number in range(1, 3001):
        priority = draw.randrange(50)
        jobs.do(Enqueue("jobs", NewMessage(b"x", priority)))
        order.append((-priority, number))
    order.sort()
    for ahead in (0, 1, 511, 1024, 1500, 2999):
        found = jobs.ask(Explain("jobs", order[ahead][1]))
        assert (found.state, found.ahead, found.ready) == ("ready", ahead, 3000)
        assert found.message.priority == -order[ahead][0]


def test_consumers_count_with_those_that_can_receive(jobs: Driver) -> None:
    first = jobs.do(Subscribe("jobs", 1)).consumer
    jobs.do(Subscribe("jobs", 1), 2)
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 3))
    found = jobs.ask(Explain("jobs", 3))
    assert (found.consumers, found.receiving, found.ahead) == (2, 0, 0)
    jobs.detach(2)
    jobs.do(Enqueue("jobs", NewMessage(b"x", delay_ms=9)))
    jobs.do(SetCredit(first, 5))
    found = jobs.ask(Explain("jobs", 4))
    assert (found.consumers, found.receiving) == (2, 1)


def test_a_delayed_message_has_its_time_and_its_expiry(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", 4, 40, 100)))
    found = jobs.ask(Explain("jobs", 1))
    assert (found.state, found.time_ms, found.message.due_ms, found.message.priority) == ("delayed", 3, 43, 4)
    assert (found.expires_at_ms, found.ahead, found.lease_until_ms) == (103, 0, 0)


def test_a_leased_message_has_its_holder_and_the_end_of_its_lease(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 2))
    jobs.do(Pop("jobs", 1, 0, 50), 2)
    jobs.do(Pop("jobs", 1))
    timed, untimed = (jobs.ask(Explain("jobs", number)) for number in (1, 2))
    assert (timed.state, timed.lease_until_ms, timed.connected, timed.message.session) == ("leased", 53, True, 2)
    assert (untimed.lease_until_ms, untimed.message.session, untimed.message.attempts) == (0, 1, 1)
    jobs.detach(2)
    assert jobs.ask(Explain("jobs", 1)).connected is False


def test_a_message_whose_ack_is_prepared_is_frozen(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(Pop("jobs"))
    (one,) = jobs.deliveries()
    jobs.do(Prepare("order-7", 1, 60_000, [Ack([token(one)])]))
    assert jobs.ask(Explain("jobs", 1)) == Explained("frozen", 3, 0, 0, 0)


@pytest.mark.parametrize("number", [2, 3, 1 << 40])
def test_what_is_not_in_the_topic_is_said_not_to_be_there(jobs: Driver, number: int) -> None:
    jobs.do(CreateTopic("other"))
    jobs.do(Enqueue("jobs", NewMessage(b"x")))
    jobs.do(EnqueueMany("other", [NewMessage(b"ready"), NewMessage(b"leased", 9)]))
    jobs.do(Pop("other"))
    assert jobs.ask(Explain("jobs", number)) == Explained("", 3, 1, 0, 0)


def test_only_who_may_read_a_topic_is_told(jobs: Driver) -> None:
    jobs.do(CreateTopic("mine", TopicSettings(exclusive=True)))
    jobs.do(Enqueue("mine", NewMessage(b"a reply")))
    assert jobs.ask(Explain("mine", 1)).state == "ready"
    with pytest.raises(TopicLocked):
        jobs.ask(Explain("mine", 1), 2)
    with pytest.raises(TopicNotFound):
        jobs.ask(Explain("nowhere", 1))
