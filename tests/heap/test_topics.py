"""Topics: idempotent creation, exclusive ownership, take-over, and automatic deletion."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import InvalidArgument, TopicInUse, TopicLocked, TopicMismatch, TopicNotFound
from disheap.interfaces import MachineContext, Principal
from disheap.protocol.broker import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    Ack,
    Batch,
    Bind,
    Cancel,
    Commit,
    ConsumerEnded,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    DescribeTopic,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Peek,
    Pop,
    Prepare,
    Publish,
    Purge,
    Subscribe,
    TopicSettings,
    Unbind,
    encode,
)
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

from .driver import Driver, token

EXCLUSIVE = TopicSettings(exclusive=True)


def topics(driver: Driver) -> list[str]:
    return list(driver.machine._state.topics)


def test_creating_a_topic_again_with_the_same_settings_tells_that_it_was_there() -> None:
    driver = Driver()
    assert driver.do(CreateTopic("jobs")).created
    driver.do(Enqueue("jobs", NewMessage(b"x")))
    again = driver.do(CreateTopic("jobs"))
    assert (again.created, again.ready, again.oldest_enqueued_ms) == (False, 1, 0)


def test_creating_a_topic_with_other_settings_names_what_differs() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    with pytest.raises(TopicMismatch, match="mode is 'max', not 'min'"):
        driver.do(CreateTopic("jobs", TopicSettings(mode="min")))


@pytest.mark.parametrize(
    ("mode", "bound", "expected"),
    [
        ("max", 5, [5, 5, 3, 0, 0]),
        ("max", -5, [0, 0, 0, -5, -5]),
        ("min", 5, [0, 0, 3, 5, 5]),
        ("max", 0, [PRIORITY_MAX, 9, 3, -7, PRIORITY_MIN]),
        ("max", PRIORITY_MIN, [0, 0, 0, -7, PRIORITY_MIN]),
    ],
)
@pytest.mark.parametrize("way", ["one by one", "many", "batch", "transaction", "exchange"])
def test_priorities_stay_within_the_bound_of_the_topic(mode: str, bound: int, expected: list[int], way: str) -> None:
    driver = Driver()
    driver.do(CreateTopic("q", TopicSettings(mode, priority_max=bound)))
    messages = [NewMessage(b"x", priority) for priority in (9, PRIORITY_MIN, 3, PRIORITY_MAX, -7)]
    enqueues: list[Any] = [Enqueue("q", message) for message in messages]
    match way:
        case "many":
            driver.do(EnqueueMany("q", messages))
        case "batch":
            driver.do(Batch(enqueues))
        case "transaction":
            driver.do(Prepare("a", 1, 0, enqueues))
            driver = driver.restored()
            driver.do(Commit("a", 1))
        case "exchange":
            for message in messages:
                driver.do(Publish("", "q", message))
        case _:
            for command in enqueues:
                driver.do(command)
    assert [one.priority for one in driver.ask(Peek("q", 9)).messages] == expected
    twin = driver.restored()
    for one in (driver, twin):
        one.do(Pop("q", 5))
        assert [push.priority for push in one.deliveries()] == expected


def test_a_topic_has_the_bound_of_priorities_that_it_was_created_with() -> None:
    driver = Driver()
    driver.do(CreateTopic("q", TopicSettings(priority_max=5)))
    for bound in (0, 6):
        with pytest.raises(TopicMismatch, match=f"priority_max is 5, not {bound}"):
            driver.do(CreateTopic("q", TopicSettings(priority_max=bound)))


def test_an_exclusive_topic_is_locked_while_its_owner_is_connected() -> None:
    driver = Driver()
    driver.do(CreateTopic("mine", EXCLUSIVE))
    driver.do(CreateExchange("e", "fanout"))
    driver.do(Bind("e", "mine"))
    for command in (
        CreateTopic("mine", EXCLUSIVE),
        Subscribe("mine", 1),
        Pop("mine"),
        Purge("mine"),
        DeleteTopic("mine"),
        Bind("e", "mine", "other"),
        Unbind("e", "mine"),
    ):
        with pytest.raises(TopicLocked):
            driver.do(command, session=2)
    for stranger in (0, 2):
        with pytest.raises(TopicLocked):
            driver.ask(Peek("mine"), session=stranger)
        with pytest.raises(TopicLocked):
            driver.ask(DescribeTopic("mine", require_access=True), session=stranger)
        assert driver.ask(DescribeTopic("mine"), session=stranger).topic == "mine"
    assert driver.ask(DescribeTopic("mine", require_access=True)).topic == "mine"
    assert driver.do(Publish("e", "", NewMessage(b"a reply")), session=2).routed == 1
    assert [one.payload for one in driver.ask(Peek("mine")).messages] == [b"a reply"]
    assert driver.do(Purge("mine")).count == 1
    assert not driver.do(CreateTopic("mine", EXCLUSIVE)).created
    assert driver.do(Enqueue("mine", NewMessage(b"anybody may put something in")), session=2).id == 2


def test_an_exclusive_topic_is_taken_over_when_its_owner_has_no_connection() -> None:
    driver = Driver()
    driver.do(CreateTopic("mine", EXCLUSIVE))
    driver.do(Enqueue("mine", NewMessage(b"a")))
    driver.do(Enqueue("mine", NewMessage(b"b")))
    consumer = driver.do(Subscribe("mine", 1)).consumer
    (held,) = driver.deliveries()
    driver.detach(1)
    info = driver.do(CreateTopic("mine", EXCLUSIVE), session=2)
    assert (info.ready, info.leased, info.consumers) == (2, 0, 0)
    driver.do(Subscribe("mine", 2), session=2)
    assert driver.payloads(2) == [b"a", b"b"]
    resumed = driver.attach(1, token(held), consumers=[consumer])
    assert [type(one) for one in resumed.ended] == [ConsumerEnded]
    assert driver.do(Ack([token(held)])).stale == [token(held)]
    driver.expire(1)
    assert topics(driver) == ["mine"]


def test_a_session_owns_no_more_topics_than_may_be_deleted_at_its_end() -> None:
    driver = Driver(session_topics=2)
    for name in ("a", "b"):
        driver.do(CreateTopic(name, EXCLUSIVE))
    driver.do(CreateTopic("c", EXCLUSIVE), session=2)
    driver.detach(2)
    for name in ("c", "d"):
        with pytest.raises(InvalidArgument, match="session_topics"):
            driver.do(CreateTopic(name, EXCLUSIVE))
    driver.do(CreateTopic("shared"))
    assert not driver.do(CreateTopic("a", EXCLUSIVE)).created
    driver.do(DeleteTopic("a"))
    assert not driver.do(CreateTopic("c", EXCLUSIVE)).created
    driver.expire(1)
    assert list(driver.machine._state.topics) == ["shared"]


def test_the_exclusive_topics_of_a_session_share_the_bindings_of_one_topic() -> None:
    driver = Driver(topic_bindings=2)
    driver.do(CreateExchange("e"))
    for name, session in (("a", 1), ("b", 1), ("c", 2), ("shared", 1)):
        driver.do(CreateTopic(name, TopicSettings() if name == "shared" else EXCLUSIVE), session)
    driver.do(Bind("e", "a", "1"))
    driver.do(Bind("e", "b", "1"))
    driver.do(Bind("e", "c", "1"), session=2)
    driver.do(Bind("e", "shared", "1"))
    driver.do(Bind("e", "b", "1"))
    for name in ("a", "b"):
        with pytest.raises(InvalidArgument, match="topic_bindings"):
            driver.do(Bind("e", name, "2"))
    driver.detach(2)
    with pytest.raises(InvalidArgument, match="topic_bindings"):
        driver.do(CreateTopic("c", EXCLUSIVE))
    driver.do(Unbind("e", "a", "1"))
    assert not driver.do(CreateTopic("c", EXCLUSIVE)).created


def test_an_exclusive_topic_is_not_taken_over_by_another_name() -> None:
    driver = Driver(sessions=0)
    for session, name in ((1, "w1"), (2, "w2"), (3, "w1")):
        driver.machine.session_opened(session, Principal(name))
    driver.do(CreateTopic("mine", EXCLUSIVE))
    driver.detach(1)
    driver = driver.restored()
    with pytest.raises(TopicLocked):
        driver.do(CreateTopic("mine", EXCLUSIVE), session=2)
    assert not driver.do(CreateTopic("mine", EXCLUSIVE), session=3).created


def test_a_take_over_with_other_settings_is_refused() -> None:
    driver = Driver()
    driver.do(CreateTopic("mine", EXCLUSIVE))
    driver.detach(1)
    with pytest.raises(TopicMismatch):
        driver.do(CreateTopic("mine", TopicSettings(exclusive=True, mode="min")), session=2)


def test_an_auto_delete_topic_goes_with_its_last_consumer() -> None:
    driver = Driver()
    driver.do(CreateTopic("auto", TopicSettings(auto_delete=True)))
    driver.do(Pop("auto"))
    assert topics(driver) == ["auto"]
    first, second = (driver.do(Subscribe("auto", 1), session).consumer for session in (1, 2))
    driver.do(Cancel(first))
    assert topics(driver) == ["auto"]
    driver.do(Cancel(second), session=2)
    assert topics(driver) == []


def test_leases_of_a_deleted_auto_delete_topic_are_stale() -> None:
    driver = Driver()
    driver.do(CreateTopic("auto", TopicSettings(auto_delete=True)))
    driver.do(Enqueue("auto", NewMessage(b"x")))
    driver.do(Subscribe("auto", 1))
    (held,) = driver.deliveries()
    driver.do(Cancel(1))
    assert driver.do(Ack([token(held)])).stale == [token(held)]
    assert driver.machine.stats()["message_bytes"] == 0


def test_an_unused_topic_is_deleted_after_its_expiry() -> None:
    driver = Driver()
    driver.do(CreateTopic("brief", TopicSettings(expires_ms=100)))
    driver.wait(99)
    driver.do(CreateTopic("brief", TopicSettings(expires_ms=100)))
    driver.wait(99)
    driver.do(Pop("brief"))
    driver.wait(99)
    assert topics(driver) == ["brief"]
    driver.wait(1)
    assert topics(driver) == []


def test_a_topic_with_a_consumer_or_a_waiting_pop_is_in_use() -> None:
    driver = Driver()
    driver.do(CreateTopic("brief", TopicSettings(expires_ms=100)))
    consumer = driver.do(Subscribe("brief", 1)).consumer
    driver.wait(1000)
    driver.do(Pop("brief", wait_ms=500))
    driver.do(Cancel(consumer))
    driver.wait(500)
    driver.wait(99)
    assert topics(driver) == ["brief"]
    driver.wait(1)
    assert topics(driver) == []


def test_deleting_a_topic_ends_its_consumers_and_counts_its_messages() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    for delay in (0, 0, 50):
        driver.do(Enqueue("jobs", NewMessage(b"x", delay_ms=delay)))
    consumer = driver.do(Subscribe("jobs", 1), session=2).consumer
    (held,) = driver.deliveries(2)
    assert driver.do(DeleteTopic("jobs")).count == 3
    assert [(type(one), one.consumer) for one in driver.taken(2)] == [(ConsumerEnded, consumer)]
    assert driver.do(Ack([token(held)]), session=2).stale == [token(held)]
    driver.work_off(100)
    assert {key: driver.machine.stats()[key] for key in ("message_bytes", "timers", "consumers", "leased")} == {
        "message_bytes": 0,
        "timers": 0,
        "consumers": 0,
        "leased": 0,
    }


def test_a_topic_that_is_created_again_has_nothing_of_the_first() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(Enqueue("jobs", NewMessage(b"x", delay_ms=10)))
    driver.do(DeleteTopic("jobs"))
    driver.do(CreateTopic("jobs", TopicSettings(mode="min")))
    driver.wait(10)
    assert (driver.info().ready, driver.info().delayed) == (0, 0)


def test_a_topic_is_deleted_only_if_unused_or_empty_where_that_is_asked() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    consumer = driver.do(Subscribe("jobs", 1)).consumer
    with pytest.raises(TopicInUse, match="consumers"):
        driver.do(DeleteTopic("jobs", if_unused=True))
    driver.do(Cancel(consumer))
    driver.do(Enqueue("jobs", NewMessage(b"x")))
    with pytest.raises(TopicInUse, match="messages"):
        driver.do(DeleteTopic("jobs", if_unused=True, if_empty=True))
    driver.do(Purge("jobs"))
    driver.do(DeleteTopic("jobs", if_unused=True, if_empty=True))
    assert topics(driver) == []


def test_a_purge_drops_what_waits_and_leaves_what_is_leased() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    for delay in (0, 0, 50):
        driver.do(Enqueue("jobs", NewMessage(b"x", delay_ms=delay)))
    driver.do(Pop("jobs"))
    assert driver.do(Purge("jobs")).count == 2
    info = driver.info()
    assert (info.ready, info.delayed, info.leased, info.ready_bytes) == (0, 0, 1, 0)
    driver.wait(100)
    assert driver.info().ready == 0


def test_an_exclusive_consumer_is_the_only_one() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    alone = driver.do(Subscribe("jobs", 1, exclusive=True)).consumer
    for command in (Subscribe("jobs", 1), Subscribe("jobs", 1, exclusive=True), Pop("jobs")):
        with pytest.raises(TopicInUse):
            driver.do(command, session=2)
    driver.do(Cancel(alone))
    driver.do(Subscribe("jobs", 1), session=2)
    with pytest.raises(TopicInUse):
        driver.do(Subscribe("jobs", 1, exclusive=True))


def test_an_unknown_topic_is_refused_with_the_group_that_was_asked() -> None:
    """After a restore, too. The first group is the one that is asked without a name."""
    source = HeapMachine(HeapSettings(), MachineContext(2))
    restored = HeapMachine(HeapSettings(), MachineContext(2))
    restored.restore(source.snapshot())
    for machine in (source, restored):
        with pytest.raises(TopicNotFound, match="no topic 'jobs' in group 2, which the URL names; create it first"):
            machine.apply(1, 0, 1, encode(Enqueue("jobs", NewMessage(b"x"))))
        with pytest.raises(TopicNotFound, match="no topic 'jobs' in group 2, which the URL names; `disheap topic ls`"):
            machine.query(0, 1, encode(DescribeTopic("jobs")))
    with pytest.raises(TopicNotFound, match="no topic 'jobs'; `disheap topic ls`"):
        HeapMachine(HeapSettings(), MachineContext()).query(0, 1, encode(DescribeTopic("jobs")))
