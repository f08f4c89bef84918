"""Barriers: so many parts have to arrive, and then one message is published, once.

A part is the key of a value with an order. It arrives with its value, in one command (`SetValue`). The same part
arrives once, so a task that is carried out twice is counted once. When the last part arrives, the same command
publishes the message of the barrier. So there is no moment at which a barrier is complete and nobody is told.

Whoever gets the message reads the parts in pages (`GetParts`), and closes the barrier. `CloseBarrier` may be an item of
a `Batch`, beside the messages that follow from the parts. Of several attempts one gets through. A closed barrier stays
for its lifetime, so that a part that comes late does not begin it again.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from disheap.errors import BarrierClosed, InvalidArgument
from disheap.protocol.broker import (
    BarrierInfo,
    CloseBarrier,
    GetParts,
    Part,
    Parts,
    Publish,
    Removed,
    SetBarrier,
    SetValue,
)
from disheap_heap.commands.checks import check_message, check_name, limit_reached
from disheap_heap.commands.enqueue import publish_anyhow
from disheap_heap.encoding import encode
from disheap_heap.settings import MAX_ANSWER_BYTES, PARTS_PER_UNIT
from disheap_heap.state import values
from disheap_heap.state.state import State
from disheap_heap.state.values import Barrier
from disheap_heap.state.views import keep_barrier
from disheap_heap.tables import timers

_decode_message = msgspec.msgpack.Decoder(Publish).decode


def set_barrier(state: State, session: int, command: SetBarrier) -> bytes:
    """Creates a barrier, or changes what it waits for and what it publishes."""
    check_name("barrier", command.barrier)
    if command.message is not None:
        check_message(state, command.message.message)
    barrier = state.values.barriers.get(command.barrier)
    is_over = barrier is not None and barrier.is_closed and command.reopens
    size, more = (0, 0) if barrier is None or is_over else (barrier.size, barrier.more)
    awaited = (command.size or size) + command.more + more
    if awaited > state.settings.barrier_parts:
        raise InvalidArgument(
            f"a barrier waits for at most {state.settings.barrier_parts} parts (`barrier_parts` in [machine.heap]), "
            f"not {awaited}"
        )
    if barrier is not None and is_over:
        if state.views:
            keep_barrier(state, barrier)
        _remove(state, barrier)
        barrier = None
    if barrier is None:
        barrier = _create(state, command.barrier)
    elif state.views:
        keep_barrier(state, barrier)
    if not barrier.is_closed:
        _change(state, barrier, command)
        _touch(state, barrier)
        _release(state, barrier)
    return encode(_info(barrier))


def close_barrier(state: State, session: int, command: CloseBarrier) -> bytes:
    """Closes a barrier. The reply says how many parts it had."""
    return encode(Removed(close(state, find_open(state, command.barrier))))


def find_open(state: State, key: str) -> Barrier:
    """The barrier. Raises `BarrierClosed`."""
    barrier = state.values.barriers.get(key)
    if barrier is None or barrier.is_closed:
        why = "is not there: it was never set, or its lifetime is over" if barrier is None else "was closed before"
        raise BarrierClosed(f"barrier {key!r} {why}; whoever closed it has done what follows from it")
    return barrier


def close(state: State, barrier: Barrier) -> int:
    """Closes a barrier that is open. Returns how many parts it had."""
    if state.views:
        keep_barrier(state, barrier)
    count = _empty(state, barrier)
    if barrier.lifetime_ms:
        _touch(state, barrier)
    else:
        _remove(state, barrier)
    return count


def expire_barrier(state: State, number: int) -> int:
    """The lifetime of a barrier is over. Its timer has fired. Returns the units of work."""
    barrier = state.values.barriers_by_number[number]
    if state.views:
        keep_barrier(state, barrier)
    units = 1 + _empty(state, barrier) // PARTS_PER_UNIT
    _remove(state, barrier)
    return units


def check_arrival(state: State, command: SetValue) -> Barrier | None:
    """The barrier at which a value is to arrive; None if there is none, or it is closed. Raises `InvalidArgument` if it
    cannot take another part."""
    barrier = state.values.barriers.get(command.barrier) if command.barrier else None
    if barrier is None or barrier.is_closed:
        return None
    if len(barrier.parts) >= state.settings.barrier_parts and not barrier.has((command.key, command.order)):
        raise limit_reached("barrier_parts", len(barrier.parts), f"parts of barrier {barrier.key!r}")
    return barrier


def arrive(state: State, barrier: Barrier, part: values.Part) -> None:
    """A part arrives, if it did not before. The last one publishes the message."""
    if not barrier.has(part):
        if state.views:
            keep_barrier(state, barrier)
        barrier.add(part)
        state.values.parts += 1
        _touch(state, barrier)
        _release(state, barrier)


def get_parts(state: State, session: int, query: GetParts) -> bytes:
    """One page of the parts of a barrier."""
    barrier = state.values.barriers.get(query.barrier)
    if barrier is None:
        return encode(Parts([], 0, BarrierInfo(0, 0, False, False)))
    parts: list[Part] = []
    room = MAX_ANSWER_BYTES
    for key, order in islice(barrier.parts, query.skip, query.skip + query.limit):
        value = state.values.by_key.get(key)
        room -= values.key_bytes(key) + (len(value.body) if value is not None else 0) + 32
        if room < 0 and parts:
            break
        parts.append(Part(key, order, value.body if value is not None else None))
    return encode(Parts(parts, max(0, len(barrier.parts) - query.skip - len(parts)), _info(barrier)))


def _create(state: State, key: str) -> Barrier:
    table = state.values
    if len(table.barriers) >= state.settings.barriers:
        raise limit_reached("barriers", len(table.barriers))
    table.last_barrier += 1
    barrier = Barrier(table.last_barrier, key)
    table.add_barrier(barrier)
    return barrier


def _change(state: State, barrier: Barrier, command: SetBarrier) -> None:
    barrier.size = command.size or barrier.size
    barrier.more += command.more
    barrier.lifetime_ms = command.lifetime_ms or barrier.lifetime_ms
    if command.message is not None and not barrier.is_released:
        state.values.message_bytes -= len(barrier.message)
        barrier.message = encode(command.message)
        state.values.message_bytes += len(barrier.message)


def _touch(state: State, barrier: Barrier) -> None:
    """Its lifetime begins anew."""
    if barrier.lifetime_ms:
        barrier.expires_at_ms = state.now_ms + barrier.lifetime_ms
        state.timers.arm(timers.BARRIER, barrier.number, barrier.expires_at_ms)


def _release(state: State, barrier: Barrier) -> None:
    """Publishes the message, if it has one and all parts have arrived. The message goes where a `Publish` would go,
    also into a topic that is full. One that leads nowhere is dropped."""
    if barrier.message and barrier.is_complete():
        message, barrier.message, barrier.is_released = barrier.message, b"", True
        state.values.message_bytes -= len(message)
        publish_anyhow(state, _decode_message(message))


def _empty(state: State, barrier: Barrier) -> int:
    """Closes it and uncounts what it held. Returns how many parts it had."""
    state.values.message_bytes -= len(barrier.message)
    count = len(barrier.close())
    state.values.parts -= count
    state.units += count // PARTS_PER_UNIT
    return count


def _remove(state: State, barrier: Barrier) -> None:
    state.timers.disarm(timers.BARRIER, barrier.number)
    state.values.remove_barrier(barrier)


def _info(barrier: Barrier) -> BarrierInfo:
    return BarrierInfo(len(barrier.parts), barrier.awaited(), barrier.is_complete(), barrier.is_closed)
