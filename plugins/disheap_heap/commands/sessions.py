"""Sessions: open, attach, detach, expire.

A session that has lost its connection keeps its leases and is given no new messages. When it attaches, the client names
the leases that it has, and is sent those that it does not have. A session that expires ends with its consumers and its
exclusive topics, and its leases are given back.

A session may hold very much, so attaching and expiring are done in slices. `work` continues both.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from disheap.errors import InvalidArgument
from disheap.protocol.broker import ConsumerEnded, Deliver, Held, PopDone, Resumed
from disheap_heap.commands.consumers import delete_if_unused
from disheap_heap.commands.topics import delete
from disheap_heap.commands.values import end_watches
from disheap_heap.delivery import credit, overtaking
from disheap_heap.delivery.delivery import serve, serve_overtaking_group
from disheap_heap.delivery.ending import end_consumer
from disheap_heap.delivery.returning import requeue_all
from disheap_heap.encoding import encode
from disheap_heap.settings import LEASES_PER_UNIT, MAX_ANSWER_BYTES, MAX_RESENT_PER_REPLY, MAX_SCANNED_PER_CALL
from disheap_heap.state.messages import deliver
from disheap_heap.state.state import Consumer, Lease, Resend, Session, State, Topic
from disheap_heap.state.views import free_resend, keep_record_bytes, keep_session

TOKENS_FREED_AT_ONCE = 1000
"""Tokens of a resend that is over, without postponing it: 30 us."""


def open_session(state: State, number: int, principal: str) -> None:
    """Registers a new session. `principal` is the name that its client proved."""
    state.sessions[number] = Session(number, True, principal)


def attach_session(state: State, number: int, held: Held) -> bytes:
    """Returns the reply. It has the leases that `held` does not name, as many as fit. The others are pushed after it,
    in slices. If the session holds very much, its leases are compared with `held` in slices as well. No new message is
    delivered before all are compared; then the consumers of the session are last in their turns. Raises
    `InvalidArgument`."""
    _check_held(state, held)
    session = state.sessions.setdefault(number, Session(number, True))
    if state.views:
        keep_session(state, session)
    session.attached, session.is_served = True, False
    stop_resending(state, session)
    _leave_turns(state, session)
    tokens = dict.fromkeys(held.tokens)
    resend = Resend(tokens, [one.number for one in session.consumers.values() if one.leases])
    session.resend, state.resending[number] = resend, session
    looked = 0
    while not resend.is_scanned() and looked < MAX_SCANNED_PER_CALL:
        looked += _scan_next(state, resend)
    deliveries = _take_deliveries(state, resend)
    if resend.is_scanned():
        state.deliveries_left -= _push_leases(state, session, resend, state.deliveries_left)
    reply = encode(Resumed(deliveries, _ended(session, held)))
    _end_slice(state, session, resend)
    return reply


def detach_session(state: State, number: int) -> None:
    """Stops deliveries to a session. It keeps its leases. Does nothing if the session is unknown."""
    session = state.sessions.get(number)
    if session is None:
        return
    if state.views:
        keep_session(state, session)
    session.attached = session.is_served = False
    stop_resending(state, session)
    _leave_turns(state, session)
    state.units += 1 + len(session.consumers) // credit.CONSUMERS_PER_UNIT


def expire_session(state: State, number: int) -> None:
    """Ends a session: deletes its exclusive topics, ends its consumers, and gives its leases back. The call does a
    bounded part of this, and `work` does the rest. Does nothing if the session is unknown."""
    session = state.sessions.pop(number, None)
    if session is None:
        return
    if state.views:
        keep_session(state, session)
        keep_record_bytes(state, session)
    session.attached = session.is_served = False
    stop_resending(state, session)
    _leave_turns(state, session)
    credit.end_groups(state, session)
    session.owned = dict(sorted(session.owned.items()))
    state.ending[number] = session
    state.end_units_left -= end_some(state, session, state.end_units_left, serve)


def stop_resending(state: State, session: Session) -> None:
    """Forgets which leases are still to be sent again to this session. Many tokens are freed later: a session may hold
    millions of messages."""
    resend, session.resend = session.resend, None
    if resend is not None and resend.memory_records() > TOKENS_FREED_AT_ONCE:
        free_resend(state, resend)
    state.resending.pop(session.number, None)


def resend_some(state: State, session: Session, limit: int) -> int:
    """Continues an attach by about `limit` units. The leases of one consumer are compared as a whole, so it may be
    more. Returns the units, at most `limit`."""
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


def end_some(state: State, session: Session, limit: int, serve: Callable[[State, Topic], None]) -> int:
    """Continues the end of a session by about `limit` units: first its topics, then its consumers, then its watches.
    One topic or one consumer may take more. `serve` is called for each topic to which leases were given back. Returns
    the units, at most `limit`."""
    until = state.units + limit
    for topic in list(islice(session.owned.values(), limit)):
        if state.units < until:
            delete(state, topic, "its owner's session is over")
    for consumer in [] if session.owned else list(islice(session.consumers.values(), limit)):
        if state.units >= until:
            break
        if session.consumers.pop(consumer.number, None) is not None:  # None: its topic was deleted just now
            _end_consumer(state, consumer, serve)
    if not session.owned and not session.consumers:
        end_watches(state, session, until - state.units)
    if not session.owned and not session.consumers and not session.watches:
        del state.ending[session.number]
    return min(limit, limit - (until - state.units))


def _check_held(state: State, held: Held) -> None:
    """The reply names each pop and consumer that has ended, so the number of names is bounded. A client may name the
    consumers of its session, and as many that ended while it had no connection. Raises `InvalidArgument`."""
    count, limit = len(held.tickets) + len(held.consumers), 2 * state.settings.session_consumers
    if count > limit:
        raise InvalidArgument(
            f"an ATTACH names at most {limit} pops and consumers, twice `session_consumers` in [machine.heap], not "
            f"{count}; open a new session"
        )


def _scan_next(state: State, resend: Resend) -> int:
    """Compares the leases of one consumer with those that the client has. Returns how many there were, and one
    more."""
    consumer = state.consumers.get(resend.consumers[resend.scanned])
    resend.scanned += 1
    if consumer is None or consumer.returning:
        return 1  # its leases have ended, or will end and be delivered again with another epoch
    held, looked = resend.held, len(consumer.leases)
    tokens = [(number, lease.epoch) for number, lease in consumer.leases.items()]
    resend.tokens += [token for token in tokens if token not in held] if held else tokens
    state.units += looked // LEASES_PER_UNIT
    return 1 + looked


def _take_deliveries(state: State, resend: Resend) -> list[Deliver]:
    """The first leases that the client does not have, as many as fit into the reply."""
    deliveries: list[Deliver] = []
    bytes_left = MAX_ANSWER_BYTES
    for number, _ in islice(resend.tokens, MAX_RESENT_PER_REPLY):
        lease = state.leases[number]
        bytes_left -= len(lease.message.body) + 64
        if bytes_left < 0:
            break
        deliveries.append(_delivery(lease))
    resend.sent = len(deliveries)
    state.units += len(deliveries)
    return deliveries


def _push_leases(state: State, session: Session, resend: Resend, limit: int) -> int:
    """Pushes at most `limit` leases that the client does not have. Passes over a lease that has ended or is being given
    back. Returns how many leases it looked at."""
    done = 0
    for number, epoch in resend.tokens[resend.sent : resend.sent + limit]:
        if state.push_bytes_left <= 0:
            break
        done += 1
        lease = state.leases.get(number)
        if lease is not None and lease.epoch == epoch and not lease.consumer.returning:
            state.push(session, encode(_delivery(lease)))
            state.push_bytes_left -= len(lease.message.body)
    resend.sent += done
    state.units += done
    return done


def _end_slice(state: State, session: Session, resend: Resend) -> None:
    """Resumes deliveries when all leases are compared. Forgets the resend when all are sent."""
    if not resend.is_scanned():
        return
    if resend.sent >= len(resend.tokens):
        stop_resending(state, session)
    if not session.is_served:
        session.is_served = True
        _resume_delivery(state, session)


def _resume_delivery(state: State, session: Session) -> None:
    """The consumers that can receive join the turns of their topics, the oldest consumer first."""
    topics: dict[int, Topic] = {}
    for group in session.groups.values():
        credit.mark_freed(state, group)
        overtaking.update_group(group)
    for consumer in session.consumers.values():
        if credit.join_turns(state, consumer):
            topics[consumer.topic.number] = consumer.topic
    for topic in topics.values():
        serve(state, topic)
    for group in session.groups.values():
        serve_overtaking_group(state, group)


def _leave_turns(state: State, session: Session) -> None:
    for group in session.groups.values():
        overtaking.update_group(group)
    for consumer in session.consumers.values():
        credit.leave_turns(state, consumer)


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


def _ended(session: Session, held: Held) -> list[PopDone | ConsumerEnded]:
    """The pops and consumers that the client named and that have ended."""
    live = {number for number, consumer in session.consumers.items() if not consumer.ended}
    ended: list[PopDone | ConsumerEnded] = [PopDone(number, 0) for number in held.tickets if number not in live]
    for number in held.consumers:
        if number not in live:
            ended.append(ConsumerEnded(number, "it ended while the session had no connection"))
    return ended


def _delivery(lease: Lease) -> Deliver:
    message, epoch, until_ms, consumer, _ = lease
    return deliver(message, consumer.number, epoch, message.rank * consumer.topic.sign, until_ms)
