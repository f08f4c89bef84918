"""Which consumers take turns, by their credit. Also credit that several consumers of a session share (AMQP's prefetch
count of a channel).

A consumer is in the turns of its topic while it can receive. Within a topic `turns` decides which consumer is next. The
topics of a credit group are served in this order: the consumer that was given a message longest ago comes first.

While a group is full, its consumers are in no turns. When it has credit again, it is *freed*: at the end of the call
its consumers join their turns, the next consumer first. Each topic is served before the next consumer joins. So the
topic whose message was settled has no advantage over the others.
"""

from __future__ import annotations

from disheap_heap.delivery import overtaking
from disheap_heap.state.state import Consumer, CreditGroup, Session, State
from disheap_heap.state.views import keep_consumer, keep_group, keep_session, keep_turns

CONSUMERS_PER_UNIT = 16
"""Consumers that join or leave their turns for one unit of work."""


def join_turns(state: State, consumer: Consumer) -> bool:
    """The consumer joins the turns of its topic, if it can receive and is not there. Returns whether it joined. A
    consumer of a freed group joins with its group."""
    turns = consumer.topic.turns
    if consumer.number in turns.by_number or not consumer.can_receive():
        return False
    if consumer.group is not None and consumer.group.key in state.freed:
        return False
    if state.views:
        keep_turns(state, consumer.topic)
    turns.join(consumer)
    return True


def leave_turns(state: State, consumer: Consumer) -> None:
    """The consumer leaves the turns of its topic, if it is there."""
    if state.views:
        keep_turns(state, consumer.topic)
    consumer.topic.turns.leave(consumer)


def add_to_group(state: State, group: CreditGroup, consumer: Consumer) -> None:
    """Adds a new consumer. Its turn comes after those that were given nothing yet, and before all others."""
    if state.views:
        keep_group(state, group)
    consumer.group = group
    group.consumers[consumer.number] = consumer
    for number in [one.number for one in group.consumers.values() if one.delivered]:
        group.consumers.move_to_end(number)
    overtaking.update_consumer(consumer)


def charge(state: State, group: CreditGroup, consumer: Consumer, body_bytes: int) -> None:
    """A consumer of the group holds one message more. If the group is full now, its consumers leave their turns."""
    if state.views:
        keep_group(state, group)
    group.held += 1
    group.held_bytes += body_bytes
    group.consumers.move_to_end(consumer.number)
    if group.is_full():
        _leave_turns_of_group(state, group)


def refund(state: State, group: CreditGroup, body_bytes: int) -> None:
    """A consumer of the group holds one message less. Marks the group as freed, if it was full."""
    was_full = group.is_full()
    group.held -= 1
    group.held_bytes -= body_bytes
    if was_full:
        mark_freed(state, group)


def mark_freed(state: State, group: CreditGroup) -> None:
    """Lets the consumers of the group join their turns at the end of this call, if the group has credit."""
    if not group.is_full():
        state.freed.setdefault(group.key, group)
        overtaking.update_group(group)


def set_credit(state: State, group: CreditGroup, credit: int, credit_bytes: int) -> None:
    """Changes the credit of a group. Its consumers leave their turns, or join them at the end of this call."""
    if state.views:
        keep_group(state, group)
    group.credit, group.credit_bytes = credit, credit_bytes
    if group.is_full():
        state.freed.pop(group.key, None)
        _leave_turns_of_group(state, group)
    else:
        mark_freed(state, group)


def remove_from_group(state: State, consumer: Consumer) -> None:
    """Removes an ended consumer from the order of its group. The messages that it holds still count."""
    if consumer.group is not None:
        if state.views:
            keep_group(state, consumer.group)
        overtaking.update_consumer(consumer)
        del consumer.group.consumers[consumer.number]


def remove_unused_group(state: State, consumer: Consumer) -> None:
    """Removes the group of a consumer that has ended and holds nothing, if no other consumer receives or holds
    messages in it."""
    group = consumer.group
    if group is not None and not group.consumers and not group.held:
        if state.views:
            keep_session(state, consumer.session)
        state.freed.pop(group.key, None)
        overtaking.disarm(state, group)
        consumer.session.groups.pop(group.key[1], None)


def end_groups(state: State, session: Session) -> None:
    """Removes all groups of a session that has ended."""
    for group in session.groups.values():
        state.freed.pop(group.key, None)
        overtaking.disarm(state, group)
    for consumer in session.consumers.values():
        if state.views:
            keep_consumer(state, consumer)
        consumer.group = None
    session.groups.clear()


def next_freed(state: State) -> tuple[CreditGroup, list[Consumer], int]:
    """Takes one freed group. Returns it, its consumers with the next one first, and the units of work for them."""
    _, group = state.freed.popitem(last=False)
    return group, list(group.consumers.values()), 1 + len(group.consumers) // CONSUMERS_PER_UNIT


def _leave_turns_of_group(state: State, group: CreditGroup) -> None:
    for consumer in group.consumers.values():
        leave_turns(state, consumer)
    overtaking.update_group(group)
