"""Messages that pass from a publisher to consumers without the log: events, remote control, and their replies.

A consumer without acks loses what is under way when its connection breaks. So a transient message for it gains nothing
by the log, if it would be delivered at once anyhow. Decides whether that is so, and makes the pushes. Changes nothing.
"""

from __future__ import annotations

from disheap.errors import CommandRefused
from disheap.protocol.broker import Deliver, NewMessage, Publish
from disheap_heap.commands.checks import check_message
from disheap_heap.commands.exchanges import find_topics
from disheap_heap.encoding import encode
from disheap_heap.state.state import Consumer, State, Topic

RELAYED = 0
"""The id and the epoch of a message that was relayed. It is nowhere stored, so there is nothing to settle."""
CONSUMER_AT = 2
"""Where the consumer's number stands in an encoded `Deliver`: behind the head of the array and the tag. The number 0
takes one byte."""


def relay(state: State, time_ms: int, command: Publish) -> list[tuple[int, bytes]] | None:
    """The pushes of a message of which every topic would be rid at once: its only consumer takes it without a lease.
    For a consumer without a connection there is a push, too, and the leader drops it. None if the message has to wait
    somewhere: for its time, for a consumer, behind others, in a paused topic. None as well if the command would be
    refused."""
    message = command.message
    if message.delay_ms:
        return None
    try:
        topics = find_topics(state, command.exchange, command.routing_key, message.encoded_headers)
        check_message(state, message)
    except CommandRefused:
        return None
    if len(topics) > state.settings.fanout:
        return None
    pushes = []
    made: dict[int, tuple[bytes, bytes]] = {}  # by priority, which a topic may lower
    for topic in topics:
        consumer = _only_consumer(topic)
        if consumer is None or topic.holds_back or topic.is_closed:
            return None
        session = consumer.session
        if session.attached and (topic.ready.chunks or not consumer.can_receive()):
            return None
        priority = topic.rank_of(message.priority) * topic.sign if topic.clamps else message.priority
        if priority not in made:
            made[priority] = _around_consumer(message, priority, time_ms)
        head, tail = made[priority]
        pushes.append((session.number, head + encode(consumer.number) + tail))
    return pushes


def _around_consumer(message: NewMessage, priority: int, time_ms: int) -> tuple[bytes, bytes]:
    """The bytes of a push before and behind the number of its consumer. So a message for a hundred consumers is encoded
    once."""
    push = Deliver(
        0, RELAYED, RELAYED, priority, time_ms, message.payload,
        encoded_headers=message.encoded_headers, key=message.key,
    )  # fmt: skip
    encoded = encode(push)
    return encoded[:CONSUMER_AT], encoded[CONSUMER_AT + 1 :]


def _only_consumer(topic: Topic) -> Consumer | None:
    """The consumer of a topic that has no other, if it takes messages without leases. With several consumers, the turns
    decide, and they are part of the state."""
    if len(topic.consumers) != 1:
        return None
    for consumer in topic.consumers.values():
        if consumer.no_ack and not consumer.limit and not consumer.ended:
            return consumer
    return None
