"""Timers that are due, and postponed work (`limits.apply_work_limit`).

`advance` does at most `limit` units. First come the due timers in order of their deadlines. After each deadline come
the dead letters and the deliveries that it made possible. Then come, in slices, messages that are too many for a topic
whose settings changed. Sessions that end, leases that are sent again, and leases that are given back follow. At last
the memory of purged messages is freed. A unit is one timer, delivery, lease, consumer, topic, binding or record. It
takes 1 to 5 us.

A slice gives back the oldest leases of a consumer first. All messages of a slice are back in their topic before the
first of them is delivered. So the order is strict within a slice, and a message of a later slice is ordered from then
on.

Everything here is state, except the purged messages. Nobody can see those, so one replica may have freed a message that
another still has; a restored replica never had it.
"""

from __future__ import annotations

from collections.abc import Sized

from disheap_heap.commands.barriers import expire_barrier
from disheap_heap.commands.dead_letters import publish_some
from disheap_heap.commands.exchanges import remove_binding
from disheap_heap.commands.sessions import end_some, resend_some
from disheap_heap.commands.topics import delete
from disheap_heap.commands.values import expire_value
from disheap_heap.delivery import credit, overtaking
from disheap_heap.delivery.delivery import serve_later, serve_some
from disheap_heap.delivery.dropping import needed_ids
from disheap_heap.delivery.ending import finish_pop
from disheap_heap.delivery.leases import expire_lease
from disheap_heap.delivery.returning import fire_message_timer, requeue_some
from disheap_heap.delivery.trimming import trim_some
from disheap_heap.settings import MAX_DELIVERIES_PER_CALL
from disheap_heap.state.dropped import free_one, uncount_freed
from disheap_heap.state.footprint import uncount_extras
from disheap_heap.state.kept import Kept
from disheap_heap.state.messages import Content, SharedMessage
from disheap_heap.state.routing import Exchange
from disheap_heap.state.state import Dropped, PurgedMessages, Resend, State, Topic
from disheap_heap.tables import timers
from disheap_heap.transactions.transactions import inquire, time_out

UNITS_PER_CHUNK = 16
"""Units for one chunk of ids, `arrivals.CHUNK`."""


def advance(state: State, limit: int) -> int:
    """Fires due timers and does postponed work, at most `limit` units. Returns the units done. Freeing does not count,
    because it differs among replicas."""
    left = _fire_due(state, limit)
    if (state.dying or state.unserved or state.freed) and left > 0:
        left -= _serve_waiting(state, left)
    if state.trimming and left > 0:
        left -= trim_some(state, left)
        left -= _serve_waiting(state, left)
    if (state.ending or state.resending) and left > 0:
        left -= _end_waiting(state, left)
        left -= _resend_waiting(state, left)
        left -= _serve_waiting(state, left)
    if state.returning and left > 0:
        left -= _requeue_waiting(state, left)
        left -= _serve_waiting(state, left)
    if state.unfreed and left > 0:
        free_some(state, left)
    return limit - left


def backlog(state: State) -> bool:
    """Whether work is postponed or a timer is due."""
    if state.unserved or state.freed or state.returning or state.ending or state.resending or state.unfreed:
        return True  # any(postponed(state)), in a third of the time; asked twice for each entry
    if state.dying or state.trimming:
        return True
    deadline = state.timers.next_deadline()
    return deadline is not None and deadline <= state.now_ms


def postponed(state: State) -> tuple[Sized, ...]:
    """The collections of postponed work."""
    return (
        state.dying, state.unserved, state.freed, state.trimming, state.returning, state.ending, state.resending,
        state.unfreed,
    )  # fmt: skip


def _fire_due(state: State, limit: int) -> int:
    """Fires the timers that are due. Returns the units that are left of the limit."""
    left, current, now_ms = limit, None, state.now_ms
    while left > 0 and state.push_bytes_left > 0:
        deadline = state.timers.next_deadline()
        if deadline is None or deadline > now_ms:
            break
        if deadline != current:
            left -= _serve_waiting(state, left)
            current = deadline
        else:
            left -= _fire(state, *state.timers.pop())
    return max(0, left)


