"""Consumers: subscribe, pop, set credit, overtake, cancel.

A consumer is replicated, so a subscription outlives the leader. A pop is a consumer with a limit, and the reply has its
number. What becomes of the consumers of a session that ends is decided in `sessions`.
"""

from __future__ import annotations

from disheap.errors import ConsumerNotFound, InvalidArgument, TopicInUse
from disheap.protocol.broker import (
    CREDIT_BYTES_MAX,
    CREDIT_GROUP_CONSUMERS_MAX,
    CREDIT_MAX,
    Cancel,
    Overtake,
    Pop,
    SetCredit,
    Subscribe,
    Subscribed,
)
from disheap_heap.commands.checks import find_topic, limit_reached, require_access
from disheap_heap.commands.topics import delete
from disheap_heap.delivery import credit, overtaking
from disheap_heap.delivery.delivery import serve, serve_overtaking_group
from disheap_heap.delivery.ending import end_consumer, finish_pop, update_expiry
from disheap_heap.delivery.leases import find_consumer
from disheap_heap.delivery.returning import requeue_all
from disheap_heap.encoding import DONE, encode
from disheap_heap.settings import POP_MAX
from disheap_heap.state.state import Consumer, CreditGroup, State, Topic
from disheap_heap.state.views import keep_consumer, keep_session
from disheap_heap.tables import timers


def subscribe(state: State, session: int, command: Subscribe) -> bytes:
    """Starts a consumer, in a credit group if the command names one. The reply has its number."""
    topic = _open_topic(state, session, command.topic)
    credit_bytes = _checked_credit(state, command.credit, command.credit_bytes)
    if command.exclusive and topic.active:
        raise TopicInUse(f"topic {topic.name!r} has other consumers; cancel them before one can have it to itself")
    group = _group(state, session, command, credit_bytes) if command.group else None
    consumer = _new_consumer(state, session, topic, command.credit, credit_bytes)
    consumer.no_ack, consumer.lease_ms, consumer.exclusive = command.no_ack, command.lease_ms, command.exclusive
    if group is not None:
        credit.add_to_group(state, group, consumer)
    _start(state, consumer)
    return encode(Subscribed(consumer.number))


def pop(state: State, session: int, command: Pop) -> bytes:
    """Starts a consumer with a limit. It ends when it has that many messages, or after `wait_ms`. Without a wait it
    gets what is ready now."""
    topic = _open_topic(state, session, command.topic)
    if not 1 <= command.count <= POP_MAX:
        raise InvalidArgument(f"a pop takes 1 to {POP_MAX} messages, not {command.count}")
    consumer = _new_consumer(state, session, topic, command.count, state.settings.credit_bytes)
    consumer.no_ack, consumer.lease_ms, consumer.limit = command.no_ack, command.lease_ms, command.count
    _start(state, consumer)
    served_later = topic.number in state.unserved and consumer in topic.turns
    if consumer.ended:
        pass
    elif not command.wait_ms and not served_later:
        finish_pop(state, consumer)
    else:  # without a wait, its timer is due at once, and fires after the postponed deliveries
        consumer.until_ms = state.now_ms + command.wait_ms
        state.timers.arm(timers.POP, consumer.number, consumer.until_ms)
    return encode(Subscribed(consumer.number))


def set_credit(state: State, session: int, command: SetCredit) -> bytes:
    """Changes the credit of a consumer or of a group."""
    if command.group:
        return _set_group_credit(state, session, command)
    consumer = find_consumer(state, session, command.consumer)
    if consumer is None or consumer.ended or consumer.limit:
        raise ConsumerNotFound(f"consumer {command.consumer} has ended, or is a pop; subscribe again")
    if consumer.group is not None:
        number = consumer.group.key[1]
        raise InvalidArgument(f"consumer {consumer.number} shares the credit of group {number}; set that group's")
    credit_bytes = _checked_credit(state, command.credit, command.credit_bytes)
    if state.views:
        keep_consumer(state, consumer)
    consumer.credit, consumer.credit_bytes = command.credit, credit_bytes
    if not consumer.can_receive():
        credit.leave_turns(state, consumer)
    else:
        credit.join_turns(state, consumer)
        serve(state, consumer.topic)
    return DONE


def overtake(state: State, session: int, command: Overtake) -> bytes:
    """Arms a credit group: it is sent one message beyond its credit, if there is or comes one that is more urgent."""
    group = _find_group(state, session, command.group)
    state.units += len(group.consumers) // credit.CONSUMERS_PER_UNIT
    overtaking.arm(state, group, command.above)
    serve_overtaking_group(state, group)
    return DONE


