"""Messages beyond the credit of a group, for a group that waits for something more urgent (`Overtake`).

A client may keep messages that it has not begun to process. While its credit is used up, it would not learn of a more
urgent message. So a group can be *armed* with a bound: it is then sent one message whose urgency is above the bound.
That disarms it. The urgency of a message is its priority, negated in a topic whose smallest priority comes first.

A consumer is in `Topic.overtaking` exactly while its group is armed and full, and while the consumer could receive if
its group had credit. The list is sorted: the lowest bound comes first, then the group that was armed first. So one look
at its first entry says that no consumer of the topic may be sent the first message.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from disheap_heap.state.state import Consumer, CreditGroup, State, Topic


def arm(state: State, group: CreditGroup, above: int) -> None:
    """Arms a group, or gives it another bound. It comes after the groups of the same bound that are armed."""
    disarm(state, group)
    state.last_armed += 1
    group.above, group.armed = above, state.last_armed
    state.armed[group.key] = above
    update_group(group)


def disarm(state: State, group: CreditGroup) -> None:
    """Disarms a group, if it is armed."""
    if group.above is None:
        return
    for consumer in group.consumers.values():
        _remove(consumer, group, group.above)
    group.above = None
    del state.armed[group.key]


def update_group(group: CreditGroup) -> None:
    """Updates the lists of the topics after the credit, the bound or the session of a group has changed."""
    if group.above is not None:
        for consumer in group.consumers.values():
            update_consumer(consumer)


def update_consumer(consumer: Consumer) -> None:
    """Updates the list of the topic after a consumer has changed."""
    group = consumer.group
    if group is None or group.above is None:
        return
    is_waiting = group.is_full() and consumer.session.is_served and not consumer.ended and not consumer.returning
    if not is_waiting:
        _remove(consumer, group, group.above)
        return
    entries, key = consumer.topic.overtaking, (group.above, group.armed, consumer.number)
    place = bisect_left(entries, key)
    if place == len(entries) or entries[place][2] != consumer.number:
        entries.insert(place, (*key, consumer))


def next_consumer(topic: Topic) -> Consumer | None:
    """The consumer that is sent the first ready message beyond its credit, or None. Takes constant time."""
    first = topic.ready.first()
    if first is None or not topic.overtaking or topic.holds_back:
        return None
    above, _, _, consumer = topic.overtaking[0]
    return consumer if -first.rank > above else None


def most_urgent_topic(group: CreditGroup) -> Topic | None:
    """The topic with the most urgent message that a group may be sent beyond its credit. Of equals it is that of the
    next consumer. Returns None if there is no such message, or if the group is not armed or has credit."""
    best: Topic | None = None
    least = 0
    if group.above is None or not group.is_full():
        return None
    for consumer in group.consumers.values():
        first = consumer.topic.ready.first()
        if first is None or (best is not None and first.rank >= least):
            continue
        if next_consumer(consumer.topic) is not None:
            best, least = consumer.topic, first.rank
    return best


def _remove(consumer: Consumer, group: CreditGroup, above: int) -> None:
    entries = consumer.topic.overtaking
    place = bisect_left(entries, (above, group.armed, consumer.number))
    if place < len(entries) and entries[place][2] == consumer.number:
        del entries[place]
