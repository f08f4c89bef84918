"""What happens to a topic between its creation and its end: changes of its settings, and pauses."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import InvalidArgument, TopicFull, TopicLocked, TopicMismatch, TopicNotFound, TopicPaused
from disheap.protocol import broker
from disheap.protocol.broker import (
    Enqueue,
    EnqueueMany,
    NewMessage,
    PauseTopic,
    Pop,
    Publish,
    TopicSettings,
    UpdateTopic,
)
from disheap_heap.settings import MAX_TRIMMED_PER_CALL

from .driver import PLENTY, Driver, token


def with_topic(**settings: Any) -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("jobs", TopicSettings(**settings)))
    return driver


def change(driver: Driver, revision: int = 0, **changes: Any) -> broker.TopicInfo:
    reply: broker.TopicInfo = driver.do(UpdateTopic("jobs", changes, revision))
    return reply


def fill(driver: Driver, count: int, **fields: Any) -> None:
    driver.do(EnqueueMany("jobs", [NewMessage(b"%d" % number, number % 5, **fields) for number in range(count)]))


# --- changes ---


def test_only_the_named_settings_change_and_the_revision_grows() -> None:
    driver = with_topic(mode="min", message_ttl_ms=50)
    info = change(driver, max_messages=3, dead_letter_topic="dead")
    assert not broker.difference(info.settings, TopicSettings("min", 3, 50, dead_letter_topic="dead"))
    assert (info.revision, driver.info().revision, driver.restored().info().revision) == (2, 2, 2)
    assert change(driver, max_messages=3).revision == 2, "nothing has changed"
    with pytest.raises(TopicMismatch, match="max_messages is 3, not 0"):
        driver.do(broker.CreateTopic("jobs", TopicSettings(mode="min", message_ttl_ms=50)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"max_mesages": 1}, "no setting 'max_mesages'. There are mode, max_messages"),
        ({"mode": "min"}, "mode of a topic never changes"),
        ({"exclusive": True}, "exclusive of a topic never changes"),
        ({"max_messages": -1}, "max_messages = .* does not fit"),
        ({"max_messages": True}, "max_messages = .* does not fit"),
        ({"overflow": "drop-head"}, "overflow is one of reject, drop"),
        ({"dead_letter_topic": "jobs"}, "name another topic"),
        ({"dead_letter_topic": "a", "dead_letter_exchange": "b"}, "leave one out"),
        ({"retry_delay_max_ms": 5}, "the bound is at least as much"),
    ],
)
def test_changes_that_do_not_fit_change_nothing(changes: dict[str, Any], text: str) -> None:
    driver = with_topic(retry_delay_ms=10)
    before = driver.machine.state_hash()
    with pytest.raises(InvalidArgument, match=text):
        driver.do(UpdateTopic("jobs", {"max_messages": 7} | changes))
    assert driver.machine.state_hash() == before


def test_a_change_of_settings_that_were_changed_meanwhile_is_refused() -> None:
    driver = with_topic()
    change(driver, 1, max_messages=3)
    with pytest.raises(TopicMismatch, match="has revision 2, and the change is of revision 1"):
        change(driver, 1, max_messages=4)
    assert driver.info().settings.max_messages == 3
    with pytest.raises(TopicNotFound):
        driver.do(UpdateTopic("gone", {}))


def test_only_its_owner_changes_or_pauses_an_exclusive_topic() -> None:
    driver = with_topic(exclusive=True)
    for command in (UpdateTopic("jobs", {"max_messages": 1}), PauseTopic("jobs", True)):
        with pytest.raises(TopicLocked):
            driver.do(command, 2)
        driver.do(command, 1)


def test_a_topic_that_refuses_keeps_what_is_too_much() -> None:
    driver = with_topic()
    fill(driver, 5)
    assert change(driver, max_messages=3).ready == 5
    with pytest.raises(TopicFull, match="5 of at most 3"):
        driver.do(Enqueue("jobs", NewMessage(b"")))
    change(driver, max_messages=0)
    driver.do(Enqueue("jobs", NewMessage(b"")))


def test_what_is_too_much_is_dropped_in_slices_also_after_a_restart() -> None:
    driver = with_topic()
    fill(driver, 10 * MAX_TRIMMED_PER_CALL)
    left = change(driver, max_messages=5, overflow="drop").ready
    assert left >= 9 * MAX_TRIMMED_PER_CALL
    driver.do(Enqueue("jobs", NewMessage(b"new", 9)))
    assert driver.info().ready >= left - 2, "a new message does not drop all the rest"
    twin = driver.restored()
    for one in (driver, twin):
        assert one.work_off(100) > 10
        assert [message.priority for message in one.ask(broker.Peek("jobs", 9)).messages] == [9, 4, 4, 4, 4]
    assert driver.machine.state_hash() == twin.machine.state_hash()
    fill(driver, 20)
    assert driver.info().ready == 5


def test_a_topic_that_no_longer_drops_keeps_the_rest() -> None:
    driver = with_topic()
    fill(driver, 3 * MAX_TRIMMED_PER_CALL)
    left = change(driver, max_messages=5, overflow="drop").ready
    change(driver, overflow="reject")
    driver.work_off(PLENTY)
    assert driver.info().ready == left
    assert not driver.machine.backlog()


@pytest.mark.parametrize("ending", [broker.Purge("jobs"), broker.DeleteTopic("jobs")])
def test_a_topic_that_is_emptied_has_nothing_to_drop(ending: Any) -> None:
    driver = with_topic()
    fill(driver, 3 * MAX_TRIMMED_PER_CALL)
    change(driver, max_messages=5, overflow="drop")
    driver.do(ending)
    assert not driver.machine._state.trimming
    driver.restored()


def test_dropped_messages_are_dead_lettered_where_the_new_settings_say() -> None:
    driver = with_topic()
    fill(driver, 5)
    change(driver, max_messages=2, overflow="drop", dead_letter_topic="dead")
    driver.work_off(PLENTY)
    assert driver.info("dead").ready == 3


def test_an_expiry_of_the_topic_begins_and_ends_with_the_change() -> None:
    driver = with_topic()
    driver.wait(100)
    change(driver, expires_ms=50)
    driver.wait(40)
    change(driver, max_messages=9)
    change(driver, expires_ms=0)
    driver.wait(40)
    change(driver, expires_ms=50)
    driver.wait(49)
    change(driver, max_messages=8)
    driver.wait(1)
    with pytest.raises(TopicNotFound):
        driver.info()


def test_bounds_and_lifetimes_hold_for_messages_that_come_later() -> None:
    driver = with_topic()
    driver.do(Enqueue("jobs", NewMessage(b"first", 9)))
    change(driver, priority_max=3, message_ttl_ms=20)
    driver.do(Enqueue("jobs", NewMessage(b"second", 8)))
    assert [one.priority for one in driver.ask(broker.Peek("jobs", 9)).messages] == [9, 3]
    driver.wait(20)
    assert [one.payload for one in driver.ask(broker.Peek("jobs", 9)).messages] == [b"first"]


def test_a_delivery_limit_counts_the_attempts_that_were() -> None:
    driver = with_topic()
    fill(driver, 1)
    for _ in range(2):
        driver.do(Pop("jobs"))
        (push,) = driver.deliveries()
        change(driver, delivery_limit=2)
        driver.do(broker.Nack([token(push)]))
    assert driver.info().ready == 0


# --- pauses ---


def test_a_closed_topic_refuses_messages_and_says_what_to_do() -> None:
    driver = with_topic()
    assert driver.do(PauseTopic("jobs", enqueues=True)).enqueues_paused
    refused = [
        Enqueue("jobs", NewMessage(b"")),
        EnqueueMany("jobs", [NewMessage(b"")]),
        Publish("", "jobs", NewMessage(b"")),
        broker.Batch([Enqueue("jobs", NewMessage(b""))]),
        broker.Prepare("one", 1, 0, [Enqueue("jobs", NewMessage(b""))]),
    ]
    for one in (driver, driver.restored()):
        for command in refused:
            with pytest.raises(TopicPaused, match="disheap topic resume jobs"):
                one.do(command)
    driver.do(PauseTopic("jobs", enqueues=False))
    for command in refused:
        driver.do(command)
    assert driver.info().ready == 4


def test_a_publish_skips_a_paused_topic_and_says_so() -> None:
    driver = with_topic()
    driver.do(broker.CreateExchange("all", "fanout"))
    driver.do(broker.CreateTopic("other"))
    for topic in ("jobs", "other"):
        driver.do(broker.Bind("all", topic))
    driver.do(PauseTopic("jobs", enqueues=True))
    assert driver.do(Publish("all", "", NewMessage(b""))) == broker.Published(1, 1)


def test_what_was_promised_comes_into_a_paused_topic() -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.CreateTopic("dead"))
    fill(driver, 2)
    driver.do(broker.Prepare("one", 1, 0, [Enqueue("dead", NewMessage(b"prepared"))]))
    driver.do(Pop("jobs", 2))
    first, second = driver.deliveries()
    for topic in ("jobs", "dead"):
        driver.do(PauseTopic(topic, enqueues=True))
    driver.do(broker.Nack([token(first)]))
    driver.do(broker.Nack([token(second)], discard=True))
    driver.do(broker.Commit("one", 1))
    assert (driver.info("jobs").ready, driver.info("dead").ready) == (1, 2)


def test_a_topic_whose_deliveries_are_paused_hands_out_nothing_new() -> None:
    driver = with_topic()
    fill(driver, 3)
    driver.do(broker.Subscribe("jobs", 1))
    (held,) = driver.deliveries()
    assert driver.do(PauseTopic("jobs", deliveries=True)).deliveries_paused
    driver.do(broker.Ack([token(held)]))
    driver.do(Enqueue("jobs", NewMessage(b"more", 9)))
    assert not driver.deliveries(), "the consumer has credit, and gets nothing"
    twin = driver.restored()
    for one in (driver, twin):
        one.do(PauseTopic("jobs", deliveries=False))
        assert one.payloads() == [b"more"]
    assert driver.machine.state_hash() == twin.machine.state_hash()


def test_leases_of_a_paused_topic_last_and_end_as_before() -> None:
    driver = with_topic()
    fill(driver, 2)
    driver.do(broker.Subscribe("jobs", 2, lease_ms=50))
    first, second = driver.deliveries()
    driver.do(PauseTopic("jobs", deliveries=True))
    driver.wait(40)
    driver.do(broker.Extend([token(first)], 50))
    driver.wait(20)
    assert driver.do(broker.Ack([token(first), token(second)])).stale == [token(second)]
    assert (driver.info().ready, driver.deliveries()) == (1, [])


def test_a_pop_of_a_paused_topic_waits_or_ends_without_a_message() -> None:
    driver = with_topic()
    fill(driver, 2)
    driver.do(PauseTopic("jobs", deliveries=True))
    at_once = driver.do(Pop("jobs")).consumer
    assert driver.taken() == [broker.PopDone(at_once, 0)]
    driver.do(Pop("jobs", 1, 100))
    assert not driver.taken()
    driver.wait(50)
    driver.do(PauseTopic("jobs", deliveries=False))
    assert len(driver.deliveries()) == 1


def test_a_paused_topic_does_not_stop_the_other_topics_of_a_group() -> None:
    driver = with_topic()
    driver.do(broker.CreateTopic("other"))
    for topic in ("jobs", "other"):
        driver.do(broker.Subscribe(topic, 1, group=1))
    driver.do(Enqueue("other", NewMessage(b"low", -1)))
    driver.do(PauseTopic("jobs", deliveries=True))
    driver.taken()
    driver.do(Enqueue("jobs", NewMessage(b"most urgent", 9)))
    driver.do(Enqueue("other", NewMessage(b"urgent", 5)))
    driver.do(broker.Overtake(1, 0))
    assert driver.payloads() == [b"urgent"]


def test_postponed_deliveries_end_with_a_pause() -> None:
    driver = with_topic()
    fill(driver, 2000)
    driver.do(broker.Subscribe("jobs", 2000))
    assert driver.machine._state.unserved
    driver.do(PauseTopic("jobs", deliveries=True))
    sent = len(driver.deliveries())
    driver.work_off(PLENTY)
    assert not driver.deliveries()
    driver.do(PauseTopic("jobs", deliveries=False))
    driver.work_off(PLENTY)
    assert sent + len(driver.deliveries()) == 2000


@pytest.mark.parametrize("pause", [{"deliveries": True}, {"enqueues": True}])
def test_a_transient_message_does_not_pass_a_paused_topic(pause: dict[str, bool]) -> None:
    driver = with_topic()
    driver.do(broker.Subscribe("jobs", 10, no_ack=True))
    command = broker.encode(Publish("", "jobs", NewMessage(b"event")))
    assert driver.machine.relay(driver.now, command)
    driver.do(PauseTopic("jobs", **pause))
    assert driver.machine.relay(driver.now, command) is None


def test_a_pause_is_kept_by_an_open_view_and_shown_in_figures() -> None:
    driver = with_topic()
    pieces = driver.machine.snapshot()
    driver.do(PauseTopic("jobs", True, True))
    change(driver, max_messages=4)
    old = Driver(sessions=0)
    old.machine.restore(pieces)
    info = old.info()
    assert (info.deliveries_paused, info.enqueues_paused, info.revision) == (False, False, 1)
    (row,), _ = driver.machine.list_stats(driver.now, "", "", 10)
    assert (row["deliveries_paused"], row["enqueues_paused"]) == (True, True)
    found = {metric.name: metric.samples for metric in driver.machine.metrics(driver.now)}
    assert found["disheap_topic_paused"] == [(("jobs",), 1)]
    info = driver.do(PauseTopic("jobs", deliveries=False))
    assert (info.deliveries_paused, info.enqueues_paused) == (False, True), "what is not named stays"
