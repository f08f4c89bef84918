"""The end of consumers and pops, and the time after which an unused topic is deleted.

Gives no lease back: `delivery` does. Deletes no topic: `commands` does.
"""

from __future__ import annotations

from disheap.protocol.broker import PopDone
from disheap_heap.delivery import credit
from disheap_heap.encoding import encode
from disheap_heap.state.state import Consumer, State, Topic
from disheap_heap.state.views import keep_consumer, keep_record_bytes, keep_topic
from disheap_heap.tables import timers


def finish_pop(state: State, consumer: Consumer) -> None:
    """Ends a pop that has all its messages, or whose time is over, and tells its session. Its leases stay."""
    state.push(consumer.session, encode(PopDone(consumer.number, consumer.delivered)))
    end_consumer(state, consumer)


def end_consumer(state: State, consumer: Consumer) -> None:
    """Ends a consumer. Its leases stay. The caller deletes its topic if that is due (`consumers.delete_if_unused`)."""
    state.units += 1
    topic = consumer.topic
    if state.views:
        keep_consumer(state, consumer)
    consumer.ended = True
    credit.remove_from_group(state, consumer)
    credit.leave_turns(state, consumer)
    topic.active -= 1
    state.active -= 1
    if consumer.limit:
        state.timers.disarm(timers.POP, consumer.number)
    else:
        topic.subscribers -= 1
        state.subscribers -= 1
    update_expiry(state, topic)
    if not consumer.leases:
        forget_consumer(state, consumer)


def forget_consumer(state: State, consumer: Consumer) -> None:
    """Removes a consumer that has ended and holds nothing."""
    number = consumer.number
    if state.views:
        keep_record_bytes(state, consumer)
    del state.consumers[number], consumer.topic.consumers[number]
    consumer.session.consumers.pop(number, None)  # a session that is ending no longer has it
    state.returning.pop(number, None)
    credit.remove_unused_group(state, consumer)


def update_expiry(state: State, topic: Topic) -> None:
    """Starts or stops the timer that deletes an unused topic (AMQP's x-expires)."""
    lifetime = topic.settings.expires_ms
    if not lifetime or not topic.alive:
        return
    if state.views:
        keep_topic(state, topic)
    if topic.active:
        topic.expires_at_ms = 0
        state.timers.disarm(timers.TOPIC, topic.number)
    else:
        topic.expires_at_ms = state.now_ms + lifetime
        state.timers.arm(timers.TOPIC, topic.number, topic.expires_at_ms, topic.number)