def cancel(state: State, session: int, command: Cancel) -> bytes:
    """Ends a consumer. Its leases stay, or with `give_back` they are given back at once."""
    if command.release and not command.give_back:
        raise InvalidArgument("a Cancel with release says how messages are given back; say give_back as well")
    consumer = find_consumer(state, session, command.consumer)
    if consumer is None:
        return DONE
    topic = consumer.topic
    if not consumer.ended:
        end_consumer(state, consumer)
        delete_if_unused(state, consumer)
    if command.give_back:
        requeue_all(state, consumer, command.release)
        serve(state, topic)
    return DONE


def delete_if_unused(state: State, consumer: Consumer) -> None:
    """Deletes an `auto_delete` topic when its last consumer, which is this one, has ended. Pops do not count."""
    topic = consumer.topic
    if topic.alive and topic.settings.auto_delete and not consumer.limit and not topic.subscribers:
        delete(state, topic, "its last consumer left")


def _set_group_credit(state: State, session: int, command: SetCredit) -> bytes:
    if command.consumer:
        raise InvalidArgument("a credit is set for a consumer or for a group, not for both; consumer is 0 for a group")
    group = _find_group(state, session, command.group)
    credit_bytes = _checked_credit(state, command.credit, command.credit_bytes, least=0)
    credit.set_credit(state, group, command.credit, credit_bytes)
    return DONE


def _find_group(state: State, session: int, number: int) -> CreditGroup:
    """The credit group of this session. Raises `ConsumerNotFound`."""
    owner = state.sessions.get(session)
    group = owner.groups.get(number) if owner is not None else None
    if group is None:
        raise ConsumerNotFound(f"no consumer of this session is in group {number}; subscribe first")
    return group


def _group(state: State, session: int, command: Subscribe, credit_bytes: int) -> CreditGroup:
    """The credit group for a new consumer. It is created if it does not exist, and gets the credit of the command."""
    if command.no_ack:
        raise InvalidArgument("a consumer without acknowledgements uses up no credit; it belongs to no group")
    groups = state.sessions[session].groups
    group = groups.get(command.group)
    if group is None:
        if state.views:
            keep_session(state, state.sessions[session])
        group = groups[command.group] = CreditGroup(session, command.group, command.credit, credit_bytes)
    elif len(group.consumers) >= CREDIT_GROUP_CONSUMERS_MAX:
        raise InvalidArgument(
            f"group {command.group} has {len(group.consumers)} consumers, the most that may share a credit; use another"
        )
    else:
        credit.set_credit(state, group, command.credit, credit_bytes)
    return group


def _open_topic(state: State, session: int, name: str) -> Topic:
    """The topic, if this session may start one more consumer on it."""
    topic = find_topic(state, name)
    require_access(topic, session)
    if session not in state.sessions:
        raise InvalidArgument(f"session {session} is not open; only an open session can hold messages")
    if _has_exclusive(topic):
        raise TopicInUse(f"topic {name!r} has a consumer that has it to itself; cancel that one first")
    if len(state.consumers) >= state.settings.consumers:
        raise limit_reached("consumers", len(state.consumers))
    if len(topic.consumers) >= state.settings.topic_consumers:
        raise limit_reached("topic_consumers", len(topic.consumers), f"consumers of topic {name!r}")
    of_session = len(state.sessions[session].consumers)
    if of_session >= state.settings.session_consumers:
        raise limit_reached("session_consumers", of_session, f"consumers of session {session}")
    return topic


def _has_exclusive(topic: Topic) -> bool:
    """Whether a consumer has the topic to itself. Such a consumer is the only active one, which saves the search."""
    return topic.active == 1 and any(one.exclusive and not one.ended for one in topic.consumers.values())


def _checked_credit(state: State, credit: int, credit_bytes: int, least: int = 1) -> int:
    """Returns the bound in bytes that applies. Raises `InvalidArgument`."""
    if not least <= credit <= CREDIT_MAX:
        raise InvalidArgument(f"credit is {least} to {CREDIT_MAX} messages, not {credit}")
    if not 0 <= credit_bytes <= CREDIT_BYTES_MAX:
        raise InvalidArgument(f"credit_bytes is 0 (the machine's bound) to {CREDIT_BYTES_MAX}, not {credit_bytes}")
    return credit_bytes or state.settings.credit_bytes


def _new_consumer(state: State, session: int, topic: Topic, credit: int, credit_bytes: int) -> Consumer:
    state.last_consumer += 1
    return Consumer(state.last_consumer, state.sessions[session], topic, credit, credit_bytes)


def _start(state: State, consumer: Consumer) -> None:
    topic = consumer.topic
    state.consumers[consumer.number] = consumer
    consumer.session.consumers[consumer.number] = topic.consumers[consumer.number] = consumer
    topic.active += 1
    topic.subscribers += not consumer.limit
    state.active += 1
    state.subscribers += not consumer.limit
    update_expiry(state, topic)
    credit.join_turns(state, consumer)
    serve(state, topic)
