"""Retries and dead letters: what counts as an attempt, when a message dies, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import InvalidArgument, TopicFull
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage, TopicSettings, deaths
from disheap_heap.settings import MAX_DEAD_LETTER_UNITS_PER_CALL

from .driver import Driver, token

FULL_HEADERS = broker.encode_headers({"x" * 20: "y" * (broker.HEADERS_BYTES_MAX - 28)})


def with_topic(driver: Driver | None = None, name: str = "jobs", **settings: Any) -> Driver:
    driver = driver or Driver()
    driver.do(broker.CreateTopic(name, TopicSettings(**settings)))
    return driver


def delivered(driver: Driver, topic: str = "jobs", lease_ms: int = 0) -> broker.Deliver:
    driver.taken()
    driver.do(broker.Pop(topic, 1, 0, lease_ms))
    (push,) = driver.deliveries()
    return push


def peeked(driver: Driver, topic: str, **kinds: bool) -> list[broker.PeekedMessage]:
    found: list[broker.PeekedMessage] = driver.ask(broker.Peek(topic, 100, **kinds)).messages
    return found


def death(driver: Driver, topic: str = "dead") -> broker.Death:
    (message,) = peeked(driver, topic)
    found = broker.death_of(message.headers)
    assert found is not None
    return found


# --- what counts ---


def test_a_released_message_is_not_redelivered() -> None:
    driver = with_topic()
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    first = delivered(driver)
    driver.do(broker.Nack([token(first)], release=True))
    second = delivered(driver)
    assert (first.attempts, second.attempts) == (1, 1)
    assert second.epoch > first.epoch, "a token of the first lease is stale"
    assert driver.do(broker.Ack([token(first)])).stale == [token(first)]
    driver.do(broker.Nack([token(second)]))
    third = delivered(driver)
    assert (third.attempts, third.epoch) == (2, second.epoch + 1)
    state = driver.machine._state
    assert state.topics["jobs"].counts.redelivered == 1
    assert state.topics["jobs"].counts.released == 1
    assert sum(state.series.waits.read().counts) == 1, "the time to the first delivery is observed once"


def test_a_released_message_keeps_its_epoch_in_a_snapshot() -> None:
    driver = with_topic()
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    first = delivered(driver)
    driver.do(broker.Nack([token(first)], release=True))
    assert delivered(driver.restored()).epoch == delivered(driver).epoch > first.epoch


def test_releases_never_make_an_epoch_too_large() -> None:
    driver = with_topic()
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    topic = driver.machine._state.topics["jobs"]
    message = topic.ready.pop()
    topic.ready.push(message._replace(tally=(1 << 63) - 10))
    last = delivered(driver)
    driver.do(broker.Nack([token(last)], release=True))
    assert last.epoch < delivered(driver).epoch < 1 << 63


def test_a_release_with_a_delay_waits_and_does_not_count() -> None:
    driver = with_topic(delivery_limit=1, dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.do(broker.Nack([token(delivered(driver))], 20, release=True))
    assert driver.info().delayed == 1
    driver.wait(20)
    assert delivered(driver).attempts == 1


@pytest.mark.parametrize("nack", [{"discard": True}, {"error": "no"}], ids=["discard", "error"])
def test_a_release_that_contradicts_itself_is_refused(nack: dict[str, Any]) -> None:
    driver = with_topic()
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    command = broker.Nack([token(delivered(driver))], release=True, **nack)
    with pytest.raises(InvalidArgument, match="not begun"):
        driver.do(command)
    with pytest.raises(InvalidArgument, match="not begun"):
        driver.do(broker.Batch([command]))
    assert driver.info().leased == 1


def test_a_cancel_that_releases_does_so_in_slices_and_in_a_snapshot() -> None:
    driver = with_topic(delivery_limit=1, dead_letter_topic="dead")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 400))
    consumer = driver.do(broker.Subscribe("jobs", 400)).consumer
    driver.do(broker.Cancel(consumer, give_back=True, release=True))
    twin = driver.restored()
    for one in (driver, twin):
        one.work_off(100)
        assert {message.attempts for message in one.ask(broker.Peek("jobs", 1000)).messages} == {0}
        assert one.info().ready == 400
    assert driver.machine.state_hash() == twin.machine.state_hash()
    with pytest.raises(InvalidArgument, match="give_back"):
        driver.do(broker.Cancel(consumer, release=True))


# --- the delivery limit ---


def test_a_message_whose_attempts_are_used_up_is_dead_lettered() -> None:
    driver = with_topic(delivery_limit=2, dead_letter_topic="dead")
    headers = broker.encode_headers({"tenant": "blue"})
    driver.do(broker.Enqueue("jobs", NewMessage(b"poison", 7, 0, 5000, headers, "key")))
    driver.now = 10
    driver.do(broker.Nack([token(delivered(driver))], error="first"))
    driver.do(broker.Nack([token(delivered(driver))], error="second"))
    assert driver.info().ready == 0
    (letter,) = peeked(driver, "dead")
    assert (letter.payload, letter.priority, letter.key, letter.attempts) == (b"poison", 7, "key", 0)
    assert broker.without_death(letter.headers) == {"tenant": "blue"}
    history = (broker.PastDeath("jobs", "delivery_limit", 1, 10, 10),)
    expected = broker.Death("delivery_limit", "jobs", 10, 2, 1, "second", "jobs", "delivery_limit", 10, history)
    assert death(driver) == expected
    driver.wait(10_000)
    assert len(peeked(driver, "dead")) == 1, "a dead letter does not expire"


@pytest.mark.parametrize("how", ["lease", "session", "recover", "abort"])
def test_an_attempt_counts_however_its_lease_ends(how: str) -> None:
    driver = with_topic(delivery_limit=1, dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    push = delivered(driver, lease_ms=50 if how == "lease" else 0)
    if how == "lease":
        driver.wait(50)
    elif how == "session":
        driver.expire(1)
    elif how == "recover":
        driver.do(broker.Recover([push.consumer]))
    else:
        driver.do(broker.Prepare("t", 1, 0, [broker.Ack([token(push)])]))
        driver.do(broker.Abort("t", 1))
    (letter,) = driver.ask(broker.Peek("dead", 9), 2).messages
    found = broker.death_of(letter.headers)
    assert found is not None
    assert (found.reason, found.attempts) == ("delivery_limit", 1)
    assert found.error.startswith("its "), "it says how the lease ended"


def test_without_a_place_a_message_over_the_limit_is_dropped_and_counted() -> None:
    driver = with_topic(delivery_limit=1)
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.do(broker.Nack([token(delivered(driver))]))
    counts = driver.machine._state.topics["jobs"].counts
    assert (counts.exhausted, counts.dropped, counts.dead_lettered) == (1, 1, {})
    assert driver.machine.stats()["dropped"] == 1


# --- other deaths ---


def test_a_discarded_message_is_dead_lettered_with_its_error() -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.do(broker.Nack([token(delivered(driver))], 30, discard=True, error="bad input"))
    assert (death(driver).reason, death(driver).error) == ("rejected", "bad input")


@pytest.mark.parametrize("delay_ms", [0, 40])
def test_a_message_that_expires_is_dead_lettered(delay_ms: int) -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", 0, delay_ms, 20)))
    driver.wait(20)
    assert (death(driver).reason, death(driver).time_ms, death(driver).attempts) == ("expired", 20, 0)


def test_a_message_that_expired_while_leased_dies_when_it_comes_back() -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", 0, 0, 20)))
    push = delivered(driver)
    driver.wait(30)
    driver.do(broker.Nack([token(push)], error="too slow"))
    assert (death(driver).reason, death(driver).error, death(driver).attempts) == ("expired", "too slow", 1)


def test_what_a_full_topic_drops_is_dead_lettered_least_urgent_first() -> None:
    driver = with_topic(max_messages=2, overflow="drop", dead_letter_topic="dead")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"%d" % number, number) for number in range(5)]))
    assert sorted(one.payload for one in peeked(driver, "dead")) == [b"0", b"1", b"2"]
    assert {broker.death_of(one.headers).reason for one in peeked(driver, "dead")} == {"overflow"}  # type: ignore[union-attr]
    assert driver.machine._state.topics["jobs"].counts.dead_lettered == {"overflow": 3}


def test_purged_and_deleted_messages_are_not_dead_lettered() -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 3))
    driver.do(broker.Purge("jobs"))
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", 0, 0, 10)))
    delivered(driver)
    driver.do(broker.DeleteTopic("jobs"))
    driver.wait(20)
    assert "dead" not in driver.machine._state.topics


# --- where dead letters go ---


def test_the_topic_of_dead_letters_is_made_when_the_first_one_comes() -> None:
    driver = with_topic(mode="min", dead_letter_topic="dead")
    assert "dead" not in driver.machine._state.topics
    for priority in (2, 1):
        driver.do(broker.Enqueue("jobs", NewMessage(b"%d" % priority, priority)))
        driver.do(broker.Nack([token(delivered(driver))], discard=True))
    assert driver.info("dead").settings.mode == "min"
    assert [one.payload for one in peeked(driver, "dead")] == [b"1", b"2"], "in the order of its origin"


def test_a_full_topic_takes_a_dead_letter_nevertheless() -> None:
    driver = with_topic(dead_letter_topic="dead")
    with_topic(driver, "dead", max_messages=1)
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 2))
    for _ in range(2):
        driver.do(broker.Nack([token(delivered(driver))], discard=True))
    assert driver.info("dead").ready == 2
    with pytest.raises(TopicFull):
        driver.do(broker.Enqueue("dead", NewMessage(b"y")))


def test_an_exchange_gets_the_dead_letters_by_key_or_by_the_name_of_the_topic() -> None:
    driver = Driver()
    driver.do(broker.CreateExchange("dlx"))
    for name in ("by-key", "by-name", "both"):
        with_topic(driver, name)
    driver.do(broker.Bind("dlx", "by-key", "k"))
    driver.do(broker.Bind("dlx", "by-name", "jobs"))
    driver.do(broker.Bind("dlx", "both", "jobs"))
    with_topic(driver, "jobs", dead_letter_exchange="dlx")
    with_topic(driver, "keyed", dead_letter_exchange="dlx", dead_letter_key="k")
    for name in ("jobs", "keyed"):
        driver.do(broker.Enqueue(name, NewMessage(b"%s" % name.encode())))
        driver.do(broker.Nack([token(delivered(driver, name))], discard=True))
    assert {name: [one.payload for one in peeked(driver, name)] for name in ("by-key", "by-name", "both")} == {
        "by-key": [b"keyed"],
        "by-name": [b"jobs"],
        "both": [b"jobs"],
    }


def test_a_dead_letter_that_leads_nowhere_is_dropped_and_counted() -> None:
    driver = with_topic(dead_letter_exchange="nowhere")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.do(broker.Nack([token(delivered(driver))], discard=True))
    counts = driver.machine._state.topics["jobs"].counts
    assert (counts.dropped, counts.dead_lettered) == (1, {})
    assert driver.machine._state.message_bytes == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"dead_letter_topic": "jobs"}, "would come back to it"),
        ({"dead_letter_topic": "a", "dead_letter_exchange": "b"}, "not to both"),
        ({"dead_letter_key": "a"}, "dead_letter_exchange"),
        ({"dead_letter_topic": "a\x00"}, "control characters"),
        ({"retry_delay_ms": 10, "retry_delay_max_ms": 5}, "at least as much"),
        ({"retry_delay_max_ms": 5}, "which is 0"),
    ],
    ids=["itself", "both", "key alone", "bad name", "bound too low", "bound alone"],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        with_topic(**settings)


# --- several deaths ---


def test_later_deaths_keep_the_first_one_and_a_history() -> None:
    driver = with_topic(dead_letter_topic="dead")
    with_topic(driver, "dead", dead_letter_topic="jobs")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", encoded_headers=broker.encode_headers({"a": 1}))))
    for number, topic in enumerate(["jobs", "dead", "jobs"]):
        driver.now += 5
        driver.do(broker.Nack([token(delivered(driver, topic))], discard=True, error=f"{number}"))
    (letter,) = peeked(driver, "dead")
    assert broker.without_death(letter.headers) == {"a": 1}
    found = death(driver)
    assert (found.count, found.error, found.first_topic, found.first_time_ms) == (3, "2", "jobs", 5)
    assert found.history == (
        broker.PastDeath("jobs", "rejected", 2, 5, 15),
        broker.PastDeath("dead", "rejected", 1, 10, 10),
    )


def test_a_message_that_expires_in_a_circle_is_dropped() -> None:
    driver = with_topic(message_ttl_ms=10, dead_letter_topic="wait")
    with_topic(driver, "wait", message_ttl_ms=10, dead_letter_topic="jobs")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.wait(10)
    assert driver.info("wait").ready == 1
    driver.wait(10)
    assert (driver.info("jobs").ready, driver.info("wait").ready) == (0, 0)
    assert driver.machine._state.topics["wait"].counts.dropped == 1


def test_a_message_may_wait_in_a_circle_if_a_consumer_rejects_it_each_time() -> None:
    driver = with_topic(dead_letter_topic="wait")
    with_topic(driver, "wait", message_ttl_ms=10, dead_letter_topic="jobs")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    for _ in range(5):
        driver.do(broker.Nack([token(delivered(driver))], discard=True))
        driver = driver.restored()
        driver.wait(10)
    assert death(driver, "jobs").count == 10


def test_a_chain_of_topics_without_a_consumer_has_an_end() -> None:
    driver = Driver()
    for number in range(20):
        with_topic(driver, f"t{number}", message_ttl_ms=10, dead_letter_topic=f"t{number + 1}")
    driver.do(broker.Enqueue("t0", NewMessage(b"x")))
    for _ in range(25):
        driver.wait(10)
    assert driver.machine.stats()["dead_lettered"] == 16
    assert driver.machine.stats()["ready"] == 0


# --- headers have bounds ---


def test_a_dead_letter_keeps_headers_that_leave_no_room() -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", encoded_headers=FULL_HEADERS)))
    driver.do(broker.Nack([token(delivered(driver))], discard=True))
    (letter,) = peeked(driver, "dead")
    assert letter.encoded_headers == FULL_HEADERS


@pytest.mark.parametrize("left", [60, 200, 400, 700])
def test_what_is_least_needed_is_left_out_first(left: int) -> None:
    own = {"x": "y" * (broker.HEADERS_BYTES_MAX - left)}
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", encoded_headers=broker.encode_headers(own))))
    driver.do(broker.Nack([token(delivered(driver))], discard=True, error="e" * 100))
    (letter,) = peeked(driver, "dead")
    assert len(letter.encoded_headers) <= broker.HEADERS_BYTES_MAX
    added = [name for name in letter.headers if name in deaths.DEATH_HEADERS]
    assert added[0] == deaths.REASON
    assert added == [name for name in deaths.DEATH_HEADERS if name in added]
    assert (deaths.HISTORY in added) == (left >= 400)


def test_the_oldest_history_is_left_out_first() -> None:
    driver = Driver()
    names = [f"{number:02d}" + "n" * 240 for number in range(12)]
    for name, after in zip(names, [*names[1:], "end"], strict=True):
        with_topic(driver, name, dead_letter_topic=after)
    own = {"x": "y" * (broker.HEADERS_BYTES_MAX - 2000)}
    driver.do(broker.Enqueue(names[0], NewMessage(b"x", encoded_headers=broker.encode_headers(own))))
    for name in names:
        driver.do(broker.Nack([token(delivered(driver, name))], discard=True))
    (letter,) = peeked(driver, "end")
    found = death(driver, "end")
    assert len(letter.encoded_headers) <= broker.HEADERS_BYTES_MAX
    assert 0 < len(found.history) < broker.HISTORY_MAX
    assert [one.topic for one in found.history] == names[::-1][: len(found.history)]
    assert found.count == 12


def test_as_many_headers_as_there_may_be_stay() -> None:
    own = {f"h{number}": number for number in range(broker.HEADERS_MAX - 2)}
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", encoded_headers=broker.encode_headers(own))))
    driver.do(broker.Nack([token(delivered(driver))], discard=True))
    (letter,) = peeked(driver, "dead")
    assert letter.headers == own | {deaths.REASON: "rejected", deaths.TOPIC: "jobs"}


def test_a_client_that_sets_such_headers_changes_no_death() -> None:
    driver = with_topic(dead_letter_topic="dead")
    forged = {deaths.REASON: "forged", deaths.COUNT: "many", deaths.HISTORY: "{", deaths.PREFIX + "x": 1, "own": 2}
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", encoded_headers=broker.encode_headers(forged))))
    driver.do(broker.Nack([token(delivered(driver))], discard=True))
    found = death(driver)
    assert (found.reason, found.count, len(found.history)) == ("rejected", 2, 1)
    (letter,) = peeked(driver, "dead")
    assert broker.without_death(letter.headers) == {"own": 2}


# --- retries wait ---


def test_pauses_double_up_to_their_bound_and_are_the_same_on_every_replica() -> None:
    driver = with_topic(retry_delay_ms=1000, retry_delay_max_ms=4000)
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 50))
    twin = driver.restored()
    for bound in (1000, 2000, 4000, 4000):
        for one in (driver, twin):
            one.taken()
            one.do(broker.Pop("jobs", 50))
            one.do(broker.Nack([token(push) for push in one.deliveries()]))
        pauses = [one.due_ms - driver.now for one in peeked(driver, "jobs", delayed=True)]
        assert pauses == [one.due_ms - twin.now for one in peeked(twin, "jobs", delayed=True)]
        assert len(pauses) == 50
        assert all(bound // 2 <= pause <= bound for pause in pauses)
        assert len(set(pauses)) > 25, "they do not come back together"
        for one in (driver, twin):
            one.wait(bound)


def test_a_nack_with_a_delay_of_its_own_waits_for_that() -> None:
    driver = with_topic(retry_delay_ms=1000)
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.do(broker.Nack([token(delivered(driver))], 7))
    (message,) = peeked(driver, "jobs", delayed=True)
    assert message.due_ms == 7


def test_messages_of_a_session_that_ended_wait_and_released_ones_do_not() -> None:
    driver = with_topic(retry_delay_ms=1000)
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 2))
    driver.do(broker.Nack([token(delivered(driver))], release=True))
    assert driver.info().ready == 2
    delivered(driver)
    driver.expire(1)
    assert (driver.info().ready, driver.info().delayed) == (1, 1)


# --- much at once ---


def test_dead_letters_of_one_call_are_bounded_and_the_rest_comes_later() -> None:
    driver = with_topic(max_messages=10, overflow="drop", dead_letter_topic="dead")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"%d" % number) for number in range(1000)]))
    at_once = driver.info("dead").ready
    assert 0 < at_once <= MAX_DEAD_LETTER_UNITS_PER_CALL
    assert driver.machine.stats()["postponed"] == 990 - at_once
    twin = driver.restored()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    for one in (driver, twin):
        assert one.work_off(100) >= 30, "in slices"
        assert one.info("dead").ready == 990
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert [one.payload for one in peeked(driver, "dead")][:3] == [b"0", b"1", b"2"]


def test_a_view_shows_messages_that_waited_to_be_dead_lettered() -> None:
    driver = with_topic(max_messages=10, overflow="drop", dead_letter_topic="dead")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"%d" % number) for number in range(1000)]))
    before, pieces = driver.machine.state_hash(), driver.machine.snapshot()
    driver.work_off(100)
    twin = Driver(sessions=0)
    twin.machine.restore(pieces)
    assert twin.machine.state_hash() == before
    twin.work_off(1000)
    assert twin.info("dead").ready == 990


def test_dead_letters_for_many_topics_are_always_postponed() -> None:
    driver = Driver()
    driver.do(broker.CreateExchange("all", "fanout"))
    for number in range(300):
        with_topic(driver, f"t{number}")
        driver.do(broker.Bind("all", f"t{number}"))
    with_topic(driver, "jobs", dead_letter_exchange="all")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x" * 100)] * 3))
    driver.taken()
    driver.do(broker.Pop("jobs", 3))
    driver.do(broker.Nack([token(push) for push in driver.deliveries()], discard=True))
    assert driver.machine.stats()["postponed"] == 3
    driver.work_off(10)
    assert driver.machine.stats()["ready"] == 900
    assert driver.restored().machine.state_hash() == driver.machine.state_hash()


def test_a_topic_that_is_deleted_meanwhile_still_has_its_dead_letters() -> None:
    driver = with_topic(max_messages=10, overflow="drop", dead_letter_topic="dead")
    driver.do(broker.EnqueueMany("jobs", [NewMessage(b"x")] * 500))
    driver.do(broker.DeleteTopic("jobs"))
    driver.work_off(100)
    assert driver.info("dead").ready == 490
    assert driver.machine._state.message_bytes == 490 + sum(
        len(one.encoded_headers) for one in driver.ask(broker.Peek("dead", 1000)).messages
    )


# --- metrics ---


def test_dead_letters_are_counted_by_topic_and_reason() -> None:
    driver = with_topic(dead_letter_topic="dead")
    driver.do(broker.Enqueue("jobs", NewMessage(b"x", 0, 0, 10)))
    driver.wait(10)
    driver.do(broker.Enqueue("jobs", NewMessage(b"x")))
    driver.do(broker.Nack([token(delivered(driver))], discard=True))
    (metric,) = [one for one in driver.machine.metrics(0) if one.name == "disheap_dead_lettered_total"]
    reasons = dict.fromkeys(broker.REASONS, 0)
    assert dict(metric.samples) == {("jobs", reason): 0 for reason in reasons} | {
        ("", reason): 0 for reason in reasons
    } | {("jobs", "expired"): 1, ("jobs", "rejected"): 1}
    assert driver.machine.stats()["dead_lettered"] == 2
