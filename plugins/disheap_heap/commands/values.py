"""Values under keys, and sessions that watch keys.

A value is set as a whole, with a stage: interim, done, or final. A final value is never replaced. A session that
watches a key is pushed each value of it, up to the first one that is done. A push may be lost with its connection. So a
client that has a new connection asks for what it watches (`GetValues`).

Values live apart from topics. They have numbers and timers of their own, and no command on a topic looks at them. Only
the message of a complete barrier is a step from here to a topic (`barriers`).
"""

from __future__ import annotations

from disheap.errors import InvalidArgument, PayloadTooLarge
from disheap.protocol.broker import (
    STAGE_FINAL,
    STAGE_INTERIM,
    DeleteValues,
    GetValues,
    Removed,
    SetValue,
    Stored,
    Unwatch,
    Values,
    ValueSet,
    Watch,
)
from disheap_heap.commands.barriers import arrive, check_arrival
from disheap_heap.commands.checks import check_name, limit_reached
from disheap_heap.encoding import DONE, STORED, encode
from disheap_heap.settings import KEYS_PER_UNIT, MAX_ANSWER_BYTES, MAX_PUSH_BYTES_PER_CALL, PUSHED_VALUE_BYTES_MAX
from disheap_heap.state.dropped import LARGE_BYTES, free_within_bound
from disheap_heap.state.state import Session, State
from disheap_heap.state.values import Value
from disheap_heap.state.views import keep_session, keep_value


def set_value(state: State, session: int, command: SetValue) -> bytes:
    """Stores a value, lets it arrive at a barrier, and pushes it to those who watch its key."""
    check_name("value", command.key)
    size = len(command.value)
    if size > state.settings.payload_bytes:
        raise PayloadTooLarge(
            f"a value of {size} bytes is over the limit of {state.settings.payload_bytes} (`payload_bytes` in "
            "[machine.heap]); keep large data elsewhere and store where it is"
        )
    values = state.values
    before = values.by_key.get(command.key)
    if before is None and len(values.by_number) >= state.settings.values:
        raise limit_reached("values", len(values.by_number))
    barrier = check_arrival(state, command)
    is_stored = before is None or before.stage != STAGE_FINAL
    if is_stored:
        if before is not None:
            remove_value(state, before)
        _add(state, command)
        if values.watches:
            _tell_watchers(state, command)
    if barrier is None:
        return STORED[is_stored]
    arrive(state, barrier, (command.key, command.order))
    return encode(Stored(is_stored, len(barrier.parts), barrier.awaited()))


def delete_values(state: State, session: int, command: DeleteValues) -> bytes:
    """Drops values. The reply says how many there were."""
    state.units += len(command.keys) // KEYS_PER_UNIT
    found = 0
    for key in command.keys:
        value = state.values.by_key.get(key)
        if value is not None:
            remove_value(state, value)
            found += 1
    return encode(Removed(found))


def watch(state: State, session: int, command: Watch) -> bytes:
    """Begins to watch keys. The reply has the values that are there. A key whose outcome is there is not watched."""
    state.units += len(command.keys) // KEYS_PER_UNIT
    values, watching = state.values, _find_session(state, session)
    keys = [key for key in dict.fromkeys(command.keys) if key not in watching.watches]
    keys = [key for key in keys if (value := values.by_key.get(key)) is None or value.stage == STAGE_INTERIM]
    _check_watches(state, watching, keys)
    if keys and state.views:
        keep_session(state, watching)
    for key in keys:
        values.watch(watching, key)
    return encode(_found(state, command.keys))


def unwatch(state: State, session: int, command: Unwatch) -> bytes:
    """Ends the watches of a session on some keys."""
    state.units += len(command.keys) // KEYS_PER_UNIT
    watching = _find_session(state, session)
    keys = [key for key in dict.fromkeys(command.keys) if key in watching.watches]
    if keys and state.views:
        keep_session(state, watching)
    for key in keys:
        state.values.unwatch(watching, key)
    return DONE


def get_values(state: State, session: int, query: GetValues) -> bytes:
    """The values under some keys, as many as fit into one answer."""
    return encode(_found(state, query.keys))


def expire_value(state: State, number: int) -> int:
    """The time of a value is over. Its timer has fired. Returns the units of work."""
    value = state.values.by_number[number]
    remove_value(state, value)
    state.values.expired_count += 1
    return 1


def end_watches(state: State, session: Session, limit: int) -> int:
    """Ends watches of a session that is over, at most about `limit` units. Returns the units."""
    if state.views and session.watches:
        keep_session(state, session)
    done = 0
    while session.watches and done < limit:
        for _ in range(min(KEYS_PER_UNIT, len(session.watches))):
            state.values.unwatch(session, next(reversed(session.watches)))
        done += 1
    state.units += done
    return done


def remove_value(state: State, value: Value) -> None:
    """Removes a value, and frees it within the bound of this call."""
    state.values.remove(value)
    if value.expires_at_ms:
        state.timers.disarm_value(value.number)
    if state.views:
        keep_value(state, value)
    if len(value.body) >= LARGE_BYTES:
        free_within_bound(state, (value,), len(value.body))


def _find_session(state: State, number: int) -> Session:
    session = state.sessions.get(number)
    if session is None:
        raise InvalidArgument(f"session {number} is not open; only an open session can watch a key")
    return session


def _add(state: State, command: SetValue) -> None:
    values = state.values
    state.values.set_count += 1
    values.last_number += 1
    number, expires_at_ms = values.last_number, state.now_ms + command.expires_ms if command.expires_ms else 0
    values.add(Value(number, command.key, expires_at_ms, command.stage, command.value))
    if expires_at_ms:
        state.timers.arm_value(number, expires_at_ms)


def _tell_watchers(state: State, command: SetValue) -> None:
    """Pushes the value to all who watch its key. The push is encoded once. An outcome ends the watches."""
    watchers = state.values.watchers.get(command.key)
    if watchers is None:
        return
    size = len(command.value)
    is_long = size > PUSHED_VALUE_BYTES_MAX or size * len(watchers) > MAX_PUSH_BYTES_PER_CALL
    body = encode(ValueSet(command.key, None if is_long else command.value, command.stage))
    for number in sorted(watchers):  # a restored replica has them in another order
        watching = watchers[number]
        state.push(watching, body)
        if command.stage != STAGE_INTERIM:
            if state.views:
                keep_session(state, watching)
            state.values.unwatch(watching, command.key)
    state.units += len(watchers)


def _check_watches(state: State, session: Session, keys: list[str]) -> None:
    """Raises `InvalidArgument` if the session, or one of the keys, would have too many watches."""
    settings, values = state.settings, state.values
    if len(session.watches) + len(keys) > settings.session_watches:
        raise limit_reached("session_watches", len(session.watches), f"watches of session {session.number}")
    if values.watches + len(keys) > settings.watches:
        raise limit_reached("watches", values.watches)
    for key in keys:
        watchers = values.watchers.get(key)
        if watchers is not None and len(watchers) >= settings.key_watches:
            raise limit_reached("key_watches", len(watchers), f"watches of key {key!r}")


def _found(state: State, keys: list[str]) -> Values:
    """The values under these keys, in their order, as many as fit into one answer. At least one is given."""
    given: list[ValueSet] = []
    left: list[str] = []
    room = MAX_ANSWER_BYTES
    for key in keys:
        value = state.values.by_key.get(key)
        if value is None:
            continue
        room -= value.size() + 16
        if room < 0 and given:
            left.append(key)
        else:
            given.append(ValueSet(key, value.body, value.stage))
    return Values(given, left)
