"""Credit that several consumers of a session share (AMQP's prefetch count of a channel).

Owns who of a group joins the ring of its topic, and in which order the topics of a group are served: the consumer that
was given a message longest ago comes first. Within a topic the order is the topic's own.

A group that is full is in no ring. One that has room again is *freed*: its consumers join their rings at the end of the
call, the next in turn first, and each topic is served before the next consumer joins. So the topic whose message was
settled has no advantage over the others.
"""

from __future__ import annotations

from disheap_heap.state import Consumer, CreditGroup, Session, State
from disheap_heap.view import keep_consumer, keep_group, keep_session, keep_turns

CONSUMERS_PER_UNIT = 16
"""Consumers that join or leave their rings for one unit of work: it is a small part of a delivery."""


def join_turns(state: State, consumer: Consumer) -> bool:
    """The consumer joins its topic's ring if it is hungry and not there. One of a freed group joins with the group."""
    turns = consumer.topic.turns
    if consumer in turns or not consumer.can_receive():
        return False
    if consumer.group is not None and consumer.group.key in state.freed:
        return False
    if state.views:
        keep_turns(state, consumer.topic)
    turns.join(consumer)
    return True


def leave_turns(state: State, consumer: Consumer) -> None:
    """The consumer leaves its topic's ring, if it is there."""
    if state.views:
        keep_turns(state, consumer.topic)
    consumer.topic.turns.leave(consumer)


def add_to_group(state: State, group: CreditGroup, consumer: Consumer) -> None:
    """A new consumer. Its turn comes behind those that were given nothing yet either, and before all others."""
    if state.views:
        keep_group(state, group)
    consumer.group = group
    group.consumers[consumer.number] = consumer
    for number in [one.number for one in group.consumers.values() if one.delivered]:
        group.consumers.move_to_end(number)


def charge(state: State, group: CreditGroup, consumer: Consumer, payload_bytes: int) -> None:
    """A consumer of the group holds one message more."""
    if state.views:
        keep_group(state, group)
    group.held += 1
    group.held_bytes += payload_bytes
    group.consumers.move_to_end(consumer.number)
    if group.is_full():
        _leave_turns_of_group(state, group)


def refund(state: State, group: CreditGroup, payload_bytes: int) -> None:
    """A consumer of the group holds one message less."""
    was_full = group.is_full()
    group.held -= 1
    group.held_bytes -= payload_bytes
    if was_full:
        mark_freed(state, group)


def mark_freed(state: State, group: CreditGroup) -> None:
    """If the group has room, its consumers join their rings at the end of this call."""
    if not group.is_full():
        state.freed.setdefault(group.key, group)


def set_credit(state: State, group: CreditGroup, credit: int, credit_bytes: int) -> None:
    """Changes the credit of a group. Its consumers leave or join their rings."""
    if state.views:
        keep_group(state, group)
    group.credit, group.credit_bytes = credit, credit_bytes
    if group.is_full():
        state.freed.pop(group.key, None)
        _leave_turns_of_group(state, group)
    else:
        mark_freed(state, group)


def remove_from_group(state: State, consumer: Consumer) -> None:
    """The consumer takes no more messages, so it has no turn and no place any more. What it holds counts on."""
    if consumer.group is not None:
        if state.views:
            keep_group(state, consumer.group)
        del consumer.group.consumers[consumer.number]


def remove_unused_group(state: State, consumer: Consumer) -> None:
    """An ended consumer holds nothing any more. Its group goes with the last that takes or holds messages."""
    group = consumer.group
    if group is not None and not group.consumers and not group.held:
        if state.views:
            keep_session(state, consumer.session)
        state.freed.pop(group.key, None)
        consumer.session.groups.pop(group.key[1], None)


def end_groups(state: State, session: Session) -> None:
    """The session is over: nobody is served by its groups any more."""
    for group in session.groups.values():
        state.freed.pop(group.key, None)
    for consumer in session.consumers.values():
        if state.views:
            keep_consumer(state, consumer)
        consumer.group = None
    session.groups.clear()


def next_freed(state: State) -> tuple[list[Consumer], int]:
    """Takes one freed group: its consumers, the next in turn first, and the units of work that it stands for."""
    _, group = state.freed.popitem(last=False)
    return list(group.consumers.values()), 1 + len(group.consumers) // CONSUMERS_PER_UNIT


def _leave_turns_of_group(state: State, group: CreditGroup) -> None:
    for consumer in group.consumers.values():
        leave_turns(state, consumer)
