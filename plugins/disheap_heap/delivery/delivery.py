"""How messages move into a topic and to a consumer, and how a lease begins and ends.

There is one function for each change: `add`, `make_ready`, `delay_message`, `_deliver`, `release_lease`. `returning`
has the way back, and `dead_letters` and `dropping` the ways out. Between calls a topic never has both a ready message
and a consumer that can receive it, unless the topic waits in `State.unserved`. Whoever adds one or the other calls
`serve`.

The next consumer (`turns`) gets the first message (`ready`).
"""

from __future__ import annotations

from collections.abc import Iterable

from disheap.protocol.broker import Deliver, NewMessage
from disheap_heap.delivery import credit, overtaking
from disheap_heap.delivery.dead_letters import drop_excess
from disheap_heap.delivery.dropping import DELIVERIES_PER_SWEEP, drop_message, needed_ids, sweep_ids
from disheap_heap.delivery.ending import finish_pop, forget_consumer
from disheap_heap.encoding import encode
from disheap_heap.state.footprint import count_extras
from disheap_heap.state.messages import ATTEMPTS, Body, Content, Message, SharedMessage, deliver
from disheap_heap.state.state import Consumer, CreditGroup, Lease, State, Topic
from disheap_heap.state.views import keep_consumer, keep_lease, keep_place, keep_turns
from disheap_heap.tables import timers


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
        delay_message(state, topic, message, new.delay_ms)
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


def serve(state: State, topic: Topic) -> None:
    """Delivers ready messages to consumers that can receive, as many as this call may still deliver. Postpones the
    rest."""
    state.deliveries_left -= serve_some(state, topic, state.deliveries_left)


def serve_some(state: State, topic: Topic, limit: int) -> int:
    """Delivers at most `limit` ready messages. Postpones the rest. Returns how many it delivered."""
    if topic.holds_back:
        state.unserved.pop(topic.number, None)
        return 0
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
    if (topic.turns.by_number or topic.overtaking) and topic.ready.chunks and not topic.holds_back:
        state.unserved.setdefault(topic.number, topic)


def _deliver(state: State, topic: Topic, consumer: Consumer, message: Message) -> None:
    rank, number, tally, enqueued_ms, expires_at_ms, body = message
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
        epoch = tally + 1
        until_ms = _lease(state, topic, consumer, message, number, epoch, size)
    if state.delivered % DELIVERIES_PER_SWEEP == 0 and topic.arrivals.chunks:
        sweep_ids(state, topic)
    state.units += 1
    state.delivered += 1
    counts = topic.counts
    counts.delivered += 1
    attempts = tally & ATTEMPTS
    if attempts:
        counts.redelivered += 1
    elif not tally:
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


def make_ready(state: State, topic: Topic, message: Message) -> None:
    """Adds a message to the ready ones."""
    topic.ready.push(message)
    topic.ready_bytes += len(message.body)
    state.ready += 1
    if topic.drops:
        drop_excess(state, topic)


def delay_message(state: State, topic: Topic, message: Message, delay_ms: int) -> None:
    """Adds a message to the delayed ones."""
    due_ms = state.now_ms + delay_ms
    topic.delayed.put(message.id, (due_ms, message))
    topic.delayed_bytes += len(message.body)
    state.delayed += 1
    state.timers.arm_message(message.id, first_event_ms(message, due_ms), topic.number)


def first_event_ms(message: Message, due_ms: int) -> int:
    """When a delayed message becomes ready or expires, whichever comes first."""
    expires_at_ms = message.expires_at_ms
    return expires_at_ms if 0 < expires_at_ms < due_ms else due_ms