def _fire(state: State, kind: int, number: int, topic_number: int) -> int:
    """Fires one timer. Returns the units of work."""
    state.units += 1
    if kind == timers.LEASE:
        expire_lease(state, number)
        return 1
    if kind == timers.POP:
        finish_pop(state, state.consumers[number])
        return 1
    if kind == timers.VALUE:
        return expire_value(state, number)
    if kind == timers.BARRIER:
        return expire_barrier(state, number)
    if kind == timers.TRANSACTION:
        return time_out(state, number)
    if kind == timers.INQUIRY:
        inquire(state, number)
        return 1
    topic = state.topics_by_number[topic_number]
    if kind == timers.TOPIC:
        delete(state, topic, "it was unused for too long")
    else:
        fire_message_timer(state, topic, number)
    return 1


def _serve_waiting(state: State, limit: int) -> int:
    """Publishes dead letters. Then serves one slice for each topic in turn, and the credit groups that have credit
    again. Returns the units."""
    done = publish_some(state, limit, serve_later) if state.dying and limit > 0 else 0
    while done < limit and state.push_bytes_left > 0 and (state.unserved or state.freed):
        if state.unserved:
            number, topic = next(iter(state.unserved.items()))
            done += serve_some(state, topic, min(MAX_DELIVERIES_PER_CALL, limit - done))
            if number in state.unserved:
                state.unserved.move_to_end(number)
        else:
            done = min(limit, done + _serve_freed_group(state, limit - done))
    return done


def _serve_freed_group(state: State, limit: int) -> int:
    group, consumers, done = credit.next_freed(state)
    for consumer in consumers:
        if credit.join_turns(state, consumer):
            done += serve_some(state, consumer.topic, max(0, limit - done))
    topic = overtaking.most_urgent_topic(group)
    if topic is not None:
        done += serve_some(state, topic, max(0, limit - done))
    return done


def _requeue_waiting(state: State, limit: int) -> int:
    done = 0
    while state.returning and done < limit:
        consumer = next(iter(state.returning.values()))
        done += requeue_some(state, consumer, limit - done)
        serve_later(state, consumer.topic)
    return done


def _end_waiting(state: State, limit: int) -> int:
    done = 0
    while state.ending and done < limit:
        done += end_some(state, next(iter(state.ending.values())), limit - done, serve_later)
    return done


def _resend_waiting(state: State, limit: int) -> int:
    done = 0
    while state.resending and done < limit and state.push_bytes_left > 0:
        done += resend_some(state, next(iter(state.resending.values())), limit - done)
    return done


def free_some(state: State, limit: int) -> None:
    """Frees at most about `limit` units of what is gone for all, within the bytes that this call may free."""
    done = 0
    while state.unfreed and done < limit and state.free_bytes_left > 0:
        purged = state.unfreed[-1]
        if isinstance(purged, PurgedMessages):
            units = _free_one(state, purged)
            done, more = done + max(1, units), units > 0
        elif isinstance(purged, Dropped):
            units = free_one(state, purged)
            done, more = done + max(1, units), units > 0
        elif isinstance(purged, Exchange):
            done += 1
            more = _remove_one_binding(state, purged)
        elif isinstance(purged, Kept | Resend):
            freed = purged.free(limit - done)
            done += max(1, freed)
            more = freed > 0
        else:
            done += UNITS_PER_CHUNK
            more = purged.arrivals.sweep(needed_ids(state, purged))
        if not more:
            state.unfreed.pop()
    state.units += done


def _remove_one_binding(state: State, exchange: Exchange[Topic]) -> bool:
    """Removes one binding of an exchange that was deleted. Returns False when none is left."""
    if not exchange.bindings:
        return False
    (key, _, arguments), topic = next(reversed(exchange.bindings.items()))
    remove_binding(state, exchange, key, topic, arguments)
    return True


def _free_one(state: State, purged: PurgedMessages) -> int:
    """Frees one message or timer. Returns the units of work, and 0 when none is left."""
    message = purged.ready.drain()
    if message is None and purged.delayed:
        message = purged.delayed.popitem()[1][1]
    if message is None:
        return int(purged.timers is not None and purged.timers.drain() is not None)
    if type(message) is SharedMessage or type(message.body) is Content:
        uncount_extras(state, message)
    return uncount_freed(state, message)
