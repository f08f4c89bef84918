"""Queries: answers are bounded and change nothing."""

from __future__ import annotations

import pytest

from disheap.errors import TopicNotFound
from disheap.protocol.broker import (
    Bind,
    Cancel,
    CreateExchange,
    CreateTopic,
    DescribeTopic,
    Enqueue,
    EnqueueMany,
    ExchangeInfos,
    GetStats,
    Holder,
    ListExchanges,
    ListTopics,
    Nack,
    NewMessage,
    Peek,
    Pop,
    Subscribe,
)
from disheap_heap.settings import MAX_ANSWER_BYTES

from .driver import Driver, token


@pytest.fixture
def jobs() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    return driver


def test_a_peek_shows_messages_in_order_of_delivery_and_takes_none(jobs: Driver) -> None:
    for priority in (1, 3, 2):
        jobs.do(Enqueue("jobs", NewMessage(b"x", priority)))
    before = jobs.machine.state_hash()
    assert [one.priority for one in jobs.ask(Peek("jobs", 2)).messages] == [3, 2]
    assert jobs.machine.state_hash() == before


def test_a_peek_shows_delayed_and_leased_messages_behind_the_ready_ones(jobs: Driver) -> None:
    jobs.wait(3)
    jobs.do(Enqueue("jobs", NewMessage(b"leased", 9)))
    jobs.do(Pop("jobs"))
    (one,) = jobs.deliveries()
    jobs.do(Nack([token(one)]))
    jobs.do(Pop("jobs"))
    jobs.do(Enqueue("jobs", NewMessage(b"ready")))
    jobs.do(Enqueue("jobs", NewMessage(b"delayed", delay_ms=40)))
    messages = jobs.ask(Peek("jobs", 10, delayed=True, leased=True)).messages
    assert [(one.state, one.attempts, one.due_ms, one.enqueued_ms) for one in messages] == [
        ("ready", 0, 0, 3),
        ("delayed", 0, 43, 3),
        ("leased", 2, 0, 3),
    ]
    assert len(jobs.ask(Peek("jobs", 10)).messages) == 1
    assert jobs.ask(Peek("jobs", 1, delayed=True, ready=False)).messages == messages[1:2]
    assert jobs.ask(Peek("jobs", ready=False)).messages == []
    assert [bool(one.session and one.consumer) for one in messages] == [False, False, True]


def test_a_topic_names_the_consumers_that_hold_its_messages_when_asked(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 3))
    first = jobs.do(Subscribe("jobs", 2)).consumer
    idle = jobs.do(CreateTopic("other")) and jobs.do(Subscribe("other", 1)).consumer
    second = jobs.do(Subscribe("jobs", 9), session=2).consumer
    jobs.do(Subscribe("jobs", 9))
    leased = jobs.ask(Peek("jobs", 9, leased=True)).messages
    assert sorted((one.session, one.consumer) for one in leased) == [(1, first), (1, first), (2, second)]
    assert second not in (2, idle)  # the two numbers are not mistaken for one another
    assert jobs.ask(DescribeTopic("jobs", holders=9)).holders == [Holder(1, first, 2), Holder(2, second, 1)]
    assert jobs.ask(DescribeTopic("jobs", holders=1)).holders == [Holder(1, first, 2)]
    assert jobs.ask(DescribeTopic("jobs")).holders == []


def test_a_peek_at_large_messages_stops_where_the_answer_would_not_fit(jobs: Driver) -> None:
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x" * (MAX_ANSWER_BYTES // 3))] * 5))
    assert len(jobs.ask(Peek("jobs", 5)).messages) == 2
    jobs.do(Enqueue("jobs", NewMessage(b"x" * MAX_ANSWER_BYTES, 9)))
    assert len(jobs.ask(Peek("jobs", 5)).messages) == 1


