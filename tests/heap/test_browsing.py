"""Pages of a topic: whatever stays in it comes exactly once, whatever comes and goes between two pages."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from disheap.errors import TopicLocked, TopicNotFound
from disheap.protocol.broker import (
    Ack,
    Browse,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Pop,
    Purge,
    TopicSettings,
)
from disheap_heap.queries import IDS_PER_PAGE
from disheap_heap.settings import MAX_ANSWER_BYTES

from .driver import Driver, token


@pytest.fixture
def jobs() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    return driver


def test_messages_of_each_state_come_in_the_order_of_their_ids(jobs: Driver) -> None:
    jobs.wait(3)
    jobs.do(Enqueue("jobs", NewMessage(b"leased", 9, key="customer")))
    jobs.do(Pop("jobs"))
    jobs.do(Enqueue("jobs", NewMessage(b"delayed", 7, delay_ms=40)))
    jobs.do(Enqueue("jobs", NewMessage(b"ready", 8)))
    before = jobs.machine.state_hash()
    page = jobs.ask(Browse("jobs"))
    shown = [(one.payload, one.state, one.priority, one.due_ms, one.attempts, one.key) for one in page.messages]
    assert shown == [
        (b"leased", "leased", 9, 0, 1, "customer"),
        (b"delayed", "delayed", 7, 43, 0, ""),
        (b"ready", "ready", 8, 0, 0, ""),
    ]
    assert (page.after, page.messages[0].session) == (0, 1)
    assert jobs.machine.state_hash() == before


@pytest.mark.parametrize("kind", ["ready", "delayed", "leased"])
def test_each_state_comes_if_it_is_asked_for(jobs: Driver, kind: str) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"x", 9)))
    jobs.do(Pop("jobs"))
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x"), NewMessage(b"x", delay_ms=40)]))
    asked = {"ready": False, "delayed": False, "leased": False, kind: True}
    assert [one.state for one in jobs.browse("jobs", **asked)] == [kind]
    asked = {name: not is_asked for name, is_asked in asked.items()}
    assert sorted({one.state for one in jobs.browse("jobs", **asked)} | {kind}) == ["delayed", "leased", "ready"]


def test_a_page_has_no_more_than_was_asked_for_and_says_where_the_next_goes_on(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 5))
    first = jobs.ask(Browse("jobs", 0, 2))
    assert [one.id for one in first.messages] == [1, 2] and first.after == 2
    assert [one.id for one in jobs.ask(Browse("jobs", 2, 3)).messages] == [3, 4, 5]
    assert jobs.ask(Browse("jobs", 2, 3)).after == 0
    assert jobs.ask(Browse("jobs", 5)).messages == []


def test_what_stays_comes_once_while_others_come_and_go(jobs: Driver) -> None:
    """Two thousand stay. Between two pages others arrive, are taken, given back and acknowledged."""
    draw = random.Random(1)
    staying = {b"%d" % number for number in range(2000)}
    jobs.do(EnqueueMany("jobs", [NewMessage(payload, -1) for payload in sorted(staying)]))
    seen: Counter[bytes] = Counter()
    after, held = -1, []
    while after:
        page = jobs.ask(Browse("jobs", max(0, after), 50))
        seen.update(one.payload for one in page.messages)
        after = page.after
        jobs.do(EnqueueMany("jobs", [NewMessage(b"passing", 1)] * draw.randrange(1, 40)))
        jobs.do(Pop("jobs", draw.randrange(1, 60)))
        held += [token(one) for one in jobs.deliveries()]
        draw.shuffle(held)
        some, held = held[: len(held) // 2], held[len(held) // 2 :]
        at = len(some) // 2
        if at:
            taken = {one.id: one.payload for one in jobs.browse("jobs", ready=False)}
            staying -= {taken[number] for number, _ in some[:at]}
            jobs.do(Ack(some[:at]))
            jobs.do(Nack(some[at:]))
    assert staying, "some have stayed"
    assert {seen[payload] for payload in staying} == {1}


def test_a_page_of_large_messages_ends_where_the_answer_would_not_fit(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x" * (MAX_ANSWER_BYTES // 3))] * 5))
    assert [len(jobs.ask(Browse("jobs", after)).messages) for after in (0, 2, 4)] == [2, 2, 1]
    jobs.do(Enqueue("jobs", NewMessage(b"x" * MAX_ANSWER_BYTES)))
    assert [one.id for one in jobs.ask(Browse("jobs", 5)).messages] == [6]
    assert [one.id for one in jobs.browse("jobs")] == [1, 2, 3, 4, 5, 6]


def test_a_page_looks_at_a_bounded_number_of_messages(jobs: Driver) -> None:
    for _ in range(3):
        jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 10_000))
    jobs.do(Enqueue("jobs", NewMessage(b"late", delay_ms=40)))
    page = jobs.ask(Browse("jobs", ready=False))
    assert page.messages == [] and 0 < page.after < IDS_PER_PAGE + 10_000
    assert [one.payload for one in jobs.browse("jobs", ready=False)] == [b"late"]


def test_a_topic_that_is_purged_has_nothing_to_show(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 5))
    after = jobs.ask(Browse("jobs", 0, 2)).after
    jobs.do(Purge("jobs"))
    assert jobs.ask(Browse("jobs", after)).messages == jobs.browse("jobs") == []


def test_a_topic_that_is_deleted_between_two_pages_is_said_to_be_gone(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 5))
    after = jobs.ask(Browse("jobs", 0, 2)).after
    jobs.do(DeleteTopic("jobs"))
    with pytest.raises(TopicNotFound):
        jobs.ask(Browse("jobs", after))


def test_an_exclusive_topic_is_shown_to_its_owner_only(jobs: Driver) -> None:
    jobs.do(CreateTopic("mine", TopicSettings(exclusive=True)))
    jobs.do(Enqueue("mine", NewMessage(b"a reply")))
    assert [one.payload for one in jobs.browse("mine")] == [b"a reply"]
    with pytest.raises(TopicLocked):
        jobs.ask(Browse("mine"), 2)


def test_a_restored_state_shows_the_same(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x", number % 3, 40 * (number % 2)) for number in range(50)]))
    jobs.do(Pop("jobs", 5))
    assert jobs.restored().browse("jobs", 7) == jobs.browse("jobs", 7)
