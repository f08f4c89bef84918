"""What a batch does to the model of the heap machine: all of its items, or nothing.

A publish has been routed: an item is a command, with the topics that its message leads to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from disheap.protocol import broker
from disheap.testing.heap_model import Model
from disheap.testing.heap_records import ModelTopic

Item = tuple[broker.BatchItem, list[ModelTopic]]


def refusal(model: Model, session: int, items: Iterable[Item]) -> str:
    """The code of the error with which the batch is refused, or "". Each item sees the room that those before it take
    and make."""
    more: Counter[int] = Counter()  # messages, by number of the topic
    more_delayed: Counter[int] = Counter()
    settled: list[broker.Token] = []
    closed: list[str] = []
    for item, topics in items:
        if isinstance(item, broker.CloseBarrier):
            if item.barrier in closed or not model.values.is_open(item.barrier):
                return "barrier-closed"
            closed.append(item.barrier)
            continue
        if isinstance(item, broker.Enqueue | broker.Publish):
            is_delayed = item.message.delay_ms > 0
            for topic in topics:
                if topic.is_closed:
                    return "topic-paused"
                more[topic.number] += 1
                more_delayed[topic.number] += is_delayed
                full = model.is_topic_full(topic, more[topic.number])
                if full or (is_delayed and model.delayed_full(topic, more_delayed[topic.number])):
                    return "topic-full"
            continue
        for token in item.tokens:
            message = model.lease(session, token)
            if message is None:
                return "lease-lost"
            if token in settled:
                return "invalid-argument"
            settled.append(token)
            is_removed = isinstance(item, broker.Ack) or item.discard
            more[message.topic.number] -= is_removed
            more_delayed[message.topic.number] += not is_removed and isinstance(item, broker.Nack) and item.delay_ms > 0
    return ""


def carry_out(model: Model, session: int, items: Iterable[Item]) -> list[int]:
    """Carries out all items, and then serves the topics. Returns a number for each."""
    results: list[int] = []
    touched: list[ModelTopic] = []
    for item, topics in items:
        if isinstance(item, broker.CloseBarrier):
            results.append(model.values.close(item.barrier))
            continue
        if isinstance(item, broker.Enqueue | broker.Publish):
            numbers = [model.put(topic, item.message) for topic in topics]
            results.append(numbers[0] if isinstance(item, broker.Enqueue) else len(numbers))
            touched += topics
            continue
        how = "ack" if isinstance(item, broker.Ack) else "drop" if item.discard else "nack"
        how = "release" if isinstance(item, broker.Nack) and item.release else how
        for token in item.tokens:
            message = model.lease(session, token)
            assert message is not None
            touched.append(message.topic)
            by_ms, error = (item.delay_ms, item.error) if isinstance(item, broker.Nack) else (0, "")
            model.settle_one(message, how, by_ms, error)
        results.append(len(item.tokens))
    for topic in dict.fromkeys(touched):
        model.serve(topic)
    return results
