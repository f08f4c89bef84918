"""Which messages die, and why; what becomes of them (docs/reference/topics-and-messages.md).

A message dies when its deliveries are used up, its consumer discards it, it expires, or its topic is full and drops. If
the topic names a place for dead letters, the message waits in `State.dying`. Otherwise it is dropped. `commands` takes
it from there: it makes the dead letter and publishes it. A message of a topic that is purged or deleted is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from disheap.protocol.broker import deaths
from disheap_heap.delivery.dropping import drop_message, drop_ready, take_ready
from disheap_heap.state.dying import DeathNote
from disheap_heap.state.messages import Message
from disheap_heap.state.state import State, Topic

BY_ID = itemgetter(1)
"""The key by which messages come in the order of arrival. A named tuple's attribute would take longer."""


def die(state: State, topic: Topic, message: Message, reason: str, error: str = "") -> None:
    """Ends a message that was taken out of its topic, or whose lease was released."""
    if reason == deaths.EXPIRED:
        state.expired += 1
        topic.counts.expired += 1
    elif reason == deaths.DELIVERY_LIMIT:
        topic.counts.exhausted += 1
    if topic.dead_letters_to is not None and topic.alive:
        _note(state, topic, (message,), reason, error)
        return
    drop_message(state, message)
    if reason != deaths.EXPIRED:
        state.dropped += 1
        topic.counts.dropped += 1


def expire_ready(state: State, topic: Topic, message: Message) -> None:
    """A message that was taken out of the ready ones has expired. Its timer has fired."""
    if topic.dead_letters_to is None:
        drop_ready(state, topic, [message])
        state.expired += 1
        topic.counts.expired += 1
    else:
        take_ready(state, topic, [message])
        die(state, topic, message, deaths.EXPIRED)


def drop_excess(state: State, topic: Topic, limit: int = 2) -> int:
    """Drops what is too much in a topic that drops when it is full: the lowest priority, and among equals the oldest.
    What is kept does not depend on how many messages came at once. Drops at most `limit` messages. By default that is
    enough for one more message. Returns how many it dropped."""
    excess = min(limit, len(topic.ready) - topic.settings.max_messages)
    if excess <= 0:
        return 0
    dropped = topic.ready.take_lowest(excess)
    expiring = [message.id for message in dropped if message.expires_at_ms]
    state.timers.disarm_messages(expiring, topic.number)
    state.units += excess
    if topic.dead_letters_to is None:
        drop_ready(state, topic, dropped)
        state.dropped += excess
        topic.counts.dropped += excess
        return excess
    take_ready(state, topic, dropped)
    _note(state, topic, sorted(dropped, key=BY_ID), deaths.OVERFLOW, "")  # in the order of arrival
    return excess


def _note(state: State, topic: Topic, messages: Sequence[Message], reason: str, error: str) -> None:
    """Lets messages wait to be dead-lettered. The topic has a place for them, and is not deleted."""
    assert topic.dead_letters_to is not None
    rest = (topic.name, topic.number, topic.sign, *topic.dead_letters_to, reason, state.now_ms, error)
    add, new = state.dying.add, tuple.__new__  # the constructor of a named tuple takes as long again
    for message in messages:
        add(new(DeathNote, (message, *rest)))
