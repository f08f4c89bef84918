"""`Overtake`: a credit group is sent one message beyond its credit, if that is more urgent than what the group has."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import ConsumerNotFound, InvalidArgument
from disheap.interfaces import Principal
from disheap.protocol.broker import (
    CREDIT_GROUP_CONSUMERS_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    Ack,
    Batch,
    Bind,
    Cancel,
    Commit,
    CreateExchange,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Overtake,
    Prepare,
    Publish,
    Recover,
    SetCredit,
    Subscribe,
    TopicSettings,
)
from disheap_heap.settings import MAX_DELIVERIES_PER_CALL

from .driver import PLENTY, Driver, token


def full(*topics: str, sessions: int = 1, mode: str = "max") -> Driver:
    """Each session has a group with a credit of 1, over all topics. Session 1 holds the message "low" of the first
    topic, session 2 the next one."""
    driver = Driver(sessions=sessions)
    for name in topics or ("jobs",):
        driver.do(CreateTopic(name, TopicSettings(mode)))
    for session in range(1, sessions + 1):
        for name in topics or ("jobs",):
            driver.do(Subscribe(name, 1, group=1), session)
    for _ in range(sessions):
        driver.do(enqueue(b"low", topic=topics[0] if topics else "jobs"))
    driver.taken()
    return driver


def enqueue(payload: bytes, priority: int = 0, topic: str = "jobs") -> Enqueue:
    return Enqueue(topic, NewMessage(payload, priority))


def test_a_full_group_is_sent_one_message_that_is_more_urgent() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.do(enqueue(b"as low"))
    assert driver.payloads() == []
    driver.do(enqueue(b"urgent", 1))
    assert driver.payloads() == [b"urgent"]
    driver.do(enqueue(b"most urgent", 2))
    assert driver.payloads() == [], "one for each request"


def test_a_group_that_did_not_ask_gets_nothing_beyond_its_credit() -> None:
    driver = full(sessions=2)
    driver.do(Overtake(1, 0), 2)
    driver.do(enqueue(b"urgent", 1))
    assert driver.payloads(2) == [b"urgent"]
    driver.do(enqueue(b"next", 1))
    assert driver.taken() == []


def test_a_message_that_is_ready_is_sent_at_once() -> None:
    driver = full("a", "b", "c")
    for name, priority in (("a", 1), ("b", 5), ("c", 7)):
        driver.do(enqueue(name.encode(), priority, name))
    driver.do(Overtake(1, 0))
    assert driver.payloads() == [b"c"], "the most urgent one of all topics"
    driver.do(Overtake(1, 5))
    assert driver.payloads() == []


def test_consumers_with_credit_come_first() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.machine.session_opened(2, Principal())
    driver.do(Subscribe("jobs", 1), 2)
    driver.do(enqueue(b"first", 9))
    assert [session for session, _ in driver.pushed] == [2]
    driver.do(enqueue(b"second", 9))
    assert [session for session, _ in driver.pushed] == [2, 1]


def test_the_lowest_bound_comes_first_and_then_who_asked_first() -> None:
    driver = full(sessions=4)
    for session, above in ((1, 3), (2, 1), (3, 1), (4, 0)):
        driver.do(Overtake(1, above), session)
    driver.do(Overtake(1, 2), 4)
    order = []
    for _ in range(4):
        driver.do(enqueue(b"urgent", 9))
        order += [session for session, _ in driver.pushed]
        driver.taken()
    assert order == [2, 3, 4, 1]


def test_a_message_above_no_bound_waits() -> None:
    driver = full(sessions=2)
    driver.do(Overtake(1, 5), 1)
    driver.do(Overtake(1, 3), 2)
    driver.do(enqueue(b"three", 3))
    assert driver.taken() == []
    driver.do(enqueue(b"four", 4))
    assert driver.payloads(2) == [b"four"]


def test_urgency_is_the_priority_negated_where_the_smallest_comes_first() -> None:
    driver = full(mode="min")
    driver.do(Overtake(1, -4))
    driver.do(enqueue(b"four", 4))
    assert driver.payloads() == []
    driver.do(enqueue(b"three", 3))
    assert driver.payloads() == [b"three"]


def test_credit_that_comes_back_leaves_the_request_in_force() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.do(Ack([(1, 1)]))
    driver.do(enqueue(b"by credit", 5))
    assert driver.payloads() == [b"by credit"]
    driver.do(enqueue(b"beyond", 5))
    assert driver.payloads() == [b"beyond"]


def test_what_is_sent_beyond_the_credit_counts_against_it() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.do(enqueue(b"urgent", 1))
    (urgent,) = driver.deliveries()
    driver.do(enqueue(b"next"))
    driver.do(Ack([token(urgent)]))
    assert driver.payloads() == [], "the group still holds as many as its credit"
    driver.do(Ack([(1, 1)]))
    assert driver.payloads() == [b"next"]


def test_the_least_urgent_message_can_be_given_back_for_it() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.do(enqueue(b"urgent", 4))
    (urgent,) = driver.deliveries()
    driver.do(Nack([(1, 1)]))
    driver.do(Overtake(1, 4))
    assert driver.payloads() == [], "it is in its old place"
    driver.do(Ack([token(urgent)]))
    assert driver.payloads() == [b"low"]


WAYS: dict[str, Any] = {
    "a batch": [Batch([enqueue(b"x"), enqueue(b"urgent", 7)])],
    "many at once": [EnqueueMany("jobs", [NewMessage(b"x"), NewMessage(b"urgent", 7)])],
    "an exchange": [CreateExchange("e"), Bind("e", "jobs", "k"), Publish("e", "k", NewMessage(b"urgent", 7))],
    "a transaction": [Prepare("a", 1, 0, [enqueue(b"urgent", 7)]), Commit("a", 1)],
}


@pytest.mark.parametrize("commands", WAYS.values(), ids=WAYS.keys())
def test_a_message_overtakes_however_it_comes(commands: list[Any]) -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    for command in commands:
        driver.do(command)
    assert driver.payloads() == [b"urgent"]


def test_a_message_overtakes_when_it_is_due() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.do(Enqueue("jobs", NewMessage(b"urgent", 7, 10)))
    driver.wait(10)
    assert driver.payloads() == [b"urgent"]


def test_a_message_that_is_given_back_may_overtake() -> None:
    driver = full(sessions=2)
    driver.do(enqueue(b"urgent", 7))
    driver.do(SetCredit(0, 2, 0, 1), 2)
    (urgent,) = driver.deliveries(2)
    driver.do(Overtake(1, 0), 1)
    driver.do(SetCredit(0, 1, 0, 1), 2)
    driver.do(Nack([token(urgent)]), 2)
    assert driver.payloads(1) == [b"urgent"]


def test_a_group_without_credit_gets_only_what_it_asks_for() -> None:
    driver = full()
    driver.do(SetCredit(0, 0, 0, 1))
    driver.do(Ack([(1, 1)]))
    driver.do(enqueue(b"x"))
    assert driver.payloads() == []
    driver.do(Overtake(1, PRIORITY_MIN))
    assert driver.payloads() == [b"x"]
    driver.do(enqueue(b"y"))
    driver.do(SetCredit(0, 2, 0, 1))
    assert driver.payloads() == [b"y"]


def test_a_session_without_connection_gets_it_when_it_is_back() -> None:
    driver = full(sessions=2)
    for session in (1, 2):
        driver.do(Overtake(1, 0), session)
    driver.detach(1)
    driver.do(enqueue(b"for the other", 7))
    assert driver.payloads(2) == [b"for the other"]
    driver.do(enqueue(b"urgent", 7))
    assert driver.taken() == []
    driver.attach(1, (1, 1))
    assert driver.payloads(1) == [b"urgent"]


def test_a_request_ends_with_its_group_and_its_session() -> None:
    driver = full(sessions=2)
    for session in (1, 2):
        driver.do(Overtake(1, 0), session)
    driver.do(Cancel(1, give_back=True), 1)
    driver.expire(2)
    state = driver.machine._state
    assert not state.armed and not state.topics["jobs"].overtaking


def test_a_new_consumer_of_the_group_may_get_it() -> None:
    driver = full()
    driver.do(CreateTopic("other"))
    driver.do(Overtake(1, 0))
    driver.do(Subscribe("other", 1, group=1))
    driver.do(enqueue(b"urgent", 1, "other"))
    assert driver.payloads() == [b"urgent"]


def test_a_consumer_that_gives_back_in_slices_is_sent_nothing() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(CreateTopic("other"))
    for name in ("jobs", "other"):
        driver.do(Subscribe(name, 1000, group=1))
    driver.do(EnqueueMany("other", [NewMessage(b"x")] * 1000))
    driver.work_off(PLENTY)
    driver.do(SetCredit(0, 1, 0, 1))
    driver.do(Overtake(1, 0))
    driver.taken()
    driver.do(Recover([2]))
    driver.do(enqueue(b"urgent", 1, "other"))
    assert driver.taken() == []
    driver.work_off(100)
    assert driver.payloads() == [b"urgent"], "it has credit again by then"


def test_a_freed_group_that_fills_up_elsewhere_gets_what_it_asked_for() -> None:
    """The credit goes to the topic that waited longer, and the request to the urgent message of the other."""
    driver = full("a", "b")
    driver.do(enqueue(b"next", 0, "a"))
    driver.do(Overtake(1, 0))
    driver.do(SetCredit(0, 1, 0, 1))
    driver.do(Batch([Ack([(1, 1)]), enqueue(b"b", 0, "b"), enqueue(b"urgent", 7, "a")]))
    assert driver.payloads() == [b"b", b"urgent"]


def test_many_messages_that_overtake_are_sent_in_slices_and_in_step() -> None:
    sessions = MAX_DELIVERIES_PER_CALL + 88
    driver = full(sessions=sessions)
    for session in range(1, sessions + 1):
        driver.do(Overtake(1, 0), session)
    twin = driver.restored()
    for one in (driver, twin):
        one.do(EnqueueMany("jobs", [NewMessage(b"urgent", 7)] * sessions))
        assert len(one.payloads()) == MAX_DELIVERIES_PER_CALL
        assert one.work_off(50) > 1
        assert len(one.payloads()) == 88
    assert driver.machine.state_hash() == twin.machine.state_hash()


def test_a_restored_node_knows_who_asked_and_in_which_order() -> None:
    driver = full(sessions=4)
    for session, above in ((2, 0), (4, 0), (1, 0), (3, -1)):
        driver.do(Overtake(1, above), session)
    twin = driver.restored()
    for one in (driver, twin):
        for _ in range(4):
            one.do(enqueue(b"urgent", 7))
        assert [session for session, _ in one.pushed] == [3, 2, 4, 1]


def test_a_request_of_a_session_without_connection_is_restored_too() -> None:
    driver = full()
    driver.do(Overtake(1, 0))
    driver.detach(1)
    twin = driver.restored()
    twin.do(enqueue(b"urgent", 7))
    twin.attach(1, (1, 1))
    assert twin.payloads() == [b"urgent"]


def test_the_largest_group_asks_in_its_last_topic() -> None:
    names = [f"t{number}" for number in range(CREDIT_GROUP_CONSUMERS_MAX)]
    driver = full(*names)
    driver.do(Overtake(1, PRIORITY_MAX - 1))
    driver.do(enqueue(b"urgent", PRIORITY_MAX, names[-1]))
    assert driver.payloads() == [b"urgent"]
    assert not any(topic.overtaking for topic in driver.machine._state.topics.values())


def test_only_a_group_of_the_session_can_ask() -> None:
    driver = full(sessions=2)
    with pytest.raises(ConsumerNotFound, match="group 2"):
        driver.do(Overtake(2, 0))
    driver.do(Subscribe("jobs", 1, group=5), 2)
    with pytest.raises(ConsumerNotFound):
        driver.do(Overtake(5, 0), 1)
    for command in (Overtake(0, 0), Overtake(1, PRIORITY_MAX + 1)):
        with pytest.raises(InvalidArgument):
            driver.do(command)
