"""Enqueue into a topic by name, and publish through an exchange.

Every check comes before any change. A batch enqueues all of its messages or none. A publish to several topics skips the
full ones.
"""

from __future__ import annotations

from disheap.errors import CommandRefused, InvalidArgument, TopicFull, TopicNotFound, TopicPaused
from disheap.protocol.broker import (
    Enqueue,
    Enqueued,
    EnqueuedMany,
    EnqueueMany,
    NewMessage,
    Publish,
    Published,
    check_batch,
)
from disheap_heap.commands.checks import check_capacity, check_delayed_capacity, check_message, find_topic, not_found
from disheap_heap.commands.exchanges import find_topics
from disheap_heap.delivery.batches import add_many
from disheap_heap.delivery.delivery import add, serve, serve_all
from disheap_heap.encoding import PUBLISHED, encode
from disheap_heap.settings import HEADERS_PER_UNIT
from disheap_heap.state.messages import Message, SharedMessage
from disheap_heap.state.state import State, Topic


def enqueue(state: State, session: int, command: Enqueue) -> bytes:
    """Puts one message into a topic. The reply has its id."""
    topic, message = state.topics.get(command.topic), command.message
    if topic is None:
        raise not_found(state, command.topic)
    body = check_message(state, message)
    if topic.limits:
        check_capacity(topic, 1)
        check_delayed_capacity(topic, message.delay_ms > 0)
    number = add(state, topic, message, body)
    if topic.turns.by_number or topic.overtaking:
        serve(state, topic)
    return encode(Enqueued(number))


def enqueue_many(state: State, session: int, command: EnqueueMany) -> bytes:
    """Puts several messages into a topic, all or none. The reply has the first id and the count."""
    topic = find_topic(state, command.topic)
    with_headers = [one.encoded_headers for one in command.messages if one.encoded_headers]
    if with_headers:
        state.units += check_batch(with_headers) // HEADERS_PER_UNIT
    bodies = [check_message(state, message) for message in command.messages]
    check_capacity(topic, len(command.messages))
    check_delayed_capacity(topic, sum(message.delay_ms > 0 for message in command.messages))
    first = state.last_message + 1
    add_many(state, topic, command.messages, bodies)
    serve(state, topic)
    return encode(EnqueuedMany(first, len(bodies)))


def publish(state: State, session: int, command: Publish) -> bytes:
    """Puts a message into each topic to which the exchange routes it. The reply counts those that are full or
    paused."""
    topics = find_topics(state, command.exchange, command.routing_key, command.message.encoded_headers)
    body = check_message(state, command.message)
    found = len(topics)
    if found != 1:
        check_found(state, command, found)
    topics = _with_capacity(topics, command.message)
    kind = SharedMessage if len(topics) > 1 else Message
    for topic in topics:
        add(state, topic, command.message, body, kind)
        if topic.turns.by_number or topic.overtaking:
            serve(state, topic)
    if len(topics) < found:
        return encode(Published(len(topics), found - len(topics)))
    return PUBLISHED[found] if found < 2 else encode(Published(found))


def publish_anyhow(state: State, command: Publish) -> None:
    """Publishes a message that was promised, and that nobody is there to be refused to. A full topic takes it as well.
    One that leads nowhere, or to too many topics, is dropped."""
    try:
        topics = find_topics(state, command.exchange, command.routing_key, command.message.encoded_headers)
    except CommandRefused:
        return
    if len(topics) > state.settings.fanout:
        return
    body = check_message(state, command.message)
    kind = SharedMessage if len(topics) > 1 else Message
    for topic in topics:
        add(state, topic, command.message, body, kind)
    serve_all(state, topics)


def check_found(state: State, command: Publish, found: int) -> None:
    """Raises `TopicNotFound` or `InvalidArgument` if a message leads to no topic or to too many."""
    if not found and command.mandatory:
        raise TopicNotFound(
            f"exchange {command.exchange!r} leads the key {command.routing_key!r} to no topic; bind one, "
            "or publish without mandatory"
        )
    if found > state.settings.fanout:
        raise InvalidArgument(
            f"the message leads to {found} topics, over the limit of {state.settings.fanout} "
            "(`fanout` in [machine.heap])"
        )


def _with_capacity(topics: tuple[Topic, ...], message: NewMessage) -> tuple[Topic, ...]:
    """The topics that have capacity for the message. Raises the refusal of the last one, `TopicFull` or `TopicPaused`,
    if none has."""
    refusal = None
    taking = []
    for topic in topics:
        try:
            if topic.limits:
                check_capacity(topic, 1)
                check_delayed_capacity(topic, message.delay_ms > 0)
        except (TopicFull, TopicPaused) as error:
            refusal = error
        else:
            taking.append(topic)
    if refusal is None:
        return topics
    if not taking:
        raise refusal
    return tuple(taking)
