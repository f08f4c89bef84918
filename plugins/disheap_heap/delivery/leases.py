"""Settling leases: ack, nack, extend, recover (docs/reference/topics-and-messages.md).

A token is valid for one lease, and for the session that holds it. The epoch of a message grows with each lease that is
granted, so a token from before an expiry is stale. A stale token changes nothing and is listed in the reply.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from disheap.errors import ConsumerNotFound, InvalidArgument
from disheap.protocol.broker import Ack, Extend, Nack, Recover, Settled, Token, deaths
from disheap_heap.delivery.dead_letters import die
from disheap_heap.delivery.delivery import release_lease, release_taken, serve, serve_all, serve_later
from disheap_heap.delivery.dropping import drop_message
from disheap_heap.delivery.returning import LEASE_OVER, give_back_unbegun, requeue, requeue_all, requeue_delayed
from disheap_heap.encoding import DONE, SETTLED_ONE, encode
from disheap_heap.state.state import Consumer, Lease, State, Topic
from disheap_heap.state.views import keep_lease
from disheap_heap.tables import timers


def ack(state: State, session: int, command: Ack) -> bytes:
    """Settles messages for good. The reply lists the stale tokens."""
    leases, tokens = state.leases, command.tokens
    if len(tokens) == 1:
        return _ack_one(state, session, tokens[0])
    stale: list[Token] = []
    waiting: dict[int, Topic] = {}
    for token in tokens:
        lease = leases.get(token[0])
        if lease is None or lease.epoch != token[1] or lease.consumer.session.number != session:
            stale.append(token)
            continue
        topic = release_lease(state, lease)
        drop_message(state, lease.message)
        topic.counts.acked += 1
        if topic.ready.chunks:
            waiting[topic.number] = topic
    state.settled += len(tokens) - len(stale)
    serve_all(state, waiting.values())
    return _settled(tokens, stale)


def _ack_one(state: State, session: int, token: Token) -> bytes:
    """The fast path: nearly every ack settles one message."""
    lease = state.leases.take(token[0])  # to look first would take longer
    if lease is None or lease.epoch != token[1] or lease.consumer.session.number != session:
        if lease is not None:
            state.leases.put(token[0], lease)
        return encode(Settled(0, [token]))
    topic = release_taken(state, lease)
    drop_message(state, lease.message)
    state.settled += 1
    topic.counts.acked += 1
    if topic.turns.by_number and topic.ready.chunks:
        serve(state, topic)
    return SETTLED_ONE


def nack(state: State, session: int, command: Nack) -> bytes:
    """Gives messages back to their topics, at once or after a delay, or lets them die. The reply lists the stale
    tokens."""
    check_nack(command)
    found, stale = _find(state, session, command.tokens)
    touched = settle(state, found.values(), command)
    serve_all(state, touched.values())
    return _settled(command.tokens, stale)


def check_nack(nack: Nack) -> None:
    """Raises `InvalidArgument` if the Nack contradicts itself."""
    if nack.release and (nack.discard or nack.error):
        what = "discarded" if nack.discard else "an error"
        raise InvalidArgument(
            f"a Nack with release gives back messages that were not begun, so none of them is {what}; leave one of the "
            "two out"
        )


def settle(state: State, leases: Iterable[Lease], nack: Nack | None) -> dict[int, Topic]:
    """Settles leases as `nack` says, or acknowledges them if it is None. The caller serves the returned topics."""
    if nack is not None and nack.delay_ms and not nack.discard:
        return requeue_delayed(state, leases, nack)
    topics: dict[int, Topic] = {}
    for lease in leases:
        if nack is None:
            topic = release_lease(state, lease)
            drop_message(state, lease.message)
            state.settled += 1
            topic.counts.acked += 1
        elif nack.release:
            topic = give_back_unbegun(state, lease)
        elif nack.discard:
            topic = release_lease(state, lease)
            topic.counts.nacked += 1
            die(state, topic, lease.message.after(lease.epoch), deaths.REJECTED, nack.error)
        else:
            topic = requeue(state, lease, nack.error)
            topic.counts.nacked += 1
        topics[topic.number] = topic
    return topics


def extend(state: State, session: int, command: Extend) -> bytes:
    """Sets a new end for leases, counted from now. The reply lists the stale tokens."""
    found, stale = _find(state, session, command.tokens)
    until_ms = state.now_ms + command.lease_ms if command.lease_ms else 0
    for number, lease in found.items():
        if state.views:
            keep_lease(state, lease)
        renewed = Lease(lease.message, lease.epoch, until_ms, lease.consumer, lease.order)
        state.leases.put(number, renewed)
        lease.consumer.leases[number] = renewed
        if until_ms:
            state.timers.arm(timers.LEASE, number, until_ms)
        elif lease.until_ms:
            state.timers.disarm(timers.LEASE, number)
    return _settled(command.tokens, stale)


def recover(state: State, session: int, command: Recover) -> bytes:
    """Gives back all messages that these consumers hold."""
    consumers = [find_consumer(state, session, number) for number in dict.fromkeys(command.consumers)]
    touched: dict[int, Topic] = {}
    for consumer in consumers:
        if consumer is not None:
            requeue_all(state, consumer)
            touched[consumer.topic.number] = consumer.topic
    serve_all(state, touched.values())
    return DONE


def expire_lease(state: State, number: int) -> None:
    """The lease has reached its deadline: gives the message back. The consumer may receive another."""
    serve_later(state, requeue(state, state.leases[number], LEASE_OVER))


def find_consumer(state: State, session: int, number: int) -> Consumer | None:
    """The consumer, or None if it existed and has ended. Raises `ConsumerNotFound` if it is another session's or never
    existed."""
    consumer = state.consumers.get(number)
    if consumer is not None and consumer.session.number == session:
        return consumer
    if consumer is None and 0 < number <= state.last_consumer:
        return None
    raise ConsumerNotFound(f"this session has no consumer {number}; it may belong to an earlier session")


def _find(state: State, session: int, tokens: list[Token]) -> tuple[dict[int, Lease], list[Token]]:
    """The leases by message id, and the stale tokens. A token that is repeated counts as stale the second time."""
    found: dict[int, Lease] = {}
    stale: list[Token] = []
    for token in tokens:
        lease = state.leases.get(token[0])
        live = lease is not None and lease.epoch == token[1] and lease.consumer.session.number == session
        if lease is None or not live or token[0] in found:
            stale.append(token)
        else:
            found[token[0]] = lease
    return found, stale


def _settled(tokens: list[Any], stale: list[Token]) -> bytes:
    count = len(tokens) - len(stale)
    return SETTLED_ONE if count == 1 and not stale else encode(Settled(count, stale))
