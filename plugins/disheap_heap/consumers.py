"""Consumers and sessions: who may be given messages, how many, and what becomes of that when they leave.

Consumers are replicated: a leader that falls takes no subscription with it. A pop is a consumer with a limit, its
number the ticket. A session that has lost its connection keeps what it holds and gets nothing new; when it attaches, it
says what it has, and is told the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from disheap.errors import ConsumerNotFound, InvalidArgument, TopicInUse
from disheap.protocol.broker import (
    CREDIT_BYTES_MAX,
    CREDIT_GROUP_CONSUMERS_MAX,
    CREDIT_MAX,
    Cancel,
    ConsumerEnded,
    Deliver,
    Held,
    Pop,
    PopDone,
    Resumed,
    SetCredit,
    Subscribe,
    Subscribed,
)
from disheap_heap import credit, timers
from disheap_heap.checks import find_topic, limit_reached, require_access
from disheap_heap.delivery import end_consumer, finish_pop, requeue_all, serve, update_expiry
from disheap_heap.encoding import DONE, encode
from disheap_heap.leases import find_consumer
from disheap_heap.settings import LEASES_PER_UNIT, MAX_ANSWER_BYTES, MAX_RESENT_PER_REPLY, MAX_SCANNED_PER_CALL, POP_MAX
from disheap_heap.state import Consumer, CreditGroup, Lease, Resend, Session, State, Topic
from disheap_heap.topics import delete
from disheap_heap.view import keep_consumer, keep_session


def subscribe(state: State, session: int, command: Subscribe) -> bytes:
    """Starts a consumer, in a group if the command names one."""
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
    """Starts a consumer with a limit. It ends at once, or after `wait_ms`."""
    topic = _open_topic(state, session, command.topic)
    if not 1 <= command.count <= POP_MAX:
        raise InvalidArgument(f"a pop takes 1 to {POP_MAX} messages, not {command.count}")
    ticket = _new_consumer(state, session, topic, command.count, state.settings.credit_bytes)
    ticket.no_ack, ticket.lease_ms, ticket.limit = command.no_ack, command.lease_ms, command.count
    _start(state, ticket)
    served_later = topic.number in state.unserved and ticket in topic.turns
    if ticket.ended:
        pass
    elif not command.wait_ms and not served_later:
        finish_pop(state, ticket)
    else:  # without a wait, the time is over at once: a timer fires when what was put off before it is done
        ticket.until_ms = state.now_ms + command.wait_ms
        state.timers.arm(timers.POP, ticket.number, ticket.until_ms)
    return encode(Subscribed(ticket.number))


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


def _set_group_credit(state: State, session: int, command: SetCredit) -> bytes:
    owner = state.sessions.get(session)
    group = owner.groups.get(command.group) if owner is not None else None
    if command.consumer:
        raise InvalidArgument("a credit is set for a consumer or for a group, not for both; consumer is 0 for a group")
    if group is None:
        raise ConsumerNotFound(f"no consumer of this session is in group {command.group}; subscribe first")
    credit.set_credit(state, group, command.credit, _checked_credit(state, command.credit, command.credit_bytes))
    return DONE


def _group(state: State, session: int, command: Subscribe, credit_bytes: int) -> CreditGroup:
    """The group that a new consumer joins, with the credit that it brings."""
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


def cancel(state: State, session: int, command: Cancel) -> bytes:
    """Ends a consumer. With `give_back` its messages go back at once."""
    consumer = find_consumer(state, session, command.consumer)
    if consumer is None:
        return DONE
    topic = consumer.topic
    if not consumer.ended:
        end_consumer(state, consumer)
        delete_if_unused(state, consumer)
    if command.give_back:
        requeue_all(state, consumer)
        serve(state, topic)
    return DONE


def delete_if_unused(state: State, consumer: Consumer) -> None:
    """A consumer has ended of its own will, or with its session: its topic may have been there for it alone."""
    topic = consumer.topic
    if topic.alive and topic.settings.auto_delete and not consumer.limit and not topic.subscribers:
        delete(state, topic, "its last consumer left")


def open_session(state: State, number: int, principal: str) -> None:
    """Registers a new session."""
    state.sessions[number] = Session(number, True, principal)


def attach_session(state: State, number: int, held: Held) -> bytes:
    """The leases not named in `held` go into the reply as far as they fit. The rest is pushed after it, in slices. A
    session that holds very much is compared with `held` in slices as well. Nothing new is delivered before that."""
    _check_named(state, held)
    session = state.sessions.setdefault(number, Session(number, True))
    if state.views:
        keep_session(state, session)
    session.attached, session.is_served = True, False
    stop_resending(state, session)
    tokens = dict.fromkeys(held.tokens)
    resend = Resend(tokens, [one.number for one in session.consumers.values() if one.leases])
    session.resend, state.resending[number] = resend, session
    looked = 0
    while not resend.is_scanned() and looked < MAX_SCANNED_PER_CALL:
        looked += _scan_next(state, resend)
    deliveries = _take_deliveries(state, resend)
    if resend.is_scanned():
        state.deliveries_left -= _push_leases(state, session, resend, state.deliveries_left)
    else:
        _leave_turns(state, session)
    reply = encode(Resumed(deliveries, _ended(session, held)))
    _end_slice(state, session, resend)
    return reply


def _check_named(state: State, held: Held) -> None:
    """Each pop and consumer that is no more is answered by name, so the names are bounded. A client may name consumers
    that ended while it was away, beside those that its session has. Raises `InvalidArgument`."""
    count, limit = len(held.tickets) + len(held.consumers), 2 * state.settings.session_consumers
    if count > limit:
        raise InvalidArgument(
            f"an ATTACH names at most {limit} pops and consumers, twice `session_consumers` in [machine.heap], not "
            f"{count}; open a new session"
        )


def _scan_next(state: State, resend: Resend) -> int:
    """Compare the leases of one consumer with what the client has. Returns how many there were, and one more."""
    consumer = state.consumers.get(resend.consumers[resend.scanned])
    resend.scanned += 1
    if consumer is None or consumer.returning:
        return 1  # its leases are over, or on their way back and will be delivered under another epoch
    held, looked = resend.held, len(consumer.leases)
    tokens = [(number, lease.epoch) for number, lease in consumer.leases.items()]
    resend.tokens += [token for token in tokens if token not in held] if held else tokens
    state.units += looked // LEASES_PER_UNIT
    return 1 + looked


def _take_deliveries(state: State, resend: Resend) -> list[Deliver]:
    """The first leases that the client does not have, as many as go into the reply."""
    deliveries: list[Deliver] = []
    room = MAX_ANSWER_BYTES
    for number, _ in islice(resend.tokens, MAX_RESENT_PER_REPLY):
        lease = state.leases[number]
        room -= len(lease.message.payload) + 64
        if room < 0:
            break
        deliveries.append(_delivery(lease))
    resend.sent = len(deliveries)
    state.units += len(deliveries)
    return deliveries


def detach_session(state: State, number: int) -> None:
    """Takes the consumers of a session out of their rings. They keep their messages."""
    session = state.sessions.get(number)
    if session is None:
        return
    if state.views:
        keep_session(state, session)
    session.attached = session.is_served = False
    stop_resending(state, session)
    _leave_turns(state, session)
    state.units += 1 + len(session.consumers) // credit.CONSUMERS_PER_UNIT


def _leave_turns(state: State, session: Session) -> None:
    for consumer in session.consumers.values():
        credit.leave_turns(state, consumer)


def stop_resending(state: State, session: Session) -> None:
    """Drops the leases that are still to be sent again to this session."""
    session.resend = None
    state.resending.pop(session.number, None)


def resend_some(state: State, session: Session, limit: int) -> int:
    """Go on with what an attach began, at most about `limit` units: the leases of one consumer are compared as a whole.
    Returns the units, `limit` at most."""
    resend = session.resend
    assert resend is not None
    if state.views:
        keep_session(state, session)
    done = 0
    while not resend.is_scanned() and done < limit:
        done += 1 + _scan_next(state, resend) // LEASES_PER_UNIT
    if resend.is_scanned() and done < limit:
        done += _push_leases(state, session, resend, limit - done)
    _end_slice(state, session, resend)
    return min(limit, done)


def _push_leases(state: State, session: Session, resend: Resend, limit: int) -> int:
    """Push leases that the client does not have, at most `limit`. Returns how many were looked at. One that was settled
    or is on its way back is passed over."""
    done = 0
    for number, epoch in resend.tokens[resend.sent : resend.sent + limit]:
        if state.push_bytes_left <= 0:
            break
        done += 1
        lease = state.leases.get(number)
        if lease is not None and lease.epoch == epoch and not lease.consumer.returning:
            state.push(session, encode(_delivery(lease)))
            state.push_bytes_left -= len(lease.message.payload)
    resend.sent += done
    state.units += done
    return done


def _end_slice(state: State, session: Session, resend: Resend) -> None:
    """After a slice: let new messages flow when all leases are compared, and forget the resend when all are sent."""
    if not resend.is_scanned():
        return
    if resend.sent >= len(resend.tokens):
        stop_resending(state, session)
    if not session.is_served:
        session.is_served = True
        _resume_delivery(state, session)


def expire_session(state: State, number: int) -> None:
    """What it owned is deleted, its consumers end, and what they hold goes back; the larger part of it later."""
    session = state.sessions.pop(number, None)
    if session is None:
        return
    if state.views:
        keep_session(state, session)
    session.attached = session.is_served = False
    stop_resending(state, session)
    _leave_turns(state, session)
    credit.end_groups(state, session)
    session.owned = dict(sorted(session.owned.items()))
    state.ending[number] = session
    state.end_units_left -= end_some(state, session, state.end_units_left, serve)


def end_some(state: State, session: Session, limit: int, serve: Callable[[State, Topic], None]) -> int:
    """Delete what the session owned, then end its consumers, at most about `limit` units: one topic or one consumer may
    take more. Returns the units, `limit` at most. The session lets go of each consumer that is dealt with."""
    until = state.units + limit
    for topic in list(islice(session.owned.values(), limit)):
        if state.units < until:
            delete(state, topic, "its owner's session is over")
    for consumer in [] if session.owned else list(islice(session.consumers.values(), limit)):
        if state.units >= until:
            break
        if session.consumers.pop(consumer.number, None) is not None:  # else it went with a topic just now
            _end_consumer(state, consumer, serve)
    if not session.owned and not session.consumers:
        del state.ending[session.number]
    return min(limit, limit - (until - state.units))


def _end_consumer(state: State, consumer: Consumer, serve: Callable[[State, Topic], None]) -> None:
    if consumer.ended and consumer.returning:
        return  # a restored replica does not know that the session still has it
    state.units += 1
    if not consumer.ended:
        end_consumer(state, consumer)
        delete_if_unused(state, consumer)
    if consumer.leases:
        requeue_all(state, consumer)
    serve(state, consumer.topic)


def _resume_delivery(state: State, session: Session) -> None:
    """Those who may take messages again join their rings, the oldest consumer first."""
    topics: dict[int, Topic] = {}
    for group in session.groups.values():
        credit.mark_freed(state, group)
    for consumer in session.consumers.values():
        if credit.join_turns(state, consumer):
            topics[consumer.topic.number] = consumer.topic
    for topic in topics.values():
        serve(state, topic)


def _ended(session: Session, held: Held) -> list[PopDone | ConsumerEnded]:
    """Of the tickets and consumers that the client waits for, those of which nothing more will come."""
    live = {number for number, consumer in session.consumers.items() if not consumer.ended}
    ended: list[PopDone | ConsumerEnded] = [PopDone(ticket, 0) for ticket in held.tickets if ticket not in live]
    for number in held.consumers:
        if number not in live:
            ended.append(ConsumerEnded(number, "it ended while the session had no connection"))
    return ended


def _delivery(lease: Lease) -> Deliver:
    message, epoch, until_ms, consumer = lease
    priority = message.rank * consumer.topic.sign
    return Deliver(consumer.number, message.id, epoch, priority, message.enqueued_ms, message.payload, until_ms)


def _open_topic(state: State, session: int, name: str) -> Topic:
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
    """An exclusive consumer is the only active one, so the others need no look."""
    return topic.active == 1 and any(one.exclusive and not one.ended for one in topic.consumers.values())


def _checked_credit(state: State, credit: int, credit_bytes: int) -> int:
    """The bound in bytes that holds. Raises `InvalidArgument`."""
    if not 1 <= credit <= CREDIT_MAX:
        raise InvalidArgument(f"credit is 1 to {CREDIT_MAX} messages, not {credit}")
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
