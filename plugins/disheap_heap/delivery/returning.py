"""How messages come back to their topic: after a lease, or when a delay is over.

A lease that ends without an ack counts as an attempt, unless it is released. A message that has used up the attempts of
its topic dies, and so does one that has expired. Others go back to their place. A topic may let them wait first: the
pause doubles with each attempt. It is drawn from the id of the message, so it is the same on every replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from disheap.protocol.broker import DURATION_MAX_MS, Nack, TopicSettings, deaths
from disheap_heap.delivery import credit, overtaking
from disheap_heap.delivery.dead_letters import die, expire_ready
from disheap_heap.delivery.delivery import delay_message, first_event_ms, make_ready, release_lease, serve_later
from disheap_heap.delivery.dropping import drop_message
from disheap_heap.state.kept import TUPLE_BYTES
from disheap_heap.state.messages import Message
from disheap_heap.state.state import Consumer, Lease, State, Topic
from disheap_heap.state.views import keep_message_bytes, keep_place

LEASE_OVER = "its lease ended at its deadline"
HOLDER_OVER = "its consumer or the session of it ended"
ABORTED = "its transaction was aborted"
"""What a dead letter says if the last lease did not end with a Nack."""

_MIX_1, _MIX_2, _MIX_3 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_64_BITS = (1 << 64) - 1
_DOUBLINGS_MAX = 47  # then any delay is above `DURATION_MAX_MS`


def requeue(state: State, lease: Lease, error: str) -> Topic:
    """Ends a lease, which counts as an attempt, and gives the message back to its topic. `error`: what a dead letter
    says. Returns the topic."""
    topic = release_lease(state, lease)
    put_back(state, topic, _end_attempt(state, lease), error)
    return topic


def give_back_unbegun(state: State, lease: Lease) -> Topic:
    """Ends a lease that does not count, and gives the message back to its place. Returns the topic."""
    topic = release_lease(state, lease)
    message = _end_release(state, lease)
    topic.counts.released += 1
    if _goes_back(state, topic, message, ""):
        _make_ready_again(state, topic, message)
    return topic


def requeue_delayed(state: State, leases: Iterable[Lease], nack: Nack) -> dict[int, Topic]:
    """Ends nacked leases and gives the messages back after the delay of the Nack, those that do not die. Returns the
    topics. The timers of each topic are armed in one pass."""
    due_ms = state.now_ms + nack.delay_ms
    topics: dict[int, Topic] = {}
    returned: dict[int, list[Message]] = {}  # by topic
    for lease in leases:
        topic = release_lease(state, lease)
        topics[topic.number] = topic
        if nack.release:
            topic.counts.released += 1
            message = _end_release(state, lease)
        else:
            topic.counts.nacked += 1
            message = _end_attempt(state, lease)
        if _goes_back(state, topic, message, nack.error):
            returned.setdefault(topic.number, []).append(message)
    for number, messages in returned.items():
        _delay_many(state, topics[number], messages, due_ms)
    return topics


def put_back(state: State, topic: Topic, message: Message, error: str) -> None:
    """Puts a message after an attempt back into its place, or lets it wait first if the topic says so. It dies if it
    has expired or its attempts are used up. It is dropped if its topic was deleted."""
    if not _goes_back(state, topic, message, error):
        return
    if topic.retries and topic.settings.retry_delay_ms:
        delay_message(state, topic, message, retry_delay_ms(topic.settings, message))
    else:
        _make_ready_again(state, topic, message)


def retry_delay_ms(settings: TopicSettings, message: Message) -> int:
    """The pause before the next attempt: the delay of the topic, doubled with each attempt, up to its bound. It is
    between half of that and all of it, so messages that failed together do not come back together."""
    bound = settings.retry_delay_max_ms or DURATION_MAX_MS
    delay = min(settings.retry_delay_ms << min(message.attempts - 1, _DOUBLINGS_MAX), bound)
    return delay - _draw(message.id, message.attempts) % (delay // 2 + 1)


def _draw(number: int, attempts: int) -> int:
    """A number of 64 bits that looks random, and that every replica draws (the finalizer of splitmix64)."""
    mixed = (number * _MIX_1 + attempts) & _64_BITS
    mixed = ((mixed ^ (mixed >> 30)) * _MIX_2) & _64_BITS
    mixed = ((mixed ^ (mixed >> 27)) * _MIX_3) & _64_BITS
    return mixed ^ (mixed >> 31)


def _make_ready_again(state: State, topic: Topic, message: Message) -> None:
    if message.expires_at_ms:
        state.timers.arm_message(message.id, message.expires_at_ms, topic.number)
    make_ready(state, topic, message)


def _end_attempt(state: State, lease: Lease) -> Message:
    """Returns the message after its lease, which was released and counts as an attempt."""
    message = lease.message.after(lease.epoch)
    if state.views:
        keep_message_bytes(state, message.id, TUPLE_BYTES)
    return message


def _end_release(state: State, lease: Lease) -> Message:
    """Returns the message after its lease, which does not count."""
    if state.views:
        keep_message_bytes(state, lease.message.id, TUPLE_BYTES)
    return lease.message.released()


def _goes_back(state: State, topic: Topic, message: Message, error: str) -> bool:
    """Counts a message that goes back to its topic. Returns False if it dies: it has expired, or its attempts are used
    up. Drops it and returns False if its topic was deleted."""
    if not topic.alive:
        drop_message(state, message)
        return False
    if 0 < message.expires_at_ms <= state.now_ms:
        die(state, topic, message, deaths.EXPIRED, error)
        return False
    if topic.retries and 0 < topic.settings.delivery_limit <= message.attempts:
        die(state, topic, message, deaths.DELIVERY_LIMIT, error)
        return False
    state.returned += 1
    topic.counts.returned += 1
    return True


def requeue_all(state: State, consumer: Consumer, releases: bool = False) -> None:
    """Gives back all messages that the consumer holds, the oldest lease first, as many as this call may still do.
    Postpones the rest. Until that is done the consumer receives nothing. The caller serves the topic.
    `releases`: these leases do not count as attempts."""
    if not consumer.returning:
        consumer.releases = releases
    state.returns_left -= requeue_some(state, consumer, state.returns_left)


def requeue_some(state: State, consumer: Consumer, limit: int) -> int:
    """Gives back at most `limit` messages that the consumer holds. Returns how many it gave back."""
    leases = list(islice(consumer.leases.values(), limit))
    consumer.returning = len(leases) < len(consumer.leases)
    if consumer.returning:
        credit.leave_turns(state, consumer)
        state.returning.setdefault(consumer.number, consumer)
    else:
        state.returning.pop(consumer.number, None)
    overtaking.update_consumer(consumer)
    for lease in leases:
        if consumer.releases:
            give_back_unbegun(state, lease)
        else:
            requeue(state, lease, HOLDER_OVER)
    credit.join_turns(state, consumer)
    return len(leases)


def _delay_many(state: State, topic: Topic, messages: list[Message], due_ms: int) -> None:
    delayed = topic.delayed
    for message in messages:
        delayed.put(message.id, (due_ms, message))
    topic.delayed_bytes += sum([len(message.body) for message in messages])
    state.delayed += len(messages)
    deadlines = [first_event_ms(message, due_ms) for message in messages]
    state.timers.arm_messages(topic.number, [message.id for message in messages], deadlines)


def fire_message_timer(state: State, topic: Topic, number: int) -> None:
    """A delayed message is due, or a waiting message expires. At the same time a message is due first."""
    due = topic.delayed.get(number)
    if due is None:
        message = topic.ready.remove(number)
        assert message is not None
        expire_ready(state, topic, message)
        return
    message = _take_delayed(state, topic, number)
    if first_event_ms(message, due[0]) < due[0]:
        die(state, topic, message, deaths.EXPIRED)
        return
    if message.expires_at_ms:
        state.timers.arm_message(number, message.expires_at_ms, topic.number)
    make_ready(state, topic, message)
    serve_later(state, topic)


def _take_delayed(state: State, topic: Topic, number: int) -> Message:
    """Removes and returns the delayed message with this id. There must be one."""
    due = topic.delayed[number]
    if state.views:
        keep_place(state, topic, number, due)
    topic.delayed.take(number)
    topic.delayed_bytes -= len(due[1].body)
    state.delayed -= 1
    return due[1]
