"""Timers, in order of their deadlines. Equal deadlines are ordered by id.

This module knows kinds, numbers and deadlines. `work` decides what happens when a timer fires. Timers follow from the
rest of the state: a delayed message has its due time, and a lease has its end. So a snapshot does not contain them, and
`restore` arms them again. A timer is disarmed when its record is removed. The timers of purged messages are disarmed
later. One that fires before that finds nothing.
"""

from __future__ import annotations

from disheap_heap.heap import StrictHeap

DUE = 0  # a delayed message becomes ready
EXPIRY = 1  # a waiting message is dropped
LEASE = 2  # a lease ends
POP = 3  # a pop has waited long enough
TOPIC = 4  # an unused topic is deleted

_KINDS = 8  # room in a key

Timer = tuple[int, int, int]
"""(deadline in ms, key of id and kind, the number of the topic or 0)"""


class Timers:
    """The deadlines of everything that has one, by kind and number."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: StrictHeap[Timer] = StrictHeap()

    def arm(self, kind: int, number: int, deadline_ms: int, topic: int = 0) -> None:
        """Starts a timer. Replaces the earlier one of the same kind and number."""
        key = number * _KINDS + kind
        self._heap.remove(key)
        self._heap.push((deadline_ms, key, topic))

    def disarm(self, kind: int, number: int) -> None:
        """Removes a timer, if there is one."""
        self._heap.remove(number * _KINDS + kind)

    def next_deadline(self) -> int | None:
        """The earliest deadline in ms, or None."""
        first = self._heap.first()
        return None if first is None else first[0]

    def pop(self) -> tuple[int, int, int]:
        """Removes the first timer. Returns its (kind, number, topic)."""
        _, key, topic = self._heap.pop()
        return key % _KINDS, key // _KINDS, topic

    def drain(self) -> bool:
        """Takes any timer out, or a piece of garbage, for timers that are thrown away. False if there is none."""
        return self._heap.drain() is not None

    def __len__(self) -> int:
        return len(self._heap)
