"""Several enqueues, publishes and settlements in one command: all of them, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import (
    BatchTooLarge,
    CommandRefused,
    ExchangeNotFound,
    InvalidArgument,
    InvalidHeaders,
    LeaseLost,
    TopicFull,
    TopicNotFound,
)
from disheap.protocol.broker import (
    BATCH_PARTS_MAX,
    Ack,
    Batch,
    Batched,
    BatchItem,
    Bind,
    CreateExchange,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Publish,
    Subscribe,
    TopicSettings,
    encode_headers,
)
from disheap_heap.settings import HEADERS_PER_BATCH_UNIT, UNITS_PER_PART

from .driver import Driver, token
from .worst_case import many_patterns


def with_topics() -> Driver:
    """Topics `jobs` and `done`, and `small` for two messages; an exchange `all` to the first two."""
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(CreateTopic("done"))
    driver.do(CreateTopic("small", TopicSettings(max_messages=2)))
    driver.do(CreateExchange("all", "fanout"))
    driver.do(Bind("all", "jobs"))
    driver.do(Bind("all", "done"))
    return driver


def with_leases(count: int = 3) -> tuple[Driver, list[tuple[int, int]]]:
    """Session 1 holds messages of `jobs`."""
    driver = with_topics()
    driver.do(EnqueueMany("jobs", [NewMessage(b"job %d" % number) for number in range(count)]))
    driver.do(Subscribe("jobs", count))
    return driver, [token(one) for one in driver.deliveries()]


def enqueue(topic: str, payload: bytes = b"x", **fields: Any) -> Enqueue:
    return Enqueue(topic, NewMessage(payload, **fields))


def test_all_items_take_effect_and_each_has_a_result() -> None:
    driver, tokens = with_leases()
    items: list[BatchItem] = [
        enqueue("done", b"result"),
        Publish("all", "", NewMessage(b"news")),
        Ack(tokens[:2]),
        Nack(tokens[2:], 50),
        enqueue("small"),
    ]
    assert driver.do(Batch(items)) == Batched([4, 2, 2, 1, 7])
    assert (driver.info("done").ready, driver.info("small").ready) == (2, 1)
    assert (driver.info().leased, driver.info().delayed) == (1, 1), "the news is delivered at once"
    assert driver.payloads() == [b"news"]
    assert (driver.machine.stats()["settled"], driver.machine.stats()["returned"]) == (2, 1)


@pytest.mark.parametrize(
    ("bad", "error", "what"),
    [
        (enqueue("nowhere"), TopicNotFound, "item 3 of the batch, Enqueue: there is no topic 'nowhere'"),
        (enqueue("done", encoded_headers=b"\x81"), InvalidHeaders, "item 3 of the batch, Enqueue: headers are one"),
        (Publish("none", "", NewMessage(b"")), ExchangeNotFound, "item 3 of the batch, Publish: there is no exchange"),
        (Publish("", "none", NewMessage(b""), True), TopicNotFound, "item 3 .*leads the key 'none' to no topic"),
        (Ack([(9, 9)]), LeaseLost, r"item 3 of the batch, Ack: the lease \[9, 9\] is no longer held"),
        (Nack([(1, 1)]), InvalidArgument, r"item 3 .*the lease \[1, 1\] is settled by another part"),
        (Nack([(2, 1), (2, 1)]), InvalidArgument, r"item 3 .*the lease \[2, 1\] is settled by another part"),
    ],
)
def test_a_refused_item_refuses_the_batch_and_is_named(bad: Any, error: type[CommandRefused], what: str) -> None:
    driver, tokens = with_leases()
    before = driver.machine.state_hash()
    with pytest.raises(error, match=what) as caught:
        driver.do(Batch([enqueue("done"), Ack(tokens[:1]), bad, enqueue("done")]))
    assert str(caught.value).endswith("Nothing of the batch was done")
    assert driver.machine.state_hash() == before
    assert driver.taken() == []


def test_a_lease_of_another_session_is_not_settled() -> None:
    driver, tokens = with_leases()
    with pytest.raises(LeaseLost, match="item 1"):
        driver.do(Batch([Ack(tokens)]), session=2)
    assert driver.info().leased == 3


def test_a_batch_does_not_exceed_the_limit_of_a_topic() -> None:
    driver = with_topics()
    with pytest.raises(TopicFull, match=r"item 3 .*'small' holds 0 of at most 2 messages and cannot take 3 more"):
        driver.do(Batch([enqueue("small")] * 3))
    assert driver.do(Batch([enqueue("small")] * 2)) == Batched([1, 2])


def test_a_batch_does_not_exceed_the_delayed_messages_of_a_topic_that_drops() -> None:
    driver = Driver()
    driver.do(CreateTopic("d", TopicSettings(max_messages=2, overflow="drop")))
    with pytest.raises(TopicFull, match="item 3"):
        driver.do(Batch([enqueue("d", delay_ms=5)] * 3))
    driver.do(Batch([enqueue("d", delay_ms=5), *[enqueue("d")] * 3, enqueue("d", delay_ms=5)]))
    assert (driver.info("d").ready, driver.info("d").delayed) == (2, 2)


def test_an_ack_makes_room_for_a_later_item_of_its_batch() -> None:
    driver = with_topics()
    driver.do(Batch([enqueue("small")] * 2))
    driver.do(Subscribe("small", 2))
    first, _ = driver.deliveries()
    with pytest.raises(TopicFull, match="item 1"):
        driver.do(Batch([enqueue("small"), Ack([token(first)])]))
    assert driver.do(Batch([Ack([token(first)]), enqueue("small", b"next")])).results == [1, 3]
    assert driver.payloads() == [b"next"]


def test_what_is_given_back_takes_its_room_again() -> None:
    driver = with_topics()
    driver.do(Batch([enqueue("small")] * 2))
    driver.do(Subscribe("small", 2))
    first, _ = driver.deliveries()
    with pytest.raises(TopicFull, match="item 2"):
        driver.do(Batch([Nack([token(first)]), enqueue("small")]))
    assert driver.do(Batch([Nack([token(first)], 0, True), enqueue("small")])).results == [1, 3]


def test_a_publish_that_one_topic_refuses_refuses_the_batch() -> None:
    driver = with_topics()
    driver.do(Bind("all", "small"))
    driver.do(Batch([enqueue("small")] * 2))
    with pytest.raises(TopicFull, match="item 2 of the batch, Publish: topic 'small'"):
        driver.do(Batch([enqueue("jobs"), Publish("all", "", NewMessage(b"news"))]))
    assert driver.info().ready == 0


def test_a_publish_that_leads_nowhere_has_the_result_0() -> None:
    assert with_topics().do(Batch([Publish("", "none", NewMessage(b""))])) == Batched([0])


def test_messages_of_one_publish_share_their_body() -> None:
    driver = with_topics()
    driver.do(Batch([Publish("all", "", NewMessage(b"x" * 1000))]))
    assert driver.machine._state.repeated_bytes == 1000
    assert driver.restored().machine.state_hash() == driver.machine.state_hash()


def test_all_messages_have_their_places_before_one_is_delivered() -> None:
    driver = with_topics()
    driver.do(Subscribe("jobs", 1))
    driver.do(Batch([enqueue("jobs", b"low"), enqueue("jobs", b"high", priority=9)]))
    assert driver.payloads() == [b"high"]


def test_topics_are_served_in_the_order_of_the_items() -> None:
    driver = with_topics()
    driver.do(Subscribe("jobs", 9))
    driver.do(Subscribe("done", 9))
    driver.do(Batch([enqueue("done", b"1"), enqueue("jobs", b"2"), enqueue("done", b"3")]))
    assert driver.payloads() == [b"1", b"3", b"2"]


def test_many_deliveries_of_a_batch_are_postponed() -> None:
    driver = with_topics()
    driver.do(Subscribe("jobs", BATCH_PARTS_MAX))
    driver.do(Batch([enqueue("jobs")] * BATCH_PARTS_MAX))
    assert len(driver.deliveries()) == 512
    driver.work_off(100)
    assert len(driver.deliveries()) == BATCH_PARTS_MAX - 512


@pytest.mark.parametrize(
    "part",
    [
        [enqueue("jobs")],
        [Publish("", "jobs", NewMessage(b""))],
        [Publish("", "nowhere", NewMessage(b""))],
    ],
)
def test_a_batch_has_a_bounded_number_of_parts(part: list[BatchItem]) -> None:
    driver = with_topics()
    before = driver.machine.state_hash()
    with pytest.raises(
        BatchTooLarge, match=rf"item {BATCH_PARTS_MAX + 1} .*over the limit of {BATCH_PARTS_MAX}\. A part"
    ):
        driver.do(Batch(part * (BATCH_PARTS_MAX + 1)))
    assert driver.machine.state_hash() == before
    assert len(driver.do(Batch(part * BATCH_PARTS_MAX)).results) == BATCH_PARTS_MAX


def test_tokens_and_topics_of_a_publish_are_parts() -> None:
    driver, tokens = with_leases(BATCH_PARTS_MAX)
    driver.work_off(1000)
    tokens += [token(one) for one in driver.deliveries()]
    with pytest.raises(BatchTooLarge, match="item 2"):
        driver.do(Batch([Ack(tokens[:-1]), Publish("all", "", NewMessage(b""))]))
    assert driver.do(Batch([Ack(tokens[:-3]), Publish("all", "", NewMessage(b""))])).results[1] == 2


def test_headers_count_as_parts() -> None:
    driver = with_topics()
    headers = encode_headers({f"name-{number}": 1 for number in range(HEADERS_PER_BATCH_UNIT * UNITS_PER_PART)})
    half = BATCH_PARTS_MAX // 2
    items: list[BatchItem] = [enqueue("jobs", encoded_headers=headers)] * half
    with pytest.raises(BatchTooLarge, match=rf"item {half + 1} .*take as much as {half} more"):
        driver.do(Batch([*items, enqueue("jobs")]))
    assert len(driver.do(Batch(items)).results) == half


def test_walks_through_patterns_count_as_parts_whatever_is_cached() -> None:
    driver = many_patterns()
    keys = [".".join([*"a" * 8, f"w{number}"]) for number in range(200)]
    items: list[BatchItem] = [Publish("e", key, NewMessage(b"")) for key in keys]
    for key in keys[:150]:
        driver.do(Publish("e", key, NewMessage(b"")))
    twin = driver.restored()
    assert driver.machine._state.routes.size() != twin.machine._state.routes.size()
    refusals = []
    for one in (driver, twin):
        with pytest.raises(BatchTooLarge) as caught:
            one.do(Batch(items))
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]
    assert driver.do(Batch(items[:80])) == twin.do(Batch(items[:80])) == Batched([0] * 80)


def test_a_publish_of_a_batch_reaches_no_more_topics_than_one_alone() -> None:
    driver = Driver(fanout=1)
    driver.do(CreateExchange("all", "fanout"))
    for name in "ab":
        driver.do(CreateTopic(name))
        driver.do(Bind("all", name))
    with pytest.raises(InvalidArgument, match=r"item 1 .*leads to 2 topics, over the limit of 1"):
        driver.do(Batch([Publish("all", "", NewMessage(b""))]))