def test_a_topic_is_described(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", NewMessage(b"abc")))
    jobs.do(Subscribe("jobs", 1))
    jobs.wait(7)
    jobs.do(Enqueue("jobs", NewMessage(b"de")))
    info = jobs.info()
    assert (info.ready, info.leased, info.consumers, info.ready_bytes, info.oldest_enqueued_ms) == (1, 1, 1, 2, 7)
    with pytest.raises(TopicNotFound):
        jobs.ask(DescribeTopic("nope"))


def test_topics_are_listed_by_name_in_pages() -> None:
    driver = Driver()
    for name in ("b2", "a", "b1", "c", "b3"):
        driver.do(CreateTopic(name))
    first = driver.ask(ListTopics("b", limit=2))
    assert ([one.topic for one in first.topics], first.total) == (["b1", "b2"], 3)
    assert [one.topic for one in driver.ask(ListTopics("b", after="b2")).topics] == ["b3"]
    assert [one.topic for one in driver.ask(ListTopics(after="b3")).topics] == ["c"]


def test_stats_count_over_all_topics(jobs: Driver) -> None:
    jobs.wait(9)
    jobs.do(CreateTopic("more"))
    jobs.do(CreateExchange("e"))
    jobs.do(Bind("e", "more", "k"))
    jobs.do(EnqueueMany("jobs", [NewMessage(b"abc"), NewMessage(b"abc"), NewMessage(b"abc", 0, 50)]))
    jobs.do(Subscribe("jobs", 1))
    stats = jobs.ask(GetStats())
    assert (stats.topics, stats.exchanges, stats.bindings, stats.consumers) == (2, 1, 1, 1)
    assert (stats.ready, stats.delayed, stats.leased, stats.message_bytes, stats.time_ms) == (1, 1, 1, 9, 9)


def test_consumers_and_waiting_pops_are_counted_apart_and_the_same_everywhere(jobs: Driver) -> None:
    jobs.do(Subscribe("jobs", 1))
    jobs.do(Subscribe("jobs", 1))
    jobs.do(EnqueueMany("jobs", [NewMessage(b"x")] * 2))
    jobs.do(Cancel(2))  # it has ended and still holds a message
    jobs.do(Pop("jobs", 1, 1000))
    stats, counters = jobs.ask(GetStats()), jobs.machine.stats()
    assert (stats.consumers, stats.pops, stats.leased) == (1, 1, 2)
    assert jobs.info().consumers == 1
    assert {key: counters[key] for key in ("consumers", "pops", "leased")} == {"consumers": 1, "pops": 1, "leased": 2}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", ["", "e"])
def test_exchanges_and_bindings_are_listed_in_pages(jobs: Driver, name: str, limit: int) -> None:
    jobs.do(CreateExchange("e", alternate="f"))
    jobs.do(CreateExchange("f", "fanout"))
    jobs.do(CreateExchange("g", "topic"))
    for number in range(4):
        jobs.do(Bind("e", "jobs", str(number)))
        jobs.do(Bind("g", "jobs", str(number)))
    whole = jobs.ask(ListExchanges(name))
    assert (len(whole.exchanges), len(whole.bindings), whole.total) == ((1, 4, 5) if name else (3, 8, 11))
    assert whole.alternates == {"e": "f"}
    found = ExchangeInfos([], [])
    for skip in range(0, whole.total, limit):
        page = jobs.ask(ListExchanges(name, skip, limit))
        assert len(page.exchanges) + len(page.bindings) == min(limit, whole.total - skip)
        found = found.joined(page)
    assert found == whole
    assert jobs.ask(ListExchanges(name, whole.total)) == ExchangeInfos([], [], whole.total)


def test_the_counts_of_a_restored_replica_are_the_same(jobs: Driver) -> None:
    """The counts are kept as the state changes. A restored replica has counted from the snapshot."""
    jobs.do(CreateTopic("jobs-more"))
    jobs.do(CreateTopic("zebra"))
    for one in (jobs, jobs.restored()):
        stats, infos = one.ask(GetStats()), one.ask(ListTopics()).topics
        assert stats.ready == sum(info.ready for info in infos)
        assert stats.delayed == sum(info.delayed for info in infos)
        assert stats.consumers == sum(info.consumers for info in infos)
        assert [info.topic for info in infos] == sorted(info.topic for info in infos)
        assert one.ask(ListTopics("jobs", "jobs")).total == 2
        assert [info.topic for info in one.ask(ListTopics("jobs", "jobs")).topics] == ["jobs-more"]
        assert one.ask(ListTopics("none")).total == 0
