"""Queries about messages, answered from the model."""

from __future__ import annotations

from collections.abc import Iterable

from disheap.protocol import broker
from disheap.testing.heap_model import Model
from disheap.testing.heap_records import ModelMessage, ModelTopic, ModelTransaction


def browsed(here: Iterable[ModelMessage], query: broker.Browse) -> broker.Browsed:
    """The answer to a `Browse` of a topic that has these messages."""
    kinds = {"ready": query.ready, "delayed": query.delayed, "leased": query.leased}
    in_order = sorted(here, key=lambda one: one.id)
    found = [one.peeked() for one in in_order if one.id > query.after and kinds[one.state]]
    page = found[: query.limit]
    return broker.Browsed(page, page[-1].id if len(found) > len(page) else 0)


def explained(model: Model, topic: ModelTopic, number: int, now_ms: int) -> broker.Explained:
    """The answer to an `Explain` of the message of this id."""
    ready, active = model.ready(topic), model.active(topic)
    counts = (now_ms, len(ready), len(active), sum(model.can_receive(one) for one in active))
    one = next((one for one in model.messages if one.topic is topic and one.id == number), None)
    if one is None or one.transaction is not None:
        return broker.Explained("" if one is None else "frozen", *counts, deliveries_paused=topic.holds_back)
    ahead = ready.index(one) if one.state == "ready" else 0
    connected = one.holder is not None and bool(model.attached.get(one.holder.session))
    lease = (one.until_ms, connected)
    return broker.Explained(
        one.state, *counts, ahead, one.expires_at_ms, *lease, message=one.peeked(), deliveries_paused=topic.holds_back
    )


def transaction_info(one: ModelTransaction) -> broker.TransactionInfo:
    """The row of an open transaction."""
    size = sum(len(new.payload) + len(new.encoded_headers) + len(new.key.encode()) for new, _ in one.prepared)
    times = (one.prepared_ms, one.deadline_ms)
    return broker.TransactionInfo(
        one.name, one.epoch, one.session, *times, len(one.prepared), size, len(one.frozen), list(one.participants),
        one.coordinator,
    )  # fmt: skip
