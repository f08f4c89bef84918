"""Timers: what falls due, in order of deadline, ties by id.

Knows kinds, numbers and deadlines, never what they mean: `work` carries out what is due. Timers are a function of the
rest of the state (a delayed message has its due time, a lease its end), so they are in no snapshot: `restore` arms them
again. A timer is disarmed when its cause goes, except for the messages of a purged topic, whose timers are swept up
later and find nothing when they fire before that.
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
"""(deadline, id and kind in one, the number of the topic where there is one)"""


class Timers:
    """The deadlines of everything that has one, by kind and number."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: StrictHeap[Timer] = StrictHeap()

    def arm(self, kind: int, number: int, deadline_ms: int, topic: int = 0) -> None:
        """At most one timer of a kind for a number: an earlier one is replaced."""
        key = number * _KINDS + kind
        self._heap.remove(key)
        self._heap.push((deadline_ms, key, topic))

    def disarm(self, kind: int, number: int) -> None:
        """Removes a timer, if there is one."""
        self._heap.remove(number * _KINDS + kind)

    def next_deadline(self) -> int | None:
        """The earliest deadline, or None."""
        first = self._heap.first()
        return None if first is None else first[0]

    def pop(self) -> tuple[int, int, int]:
        """(kind, number, topic) of the first timer."""
        _, key, topic = self._heap.pop()
        return key % _KINDS, key // _KINDS, topic

    def drain(self) -> bool:
        """Takes any timer out, or a piece of garbage, for timers that are thrown away. False if there is none."""
        return self._heap.drain() is not None

    def __len__(self) -> int:
        return len(self._heap)
