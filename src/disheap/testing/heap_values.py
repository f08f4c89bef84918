"""A model of values, watches and barriers: what they must do, in lists and plain dicts.

It belongs to the model of the heap machine, and publishes the message of a barrier into its topics. The caller says
which topics a message leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from disheap.protocol import broker

PUSHED_VALUE_BYTES_MAX = 64 << 10
PUSHED_BYTES_MAX = 8 << 20
MAX_ANSWER_BYTES = 1 << 20

Publisher = Callable[[broker.Publish], None]
"""Publishes the message of a barrier that is complete."""


@dataclass
class ModelValue:
    """A value. `number`: values are numbered in the order in which they were set."""

    number: int
    command: broker.SetValue
    expires_at_ms: int


@dataclass
class ModelBarrier:
    """A barrier. `parts` are (key, order), in the order of arrival."""

    number: int
    size: int = 0
    more: int = 0
    message: broker.Publish | None = None
    lifetime_ms: int = 0
    expires_at_ms: int = 0
    is_released: bool = False
    is_closed: bool = False
    parts: list[tuple[str, int]] = field(default_factory=list)

    def info(self) -> broker.BarrierInfo:
        """What a client is told."""
        awaited = self.size + self.more if self.size else 0
        return broker.BarrierInfo(len(self.parts), awaited, 0 < awaited <= len(self.parts), self.is_closed)


class ModelValues:
    """`attached` says which sessions have a connection, and `pushed` gets (session, push)."""

    def __init__(self, attached: dict[int, bool], pushed: Callable[[int, Any], None]) -> None:
        self.now = 0
        self.values: dict[str, ModelValue] = {}
        self.watches: list[tuple[int, str]] = []
        self.barriers: dict[str, ModelBarrier] = {}
        self.last_value = self.last_barrier = 0
        self._attached = attached
        self._pushed = pushed

    # --- commands ---

    def set_value(self, command: broker.SetValue, publish: Publisher) -> broker.Stored:
        """Stores a value unless a final one is there, tells the watchers, and lets it arrive at its barrier."""
        before = self.values.get(command.key)
        is_stored = before is None or before.command.stage != broker.STAGE_FINAL
        if is_stored:
            self.last_value += 1
            self.values.pop(command.key, None)
            expires_at_ms = self.now + command.expires_ms if command.expires_ms else 0
            self.values[command.key] = ModelValue(self.last_value, command, expires_at_ms)
            self._tell(command)
        barrier = self.barriers.get(command.barrier)
        if barrier is None or barrier.is_closed:
            return broker.Stored(is_stored)
        if (command.key, command.order) not in barrier.parts:
            barrier.parts.append((command.key, command.order))
            self._touch(barrier)
            self._release(barrier, publish)
        info = barrier.info()
        return broker.Stored(is_stored, info.arrived, info.size)

    def _tell(self, command: broker.SetValue) -> None:
        sessions = sorted(session for session, key in self.watches if key == command.key)
        size = len(command.value)
        is_long = size > PUSHED_VALUE_BYTES_MAX or size * len(sessions) > PUSHED_BYTES_MAX
        push = broker.ValueSet(command.key, None if is_long else command.value, command.stage)
        for session in sessions:
            if self._attached.get(session):
                self._pushed(session, push)
            if command.stage != broker.STAGE_INTERIM:
                self.watches.remove((session, command.key))

    def delete(self, keys: Iterable[str]) -> int:
        """Drops values. Returns how many there were."""
        return sum(self.values.pop(key, None) is not None for key in keys)

    def watch(self, session: int, keys: Sequence[str]) -> broker.Values:
        """Begins to watch the keys whose outcome is not there. Returns what is there."""
        for key in keys:
            value = self.values.get(key)
            is_over = value is not None and value.command.stage != broker.STAGE_INTERIM
            if not is_over and (session, key) not in self.watches:
                self.watches.append((session, key))
        return self.found(keys)

    def unwatch(self, session: int, keys: Iterable[str]) -> None:
        """Ends watches."""
        gone = list(keys)
        self.watches = [one for one in self.watches if one[0] != session or one[1] not in gone]

    def expire_session(self, session: int) -> None:
        """The watches of a session end with it."""
        self.watches = [one for one in self.watches if one[0] != session]

    def set_barrier(self, command: broker.SetBarrier, publish: Publisher) -> broker.BarrierInfo:
        """Creates or changes a barrier."""
        barrier = self.barriers.get(command.barrier)
        if barrier is not None and barrier.is_closed and command.reopens:
            del self.barriers[command.barrier]
            barrier = None
        if barrier is None:
            self.last_barrier += 1
            barrier = self.barriers[command.barrier] = ModelBarrier(self.last_barrier)
        if not barrier.is_closed:
            barrier.size = command.size or barrier.size
            barrier.more += command.more
            barrier.lifetime_ms = command.lifetime_ms or barrier.lifetime_ms
            if command.message is not None and not barrier.is_released:
                barrier.message = command.message
            self._touch(barrier)
            self._release(barrier, publish)
        return barrier.info()

    def is_open(self, key: str) -> bool:
        """Whether the barrier can be closed."""
        barrier = self.barriers.get(key)
        return barrier is not None and not barrier.is_closed

    def close(self, key: str) -> int:
        """Closes a barrier that is open. Returns how many parts it had."""
        barrier = self.barriers[key]
        count, barrier.parts, barrier.message, barrier.is_closed = len(barrier.parts), [], None, True
        self._touch(barrier)
        if not barrier.lifetime_ms:
            del self.barriers[key]
        return count

    def _touch(self, barrier: ModelBarrier) -> None:
        if barrier.lifetime_ms:
            barrier.expires_at_ms = self.now + barrier.lifetime_ms

    def _release(self, barrier: ModelBarrier, publish: Publisher) -> None:
        if barrier.message is not None and barrier.info().is_complete:
            message, barrier.message, barrier.is_released = barrier.message, None, True
            publish(message)

    # --- queries ---

    def found(self, keys: Iterable[str]) -> broker.Values:
        """The values under these keys, as many as fit."""
        there = [self.values[key].command for key in keys if key in self.values]
        shown, room = 0, MAX_ANSWER_BYTES
        for command in there:
            room -= len(command.key.encode()) + len(command.value) + 16
            if room < 0 and shown:
                break
            shown += 1
        given = [broker.ValueSet(one.key, one.value, one.stage) for one in there[:shown]]
        return broker.Values(given, [one.key for one in there[shown:]])

    def parts(self, query: broker.GetParts) -> broker.Parts:
        """One page of the parts of a barrier. Pages that are cut at their bytes are not modelled."""
        barrier = self.barriers.get(query.barrier)
        if barrier is None:
            return broker.Parts([], 0, broker.BarrierInfo(0, 0, False, False))
        page = barrier.parts[query.skip : query.skip + query.limit]
        rows = [
            broker.Part(key, order, self.values[key].command.value if key in self.values else None)
            for key, order in page
        ]
        return broker.Parts(rows, max(0, len(barrier.parts) - query.skip - len(rows)), barrier.info())

    # --- time ---

    def events(self) -> list[tuple[int, int, int]]:
        """(deadline in ms, number, kind) of what expires: values are of kind 7, barriers of kind 8."""
        values = [(one.expires_at_ms, one.number, 7) for one in self.values.values() if one.expires_at_ms]
        barriers = [(one.expires_at_ms, one.number, 8) for one in self.barriers.values() if one.expires_at_ms]
        return [*values, *barriers]

    def fire(self, kind: int, number: int) -> None:
        """Drops the value or the barrier with this number."""
        table: dict[str, Any] = self.values if kind == 7 else self.barriers
        del table[next(key for key, one in table.items() if one.number == number)]
