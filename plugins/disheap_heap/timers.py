"""Timers, in order of their deadlines. Equal deadlines are ordered by id.

This module knows kinds, numbers and deadlines. `work` decides what happens when a timer fires. Timers follow from the
rest of the state: a delayed message has its due time, and a lease has its end. So a snapshot does not contain them, and
`restore` arms them again. A timer is disarmed when its record is removed, and a purge disarms all timers of a topic.
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
    """The deadlines of everything that has one, by kind and number. The timers of messages are kept by topic. So a
    purge takes all timers of a topic out at once, and none of them is left to be found due."""

    __slots__ = ("_firsts", "_heap", "_of_messages", "_of_topics")

    def __init__(self) -> None:
        self._heap: StrictHeap[Timer] = StrictHeap()  # of all but messages, and a copy of the first of each topic
        self._of_topics: dict[int, StrictHeap[Timer]] = {}  # of messages
        self._firsts: dict[int, Timer] = {}  # by topic
        self._of_messages = 0

    def arm(self, kind: int, number: int, deadline_ms: int, topic: int = 0) -> None:
        """Starts a timer. Replaces the earlier one of the same kind and number. A timer of a message needs its
        topic."""
        key = number * _KINDS + kind
        if kind > EXPIRY:
            self._heap.remove(key)
            self._heap.push((deadline_ms, key, topic))
            return
        heap = self._of_topics.get(topic)
        if heap is None:
            heap = self._of_topics[topic] = StrictHeap()
        self._of_messages += heap.remove(key) is None
        heap.push((deadline_ms, key, topic))
        self._note_first(topic, heap)

    def disarm(self, kind: int, number: int, topic: int = 0) -> None:
        """Removes a timer, if there is one. A timer of a message needs its topic."""
        key = number * _KINDS + kind
        if kind > EXPIRY:
            self._heap.remove(key)
            return
        heap = self._of_topics.get(topic)
        if heap is not None and heap.remove(key) is not None:
            self._of_messages -= 1
            self._note_first(topic, heap)

    def disarm_messages(self, topic: int) -> StrictHeap[Timer] | None:
        """Removes the timers of all messages of a topic, in constant time. Returns them to be freed."""
        heap = self._of_topics.pop(topic, None)
        if heap is not None:
            self._of_messages -= len(heap)
            self._heap.remove(self._firsts.pop(topic)[1])
        return heap

    def next_deadline(self) -> int | None:
        """The earliest deadline in ms, or None."""
        first = self._heap.first()
        return None if first is None else first[0]

    def pop(self) -> tuple[int, int, int]:
        """Removes the first timer. Returns its (kind, number, topic)."""
        _, key, topic = self._heap.pop()
        number, kind = divmod(key, _KINDS)
        if kind <= EXPIRY:
            heap = self._of_topics[topic]
            heap.pop()
            self._of_messages -= 1
            self._note_first(topic, heap)
        return kind, number, topic

    def drain(self) -> bool:
        """Takes any timer out, or a piece of garbage, for timers that are thrown away. False if there is none."""
        while self._of_topics:
            topic, heap = next(iter(self._of_topics.items()))
            if heap.drain() is not None:
                return True
            del self._of_topics[topic]
        return self._heap.drain() is not None

    def __len__(self) -> int:
        return len(self._heap) - len(self._firsts) + self._of_messages

    def _note_first(self, topic: int, heap: StrictHeap[Timer]) -> None:
        """The first timer of a topic may be another. A copy of it stands for the topic. It is a new one each time, so
        that an earlier copy is garbage."""
        first, before = heap.first(), self._firsts.get(topic)
        if first is before:
            return
        if before is not None:
            self._heap.remove(before[1])
        if first is None:
            del self._firsts[topic], self._of_topics[topic]
        else:
            self._firsts[topic] = first
            self._heap.push((first[0], first[1], first[2]))
