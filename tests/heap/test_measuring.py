"""What the heap counts for operators: by topic, bounded, never decreasing, and no part of the state."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

import pytest

from disheap.errors import CommandRefused
from disheap.interfaces import Buckets
from disheap.protocol.broker import (
    Ack,
    Batch,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Pop,
    Purge,
    Subscribe,
    TopicSettings,
)
from disheap_heap.measuring import COUNTERS, PRIORITIES_MAX
from disheap_heap.state.counts import Series
from tests.heap.driver import Driver


def driver(series_max: int = 10) -> Driver:
    """With a topic "t"."""
    made = Driver()
    made.machine.limit_series(series_max)
    made.do(CreateTopic("t"))
    return made


def values(heap: Driver, name: str) -> dict[tuple[str, ...], float]:
    (metric,) = [one for one in heap.machine.metrics(heap.now) if one.name == name]
    return {labels: value for labels, value in metric.samples if not isinstance(value, Buckets)}


def counts(heap: Driver, topic: str = "t") -> dict[str, float]:
    """The counters of a topic that are not 0."""
    found = {name: values(heap, f"disheap_{name}_total")[topic,] for name in COUNTERS}
    return {name: value for name, value in found.items() if value}


def waits(heap: Driver) -> Buckets:
    (metric,) = [one for one in heap.machine.metrics(heap.now) if one.name == "disheap_wait_seconds"]
    ((_, buckets),) = metric.samples
    assert isinstance(buckets, Buckets)
    return buckets


def test_each_event_is_counted_at_its_topic() -> None:
    heap = driver()
    for _ in range(2):
        heap.do(Enqueue("t", NewMessage(b"x")))
    heap.do(EnqueueMany("t", [NewMessage(b"x")] * 3))
    assert counts(heap) == {"enqueued": 5}
    heap.do(Pop("t", 4))
    first, second, third, fourth = tokens(heap)
    heap.do(Ack([first]))
    heap.do(Ack([second, (99, 1)]))
    heap.do(Nack([third]))
    heap.do(Nack([fourth], discard=True))
    assert counts(heap) == {
        "enqueued": 5, "delivered": 4, "acked": 2, "nacked": 2, "returned": 1, "dropped": 1,
    }  # fmt: skip
    heap.do(Pop("t", 1))
    assert counts(heap)["redelivered"] == 1
    heap.do(Purge("t"))
    assert counts(heap)["dropped"] == 2


def test_what_a_batch_settles_is_counted_at_its_topic() -> None:
    heap = driver()
    heap.do(EnqueueMany("t", [NewMessage(b"x")] * 4))
    heap.do(Pop("t", 4))
    first, second, third, fourth = tokens(heap)
    heap.do(Batch([Ack([first]), Nack([second]), Nack([third], 50), Nack([fourth], discard=True)]))
    assert counts(heap) == {
        "enqueued": 4, "delivered": 4, "acked": 1, "nacked": 3, "returned": 2, "dropped": 1,
    }  # fmt: skip


def tokens(heap: Driver) -> list[tuple[int, int]]:
    pushed, heap.pushed = heap.pushed, []
    return [(push.id, push.epoch) for _, push in pushed if hasattr(push, "epoch")]


def test_a_batch_is_counted_as_its_items_are() -> None:
    heap = driver()
    heap.do(EnqueueMany("t", [NewMessage(b"x")] * 3))
    heap.do(Pop("t", 3))
    first, second, third = tokens(heap)
    items = [Enqueue("t", NewMessage(b"x")), Ack([first]), Nack([second]), Nack([third], discard=True)]
    heap.do(Batch(items))
    expected = {"enqueued": 4, "delivered": 3, "acked": 1, "nacked": 2, "returned": 1, "dropped": 1}
    assert counts(heap) == expected


@pytest.mark.parametrize("seed", range(3))
def test_every_event_is_counted_whichever_command_causes_it(seed: int) -> None:
    """Every kind of command, again and again. With no series, nothing is lost when a topic is deleted. Several short
    lives: what acknowledges a message or finds a full topic happens in the first thousand commands of one."""
    generator = random.Random(seed)
    totals: Counter[str] = Counter()
    for _ in range(6):
        totals.update(_counted_life(generator))
    assert min(totals.values()) > 0, "the samples do all of that"


def _counted_life(generator: random.Random) -> dict[str, int]:
    heap = driver(series_max=0)
    machine, commands = heap.machine, heap.machine.sample_commands()
    for index in range(1000):
        heap.now += generator.choice((0, 0, 1, 50))
        machine.advance(heap.now, 1000)
        with suppress(CommandRefused):
            machine.apply(index + 10, heap.now, generator.choice((1, 2)), generator.choice(commands))
    state, rest = machine._state, machine._state.series.rest
    totals = {
        "enqueued": state.last_message, "delivered": state.delivered, "acked": state.settled,
        "returned": state.returned, "expired": state.expired, "dropped": state.dropped,
    }  # fmt: skip
    assert {name: getattr(rest, name) for name in totals} == totals
    first = sum(waits(heap).counts)
    assert 0 < first <= rest.delivered - rest.redelivered <= first + rest.released, "a release may come in between"
    assert sum(rest.dead_lettered.values()) == state.dead_lettered
    return totals | {"released": rest.released, "exhausted": rest.exhausted, **rest.dead_lettered}


def test_what_expires_and_what_a_full_topic_drops_is_counted() -> None:
    heap = driver()
    heap.do(Enqueue("t", NewMessage(b"x", expires_ms=10)))
    heap.do(Enqueue("t", NewMessage(b"x", expires_ms=10, delay_ms=50)))
    heap.do(
        Enqueue(
            "t",
            NewMessage(b"x", expires_ms=10),
        )
    )
    heap.do(Pop("t", 1))
    heap.wait(20)
    (leased,) = tokens(heap)
    assert counts(heap)["expired"] == 2
    heap.do(Nack([leased]))
    assert counts(heap)["expired"] == 3
    heap.do(CreateTopic("small", TopicSettings(max_messages=2, overflow="drop")))
    heap.do(EnqueueMany("small", [NewMessage(b"x")] * 5))
    assert counts(heap, "small") == {"enqueued": 5, "dropped": 3}


def test_a_message_without_acknowledgement_is_delivered_and_no_more() -> None:
    heap = driver()
    heap.do(Subscribe("t", 1, no_ack=True))
    heap.do(Enqueue("t", NewMessage(b"x")))
    assert counts(heap) == {"enqueued": 1, "delivered": 1}


def test_the_wait_is_measured_once_for_each_message() -> None:
    heap = driver()
    heap.do(Enqueue("t", NewMessage(b"x")))
    heap.wait(2000)
    heap.do(Pop("t", 1))
    heap.do(Nack(tokens(heap)))
    heap.wait(5000)
    heap.do(Pop("t", 1))
    found = waits(heap)
    assert (sum(found.counts), found.total) == (1, 2.0)
    assert found.counts[found.bounds.index(2.5)] == 1


def test_depths_and_the_oldest_age_are_told_by_topic() -> None:
    heap = driver()
    heap.do(Enqueue("t", NewMessage(b"x", priority=1)))
    heap.wait(1000)
    heap.do(Enqueue("t", NewMessage(b"x", priority=9)))
    heap.do(Enqueue("t", NewMessage(b"x", delay_ms=60_000)))
    heap.wait(500)
    heap.do(Pop("t", 1))
    depths = values(heap, "disheap_messages")
    assert {state: depths["t", state] for state in ("ready", "delayed", "leased")} == {
        "ready": 1, "delayed": 1, "leased": 1,
    }  # fmt: skip
    assert values(heap, "disheap_oldest_ready_age_seconds") == {("t",): 1.5}


def test_topics_beyond_the_bound_and_temporary_ones_are_summed() -> None:
    heap = driver(series_max=2)
    heap.do(CreateTopic("mine", TopicSettings(exclusive=True)))
    heap.do(CreateTopic("brief", TopicSettings(expires_ms=1000)))
    heap.do(CreateTopic("second"))
    heap.do(CreateTopic("third"))
    for topic in ("t", "second", "third", "mine", "brief"):
        heap.do(Enqueue(topic, NewMessage(b"x")))
    assert values(heap, "disheap_enqueued_total") == {("t",): 1, ("second",): 1, ("",): 3}
    ready = {topic: count for (topic, state), count in values(heap, "disheap_messages").items() if state == "ready"}
    assert ready == {"t": 1, "second": 1, "": 3}
    heap.do(DeleteTopic("second"))
    heap.do(CreateTopic("fourth"))
    heap.do(Enqueue("fourth", NewMessage(b"x")))
    assert values(heap, "disheap_enqueued_total") == {("t",): 1, ("fourth",): 1, ("",): 3}, "the rest never decreases"


def test_with_a_bound_of_0_everything_is_summed() -> None:
    heap = driver(series_max=0)
    heap.do(Enqueue("t", NewMessage(b"x")))
    assert values(heap, "disheap_enqueued_total") == {("",): 1}


def test_leases_of_a_deleted_topic_are_in_the_rest() -> None:
    heap = driver()
    heap.do(Enqueue("t", NewMessage(b"x")))
    heap.do(Pop("t", 1))
    held = tokens(heap)
    heap.do(DeleteTopic("t"))
    heap.do(CreateTopic("t"))
    heap.do(Ack(held))
    assert counts(heap) == {} and values(heap, "disheap_messages")["t", "leased"] == 0


def test_counts_are_no_part_of_the_state_and_the_bound_stays() -> None:
    heap, copy = driver(series_max=1), driver(series_max=1)
    heap.do(CreateTopic("second"))
    heap.do(Enqueue("t", NewMessage(b"x")))
    copy.machine.restore(heap.machine.snapshot())
    assert copy.machine.state_hash() == heap.machine.state_hash()
    assert values(copy, "disheap_enqueued_total") == {("t",): 0, ("",): 0}
    assert values(copy, "disheap_messages")["t", "ready"] == 1


def test_the_rows_are_paged_in_the_order_of_names() -> None:
    heap = driver()
    for number in range(5):
        heap.do(CreateTopic(f"row{number}"))
    rows, matching = heap.machine.list_stats(heap.now, "row", "", 2)
    assert ([row["name"] for row in rows], matching) == (["row0", "row1"], 5)
    rows, matching = heap.machine.list_stats(heap.now, "row", "row1", 50)
    assert ([row["name"] for row in rows], matching) == (["row2", "row3", "row4"], 5)
    assert heap.machine.list_stats(heap.now, "none", "", 2) == ([], 0)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_row_counts_the_messages_of_each_priority(mode: str) -> None:
    heap = driver()
    heap.do(CreateTopic("order", TopicSettings(mode=mode)))
    for priority in range(-PRIORITIES_MAX, PRIORITIES_MAX):
        heap.do(EnqueueMany("order", [NewMessage(b"x", priority=priority)] * 3))
    ((row,), _) = heap.machine.list_stats(heap.now, "order", "", 1)
    first = range(PRIORITIES_MAX - 1, -1, -1) if mode == "max" else range(-PRIORITIES_MAX, 0)
    assert row["priorities"] == [[priority, 3] for priority in first]
    assert (row["ready"], row["oldest_age_s"], row["is_summed"]) == (6 * PRIORITIES_MAX, 0, False)


def test_the_counts_of_ranks_agree_with_the_records_over_many_chunks() -> None:
    heap = driver()
    for start in range(0, 3000, 500):
        heap.do(EnqueueMany("t", [NewMessage(b"", priority=-(number % 7)) for number in range(start, start + 500)]))
    ((row,), _) = heap.machine.list_stats(heap.now, "t", "", 1)
    assert row["priorities"] == [[-rank, len(range(rank, 3000, 7))] for rank in range(7)]


def test_a_series_is_free_again_when_its_topic_is_gone() -> None:
    class Topic:
        def __init__(self, number: int) -> None:
            self.number, self.settings = number, TopicSettings()

    series: Series[Topic] = Series(1)  # type: ignore[type-var]
    first, second, third = Topic(1), Topic(2), Topic(3)
    series.add(first)
    series.add(second)
    series.remove(first)
    series.remove(second)
    series.add(third)
    assert list(series.shown) == [3] and second.counts is series.rest  # type: ignore[attr-defined]
