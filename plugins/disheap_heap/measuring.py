"""Metrics and statistics of the machine (`interfaces.Measuring`). Reads the state and changes nothing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any, Literal

from disheap.interfaces import Metric
from disheap.protocol.broker import REASONS
from disheap_heap.state.counts import Counts
from disheap_heap.state.state import State, Topic

PRIORITIES_MAX = 20
"""In one row: the first ones in the order of delivery."""

COUNTERS = {
    "enqueued": "Messages that were put into the topic.",
    "delivered": "Messages that were handed to consumers, each time they were.",
    "redelivered": "Deliveries of messages that were delivered before.",
    "acked": "Messages that were acknowledged.",
    "nacked": "Messages that their consumers gave back or discarded.",
    "returned": "Messages that went back to their place: given back, lease ended, or session ended.",
    "released": "Messages that their consumers gave back without having begun them.",
    "expired": "Messages that expired before anybody acknowledged them.",
    "exhausted": "Messages that reached the delivery limit of the topic.",
    "dropped": "Messages that were dropped and not dead-lettered: purged, discarded, in a full topic, or with it.",
}
"""Events of one topic, and what they are."""


def metrics(state: State, time_ms: int) -> list[Metric]:
    """All metrics of the machine. Topics that are not counted one by one are summed under the label ""."""
    shown, table, values = list(state.series.shown.values()), state.transactions, state.values
    return [
        *(_counter(state, shown, name, text) for name, text in COUNTERS.items()),
        _dead_letters(state, shown),
        _messages(state, shown),
        _gauge("disheap_oldest_ready_age_seconds", "Since its enqueueing, of the message that is ready the longest.",
               [((topic.name,), age_s) for topic in shown if (age_s := oldest_age_s(topic, time_ms)) is not None]),
        _gauge("disheap_consumers", "Consumers of the topic, without pops.",
               _with_rest(shown, lambda topic: topic.subscribers, state.subscribers)),
        _gauge("disheap_topic_paused", "1 for a topic whose deliveries or enqueues are paused. Others are left out.",
               [((topic.name,), 1) for topic in shown if topic.holds_back or topic.is_closed]),
        _plain("disheap_topics", "Topics.", len(state.topics)),
        _plain("disheap_exchanges", "Exchanges.", len(state.exchanges)),
        _plain("disheap_message_bytes", "Bytes of all messages: payload, headers and key.", state.message_bytes),
        _plain("disheap_transactions", "Transactions that wait for their decision.", len(table.open)),
        _plain("disheap_prepared_messages", "Messages that wait for the decision on a transaction.", table.prepared),
        _plain("disheap_prepared_bytes", "Bytes of prepared messages: payload, headers and key.", table.prepared_bytes),
        _plain("disheap_frozen_messages", "Leased messages whose ack waits for a decision.", len(table.frozen)),
        _plain("disheap_oldest_transaction_age_seconds", "Since PREPARE, of the oldest open transaction; 0 for none.",
               _oldest_transaction_s(state, time_ms)),
        _plain("disheap_forwarding_messages", "Messages that other groups have not confirmed.", len(state.outbox)),
        _plain("disheap_values", "Values under keys, such as results.", len(values.by_number)),
        _plain("disheap_value_bytes", "Bytes of all values with their keys.", values.size),
        _plain("disheap_watches", "Keys that sessions watch.", values.watches),
        _plain("disheap_barriers", "Barriers, open ones and closed ones that are remembered.", len(values.barriers)),
        Metric("disheap_values_set_total", "counter", "Values that were set.", (), [((), values.set_count)]),
        Metric("disheap_values_expired_total", "counter", "Values that expired.", (), [((), values.expired_count)]),
        Metric("disheap_wait_seconds", "histogram", "From enqueueing to the first delivery, a delay included.", (),
               [((), state.series.waits.read())]),
    ]  # fmt: skip


def list_stats(state: State, time_ms: int, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], int]:
    """A page of topics, and how many have the prefix."""
    names = state.topic_names
    first = bisect_left(names, prefix)
    end = bisect_right(names, prefix, first, key=lambda name: name[: len(prefix)])
    start = max(first, bisect_right(names, after, 0, end)) if after else first
    return [_row(state, state.topics[name], time_ms) for name in names[start : min(end, start + limit)]], end - first


def oldest_age_s(topic: Topic, time_ms: int) -> float | None:
    """Seconds since the enqueueing of the message that is ready for the longest time. If very many are ready, it is
    chosen among those with the lowest ids. None if none is ready."""
    message = topic.ready.by_id().an_early_value()
    return max(0, time_ms - message.enqueued_ms) / 1000 if message is not None else None


def _row(state: State, topic: Topic, time_ms: int) -> dict[str, Any]:
    priorities = [[rank * topic.sign, count] for rank, count in topic.ready.count_ranks(PRIORITIES_MAX)]
    return {
        "name": topic.name,
        "ready": len(topic.ready),
        "delayed": len(topic.delayed),
        "leased": topic.leased,
        "consumers": topic.subscribers,
        "ready_bytes": topic.ready_bytes,
        "oldest_age_s": oldest_age_s(topic, time_ms),
        "priorities": priorities,
        "dead_lettered": dict(topic.counts.dead_lettered),
        "deliveries_paused": topic.holds_back,
        "enqueues_paused": topic.is_closed,
        "is_summed": topic.counts is state.series.rest,
    }


def _counter(state: State, shown: list[Topic], name: str, text: str) -> Metric:
    def count(counts: Counts) -> int:
        return int(getattr(counts, name))

    samples = [((topic.name,), count(topic.counts)) for topic in shown]
    return Metric(f"disheap_{name}_total", "counter", text, ("topic",), [*samples, (("",), count(state.series.rest))])


def _dead_letters(state: State, shown: list[Topic]) -> Metric:
    """Samples of the topics that have a place for dead letters, and of all that are not counted one by one."""
    counted = [(topic.name, topic.counts) for topic in shown if topic.dead_letters_to is not None]
    counted.append(("", state.series.rest))
    samples = [((name, reason), counts.dead_lettered.get(reason, 0)) for name, counts in counted for reason in REASONS]
    text = "Messages of the topic that were dead-lettered, by reason."
    return Metric("disheap_dead_lettered_total", "counter", text, ("topic", "reason"), samples)


def _messages(state: State, shown: list[Topic]) -> Metric:
    kinds: dict[str, tuple[Callable[[Topic], int], int]] = {
        "ready": (lambda topic: len(topic.ready), state.ready),
        "delayed": (lambda topic: len(topic.delayed), state.delayed),
        "leased": (lambda topic: topic.leased, len(state.leases)),
    }
    samples = [
        ((*labels, kind), value)
        for kind, (count, total) in kinds.items()
        for labels, value in _with_rest(shown, count, total)
    ]
    return Metric("disheap_messages", "gauge", "Messages in the topic, by state.", ("topic", "state"), samples)


def _with_rest(shown: list[Topic], count: Callable[[Topic], int], total: int) -> list[tuple[tuple[str, ...], float]]:
    """A sample for each topic, and one for what the total has beyond them."""
    samples: list[tuple[tuple[str, ...], float]] = [((topic.name,), count(topic)) for topic in shown]
    return [*samples, (("",), total - sum(value for _, value in samples))]


def _gauge(name: str, text: str, samples: list[tuple[tuple[str, ...], float]]) -> Metric:
    return Metric(name, "gauge", text, ("topic",), samples)


def _oldest_transaction_s(state: State, time_ms: int) -> float:
    oldest = next(iter(state.transactions.open.values()), None)
    return max(0, time_ms - oldest.prepared_ms) / 1000 if oldest is not None else 0.0


def _plain(name: str, text: str, value: float, kind: Literal["gauge"] = "gauge") -> Metric:
    return Metric(name, kind, text, (), [((), value)])
