"""How messages move: into a topic, to a consumer, back into their topic, and out.

There is one function for each change: `add`, `make_ready`, `_delay`, `_deliver`, `release_lease`, `requeue`,
`fire_message_timer`, `drop_excess`, `drop_all_waiting`. Between calls a topic never has both a ready message and a
consumer that can receive it, unless the topic waits in `State.unserved`. Whoever adds one or the other calls `serve`.

The next consumer (`turns`) gets the first message (`ready`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from disheap.protocol.broker import Deliver, NewMessage
from disheap_heap.delivery import credit, overtaking
from disheap_heap.delivery.ending import finish_pop, forget_consumer
from disheap_heap.encoding import encode
from disheap_heap.state.dropped import LARGE_BYTES, free_within_bound
from disheap_heap.state.footprint import count_extras, uncount_extras
from disheap_heap.state.kept import DROPPED_BYTES, TUPLE_BYTES
from disheap_heap.state.messages import Body, Content, Message, SharedMessage, deliver
from disheap_heap.state.ready import ReadyMessages
from disheap_heap.state.state import Consumer, CreditGroup, Lease, PurgedMessages, State, Topic
from disheap_heap.state.views import (
    ids_of_views,
    keep_consumer,
    keep_dropped,
    keep_lease,
    keep_message_bytes,
    keep_place,
    keep_purged,
    keep_turns,
)
from disheap_heap.tables import timers
from disheap_heap.tables.arrivals import CHUNKS_SWEPT, IdFilter
from disheap_heap.tables.partitioned import PartitionedDict

DELIVERIES_PER_SWEEP = 256
"""Messages that leave a topic before some ids of messages that no longer exist are removed from `arrivals`."""


def add(state: State, topic: Topic, new: NewMessage, body: Body, kind: type[Message] = Message) -> int:
    """Adds a new message with this body. Returns its id. The caller has checked everything, and serves the topic."""
    state.units += 1
    state.last_message = number = state.last_message + 1
    state.message_bytes += len(body)
    now_ms = state.now_ms
    lifetime = new.expires_ms or topic.settings.message_ttl_ms
    expires_at_ms = now_ms + lifetime if lifetime else 0
    rank = topic.rank_of(new.priority) if topic.clamps else new.priority * topic.sign
    message = tuple.__new__(kind, (rank, number, 0, now_ms, expires_at_ms, body))  # as below
    if kind is SharedMessage or type(body) is Content:
        count_extras(state, message)
    if new.delay_ms:
        _delay(state, topic, message, new.delay_ms)
    else:
        if lifetime:
            state.timers.arm_message(number, expires_at_ms, topic.number)
        topic.ready.push(message)  # as `make_ready`, written out here
        topic.ready_bytes += len(body)
        state.ready += 1
        if topic.drops:
            drop_excess(state, topic)
    topic.counts.enqueued += 1
    arrivals = topic.arrivals
    arrivals.tail.append(number)
    if len(arrivals.tail) >= arrivals.limit:
        arrivals.cut_tail(needed_ids(state, topic))
    return number


def needed_ids(state: State, topic: Topic) -> IdFilter:
    """A filter for ids. An id is needed while the topic has the message, or while an open view has to find it."""
    holders: list[PartitionedDict[Any]] = [topic.ready.by_id(), state.leases, topic.delayed]
    if state.transactions.frozen:
        holders.append(state.transactions.frozen)
    if state.views:
        holders += ids_of_views(state, topic)

    def keep_needed(ids: list[int]) -> list[int]:
        gone = ids
        for holder in holders:  # most ids are in the first
            gone = holder.missing(gone)
        unneeded = set(gone)
        return [one for one in ids if one not in unneeded] if unneeded else list(ids)

    return keep_needed


def _sweep_ids(state: State, topic: Topic) -> None:
    for _ in range(CHUNKS_SWEPT):
        topic.arrivals.sweep(needed_ids(state, topic))


def serve(state: State, topic: Topic) -> None:
    """Delivers ready messages to consumers that can receive, as many as this call may still deliver. Postpones the
    rest."""
    state.deliveries_left -= serve_some(state, topic, state.deliveries_left)


def serve_some(state: State, topic: Topic, limit: int) -> int:
    """Delivers at most `limit` ready messages. Postpones the rest. Returns how many it delivered."""
    ready, turns, done = topic.ready, topic.turns, 0
    waiting, order = ready.chunks, turns.by_number
    while waiting and order and (consumer := turns.next()) is not None:
        if done >= limit or state.push_bytes_left <= 0:
            state.unserved.setdefault(topic.number, topic)
            return done
        _deliver(state, topic, consumer, ready.pop())
        done += 1
    if topic.overtaking:
        return done + _serve_overtaking(state, topic, limit - done)
    if state.unserved:
        state.unserved.pop(topic.number, None)
    return done


def _serve_overtaking(state: State, topic: Topic, limit: int) -> int:
    """Delivers messages beyond the credit of groups that wait for something more urgent, at most `limit`. Postpones the
    rest. No consumer of the topic has credit. Returns how many it delivered."""
    done = 0
    while (consumer := overtaking.next_consumer(topic)) is not None:
        if done >= limit or state.push_bytes_left <= 0:
            state.unserved.setdefault(topic.number, topic)
            return done
        assert consumer.group is not None
        overtaking.disarm(state, consumer.group)
        _deliver(state, topic, consumer, topic.ready.pop())
        done += 1
    if state.unserved:
        state.unserved.pop(topic.number, None)
    return done


def serve_overtaking_group(state: State, group: CreditGroup) -> None:
    """Delivers the most urgent message that an armed group may be sent, if there is one."""
    topic = overtaking.most_urgent_topic(group)
    if topic is not None:
        serve(state, topic)


def serve_freed_groups(state: State) -> None:
    """Serves the credit groups that have credit again, at the end of a call, as far as the call may still deliver."""
    while state.freed and state.deliveries_left > 0:
        units = serve_next_freed_group(state)
        state.deliveries_left -= units  # not in one statement: `serve` has changed it meanwhile


def serve_next_freed_group(state: State) -> int:
    """Serves one freed group. Returns the units of work for its consumers. The deliveries are counted in `serve`."""
    group, consumers, units = credit.next_freed(state)
    for consumer in consumers:
        if credit.join_turns(state, consumer):
            serve(state, consumer.topic)
    serve_overtaking_group(state, group)
    return units


def serve_all(state: State, topics: Iterable[Topic]) -> None:
    """Serves each of these topics."""
    for topic in topics:
        serve(state, topic)


def serve_later(state: State, topic: Topic) -> None:
    """Postpones the deliveries of a topic, if there are any."""
    if (topic.turns.by_number or topic.overtaking) and topic.ready.chunks:
        state.unserved.setdefault(topic.number, topic)


def _deliver(state: State, topic: Topic, consumer: Consumer, message: Message) -> None:
    rank, number, attempts, enqueued_ms, expires_at_ms, body = message
    if state.views:
        keep_place(state, topic, number, message)
        keep_consumer(state, consumer)
        keep_turns(state, topic)
    size = len(body)
    topic.ready_bytes -= size
    state.ready -= 1
    if expires_at_ms:
        state.timers.disarm_message(number, topic.number)
    if consumer.no_ack:
        epoch = until_ms = 0
        drop_message(state, message)
    else:
        epoch = attempts + 1
        until_ms = _lease(state, topic, consumer, message, number, epoch, size)
    if state.delivered % DELIVERIES_PER_SWEEP == 0 and topic.arrivals.chunks:
        _sweep_ids(state, topic)
    state.units += 1
    state.delivered += 1
    counts = topic.counts
    counts.delivered += 1
    if attempts:
        counts.redelivered += 1
    else:
        state.series.waits.observe((state.now_ms - enqueued_ms) / 1000)
    consumer.delivered += 1
    if type(body) is bytes:  # written out here: a call takes a tenth of the time of a delivery
        push = Deliver(consumer.number, number, epoch, rank * topic.sign, enqueued_ms, body, until_ms, attempts + 1)
    else:
        push = deliver(message, consumer.number, epoch, rank * topic.sign, until_ms)
    state.effects.append((consumer.session.number, encode(push)))
    state.push_bytes_left -= size
    if not topic.turns.end(consumer) and consumer.limit and consumer.delivered >= consumer.limit:
        finish_pop(state, consumer)


def _lease(
    state: State, topic: Topic, consumer: Consumer, message: Message, number: int, epoch: int, body_bytes: int
) -> int:
    """Grants a lease. Returns its deadline in ms, or 0 if it lasts as long as the session."""
    until_ms = state.now_ms + consumer.lease_ms if consumer.lease_ms else 0
    # A named tuple's own constructor is a Python function, which takes as long again.
    lease = tuple.__new__(Lease, (message, epoch, until_ms, consumer, consumer.delivered))
    state.leases.put(number, lease)
    consumer.leases[number] = lease
    consumer.held_bytes += body_bytes
    if consumer.group is not None:
        credit.charge(state, consumer.group, consumer, body_bytes)
    topic.leased += 1
    if until_ms:
        state.timers.arm_lease(number, until_ms)
    return until_ms


def release_lease(state: State, lease: Lease) -> Topic:
    """Ends a lease and gives the credit back. The caller decides what happens to the message. Returns the topic."""
    state.leases.take(lease.message.id)
    return release_taken(state, lease)


def release_taken(state: State, lease: Lease) -> Topic:
    """Does the rest of `release_lease` for a lease that was taken out of `State.leases`."""
    state.units += 1
    message, _, until_ms, consumer, _ = lease
    topic, number, body_bytes = consumer.topic, message.id, len(message.body)
    if state.views:
        keep_lease(state, lease)
    del consumer.leases[number]
    consumer.held_bytes -= body_bytes
    if consumer.group is not None:
        credit.refund(state, consumer.group, body_bytes)
    topic.leased -= 1
    if until_ms:
        state.timers.disarm(timers.LEASE, number)
    if consumer.number not in topic.turns.by_number:
        credit.join_turns(state, consumer)
    if consumer.ended and not consumer.leases:
        forget_consumer(state, consumer)
    return topic


def requeue(state: State, lease: Lease) -> Topic:
    """Ends a lease and gives the message back to its place in the topic. Drops the message if it has expired or its
    topic was deleted. Returns the topic."""
    topic = release_lease(state, lease)
    put_back(state, topic, _end_attempt(state, lease))
    return topic


def requeue_delayed(state: State, leases: Iterable[Lease], delay_ms: int) -> dict[int, Topic]:
    """Ends nacked leases and gives the messages back after a delay. Drops those that have expired or whose topics were
    deleted. Returns the topics. The timers of each topic are armed in one pass."""
    due_ms = state.now_ms + delay_ms
    topics: dict[int, Topic] = {}
    returned: dict[int, list[Message]] = {}  # by topic
    for lease in leases:
        topic = release_lease(state, lease)
        topic.counts.nacked += 1
        topics[topic.number] = topic
        message = _end_attempt(state, lease)
        if _goes_back(state, topic, message):
            returned.setdefault(topic.number, []).append(message)
    for number, messages in returned.items():
        _delay_many(state, topics[number], messages, due_ms)
    return topics


def put_back(state: State, topic: Topic, message: Message) -> None:
    """Puts a message that has no lease any more back into its place. Drops it if it has expired or its topic was
    deleted."""
    if _goes_back(state, topic, message):
        if message.expires_at_ms:
            state.timers.arm_message(message.id, message.expires_at_ms, topic.number)
        make_ready(state, topic, message)


def _end_attempt(state: State, lease: Lease) -> Message:
    """Returns the message after its lease, which was released."""
    message = lease.message.after(lease.epoch)
    if state.views:
        keep_message_bytes(state, message.id, TUPLE_BYTES)
    return message


def _goes_back(state: State, topic: Topic, message: Message) -> bool:
    """Counts a message that goes back to its topic. Drops it and returns False if it has expired or its topic was
    deleted."""
    if not topic.alive:
        drop_message(state, message)
        return False
    if 0 < message.expires_at_ms <= state.now_ms:
        drop_message(state, message)
        state.expired += 1
        topic.counts.expired += 1
        return False
    state.returned += 1
    topic.counts.returned += 1
    return True


def requeue_all(state: State, consumer: Consumer) -> None:
    """Gives back all messages that the consumer holds, the oldest lease first, as many as this call may still do.
    Postpones the rest. Until that is done the consumer receives nothing. The caller serves the topic."""
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
        requeue(state, lease)
    credit.join_turns(state, consumer)
    return len(leases)


def make_ready(state: State, topic: Topic, message: Message) -> None:
    """Adds a message to the ready ones."""
    topic.ready.push(message)
    topic.ready_bytes += len(message.body)
    state.ready += 1
    if topic.drops:
        drop_excess(state, topic)


def drop_excess(state: State, topic: Topic) -> None:
    """Drops what is too much in a topic that drops when it is full: the lowest priority, and among equals the oldest.
    What is kept does not depend on how many messages came at once."""
    excess = len(topic.ready) - topic.settings.max_messages
    if excess <= 0:
        return
    dropped = topic.ready.take_lowest(excess)
    expiring = [message.id for message in dropped if message.expires_at_ms]
    state.timers.disarm_messages(expiring, topic.number)
    _drop_ready(state, topic, dropped)
    state.dropped += excess
    topic.counts.dropped += excess
    state.units += excess


def _delay(state: State, topic: Topic, message: Message, delay_ms: int) -> None:
    due_ms = state.now_ms + delay_ms
    topic.delayed.put(message.id, (due_ms, message))
    topic.delayed_bytes += len(message.body)
    state.delayed += 1
    state.timers.arm_message(message.id, first_event_ms(message, due_ms), topic.number)


def _delay_many(state: State, topic: Topic, messages: list[Message], due_ms: int) -> None:
    delayed = topic.delayed
    for message in messages:
        delayed.put(message.id, (due_ms, message))
    topic.delayed_bytes += sum([len(message.body) for message in messages])
    state.delayed += len(messages)
    deadlines = [first_event_ms(message, due_ms) for message in messages]
    state.timers.arm_messages(topic.number, [message.id for message in messages], deadlines)


def first_event_ms(message: Message, due_ms: int) -> int:
    """When a delayed message becomes ready or expires, whichever comes first."""
    expires_at_ms = message.expires_at_ms
    return expires_at_ms if 0 < expires_at_ms < due_ms else due_ms


def fire_message_timer(state: State, topic: Topic, number: int) -> None:
    """A delayed message is due, or a waiting message expires. At the same time a message is due first."""
    due = topic.delayed.get(number)
    if due is None:
        message = topic.ready.remove(number)
        assert message is not None
        _drop_ready(state, topic, [message])
        state.expired += 1
        topic.counts.expired += 1
        return
    message = _take_delayed(state, topic, number)
    if first_event_ms(message, due[0]) < due[0]:
        drop_message(state, message)
        state.expired += 1
        topic.counts.expired += 1
        return
    if message.expires_at_ms:
        state.timers.arm_message(number, message.expires_at_ms, topic.number)
    make_ready(state, topic, message)
    serve_later(state, topic)


def _drop_ready(state: State, topic: Topic, messages: list[Message]) -> None:
    """Drops messages that were taken out of the ready ones, and whose timers are disarmed."""
    size = sweeps = 0
    for message in messages:
        _, number, _, _, _, body = message
        size += len(body)
        sweeps += number % DELIVERIES_PER_SWEEP == 0
        if type(message) is SharedMessage or type(body) is Content:
            uncount_extras(state, message)
    topic.ready_bytes -= size
    state.message_bytes -= size
    state.ready -= len(messages)
    if state.views:
        keep_dropped(state, messages)
    if size >= LARGE_BYTES:
        free_within_bound(state, messages, size)
    if topic.arrivals.chunks:
        for _ in range(sweeps):
            _sweep_ids(state, topic)


def _take_delayed(state: State, topic: Topic, number: int) -> Message:
    """Removes and returns the delayed message with this id. There must be one."""
    due = topic.delayed[number]
    if state.views:
        keep_place(state, topic, number, due)
    topic.delayed.take(number)
    topic.delayed_bytes -= len(due[1].body)
    state.delayed -= 1
    return due[1]


def drop_message(state: State, message: Message) -> None:
    """Uncounts a message that no longer exists. It is already removed from its topic or lease."""
    body = message.body
    state.message_bytes -= len(body)
    if type(message) is SharedMessage or type(body) is Content:
        uncount_extras(state, message)
    if state.views:
        body_bytes = 0 if id(body) in state.copies else len(body)
        keep_message_bytes(state, message.id, DROPPED_BYTES + body_bytes)
    if len(body) >= LARGE_BYTES:
        free_within_bound(state, (message,), len(body))


def drop_all_waiting(state: State, topic: Topic) -> int:
    """Drops all ready and delayed messages of a topic in constant time. Their memory is freed later. Returns how many
    there were."""
    count = len(topic.ready) + len(topic.delayed)
    if count:
        state.ready -= len(topic.ready)
        state.delayed -= len(topic.delayed)
        purged = PurgedMessages(topic.ready, topic.delayed, state.timers.disarm_topic(topic.number))
        if state.views and keep_purged(state, topic, purged):
            state.purged_in_views.append(purged)
        else:
            state.unfreed.append(purged)
        if topic.arrivals.chunks:
            topic.arrivals.restart()
            state.unfreed.append(topic)
        state.message_bytes -= topic.ready_bytes + topic.delayed_bytes
        state.purged_messages += count
        state.purged_bytes += topic.ready_bytes + topic.delayed_bytes
        state.dropped += count
        topic.counts.dropped += count
        topic.ready, topic.delayed = ReadyMessages(), PartitionedDict()
        topic.ready_bytes = topic.delayed_bytes = 0
    state.unserved.pop(topic.number, None)
    return count
