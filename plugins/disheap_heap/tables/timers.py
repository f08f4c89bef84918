"""Timers, in order of their deadlines. Equal deadlines are ordered by id.

This module knows kinds, numbers and deadlines. `work` decides what happens when a timer fires. Timers follow from the
rest of the state: a delayed message has its due time, and a lease has its end. So a snapshot does not contain them, and
`restore` arms them again. A timer is disarmed when its record is removed, and a purge disarms all timers of a topic.

A waiting message has one timer at most, for what happens to it first: it becomes ready, or it expires.
"""

from __future__ import annotations

from disheap_heap.tables.ordered import OrderedRecords

MESSAGE = 0  # a delayed message becomes ready, or a waiting message is dropped
LEASE = 1  # a lease ends
POP = 2  # a pop has waited long enough
TOPIC = 3  # an unused topic is deleted
TRANSACTION = 4  # the time of a coordinator is over
INQUIRY = 5  # a participant asks the coordinator's group for its decision
VALUE = 6  # a value is dropped
BARRIER = 7  # a barrier is dropped

NO_TOPIC = 0
"""The timers of values are kept as those of messages are, under this number, which no topic has. So millions of them
make no other timer slower."""

_KINDS = 8  # in a key

Timer = tuple[int, int, int]
"""(deadline in ms, key of id and kind, the number of the topic or 0)"""


class Timers:
    """The deadlines of everything that has one, by kind and number. The timers of messages are kept by topic. So a
    purge takes all timers of a topic out at once, and none of them is left to be found due.

    A timer is in one place only. The first timer of each topic is in `_order`, among the timers of other kinds. The
    later ones of the topic are in records of their own, which most topics do not need.
    """

    __slots__ = ("_firsts", "_later", "_later_count", "_order")

    def __init__(self) -> None:
        self._order: OrderedRecords[Timer] = OrderedRecords()
        self._firsts: dict[int, Timer] = {}  # of messages, by topic; all of them are in `_order`
        self._later: dict[int, OrderedRecords[Timer]] = {}  # of messages, by topic; none of these is empty
        self._later_count = 0

    def arm(self, kind: int, number: int, deadline_ms: int, topic: int = 0) -> None:
        """Starts a timer of any kind but `MESSAGE` and `VALUE`. Replaces the earlier one of the same kind and
        number."""
        key = number * _KINDS + kind
        self._order.remove(key)
        self._order.push((deadline_ms, key, topic))

    def arm_lease(self, number: int, deadline_ms: int) -> None:
        """Starts the timer of a new lease. It must not have one."""
        self._order.push((deadline_ms, number * _KINDS + LEASE, 0))

    def disarm(self, kind: int, number: int) -> None:
        """Removes a timer of any kind but `MESSAGE` and `VALUE`, if there is one."""
        self._order.remove(number * _KINDS + kind)

    def arm_message(self, number: int, deadline_ms: int, topic: int, kind: int = MESSAGE) -> None:
        """Starts the timer of a message. It must not have one."""
        timer = (deadline_ms, number * _KINDS + kind, topic)
        first = self._firsts.get(topic)
        if first is None:
            self._firsts[topic] = timer
            self._order.push(timer)
        elif timer > first:
            self._push_later(timer)
        else:
            self._order.remove(first[1])
            self._push_later(first)
            self._firsts[topic] = timer
            self._order.push(timer)

    def arm_messages(self, topic: int, numbers: list[int], deadlines_ms: list[int]) -> None:
        """Starts the timers of messages of one topic, which must have none. All go to the later ones at first. So the
        order of their deadlines does not matter."""
        if len(numbers) < 2:
            for number, deadline_ms in zip(numbers, deadlines_ms, strict=True):
                self.arm_message(number, deadline_ms, topic)
            return
        first = self._firsts.get(topic)
        if first is not None:
            self._order.remove(first[1])
            self._push_later(first)
        later = self._later.get(topic)
        if later is None:
            later = self._later[topic] = OrderedRecords()
        later.push_many([(at, number * _KINDS, topic) for number, at in zip(numbers, deadlines_ms, strict=True)])
        self._later_count += len(numbers)
        self._choose_first(topic)

    def arm_value(self, number: int, deadline_ms: int) -> None:
        """Starts the timer of a value. It must not have one."""
        self.arm_message(number, deadline_ms, NO_TOPIC, VALUE)

    def disarm_value(self, number: int) -> None:
        """Removes the timer of a value, if there is one."""
        self.disarm_message(number, NO_TOPIC, VALUE)

    def disarm_message(self, number: int, topic: int, kind: int = MESSAGE) -> None:
        """Removes the timer of a message, if there is one."""
        key, first = number * _KINDS + kind, self._firsts.get(topic)
        if first is None:
            return
        if first[1] == key:
            self._order.remove(key)
            self._choose_first(topic)
        else:
            later = self._later.get(topic)
            if later is not None and later.remove(key) is not None:
                self._later_count -= 1
                if not later:
                    del self._later[topic]

    def disarm_messages(self, numbers: list[int], topic: int) -> None:
        """Removes the timers of these messages of one topic. Each must have one."""
        if len(numbers) < 2:
            for number in numbers:
                self.disarm_message(number, topic)
            return
        first = self._firsts[topic]
        keys = [number * _KINDS for number in numbers if number * _KINDS != first[1]]
        later = self._later.get(topic)
        if later is not None:
            later.remove_many(keys)
            self._later_count -= len(keys)
            if not later:
                del self._later[topic]
        if len(keys) < len(numbers):
            self._order.remove(first[1])
            self._choose_first(topic)

    def disarm_topic(self, topic: int) -> OrderedRecords[Timer] | None:
        """Removes the timers of all messages of a topic, in constant time. Returns those that have to be freed."""
        first = self._firsts.pop(topic, None)
        if first is not None:
            self._order.remove(first[1])
        later = self._later.pop(topic, None)
        if later is not None:
            self._later_count -= len(later)
        return later

    def next_deadline(self) -> int | None:
        """The earliest deadline in ms, or None."""
        first = self._order.first()
        return None if first is None else first[0]

    def pop(self) -> tuple[int, int, int]:
        """Removes the first timer. Returns its (kind, number, topic)."""
        _, key, topic = self._order.pop()
        number, kind = divmod(key, _KINDS)
        if kind in (MESSAGE, VALUE):
            self._choose_first(topic)
        return kind, number, topic

    def drain(self) -> bool:
        """Takes any timer out, for timers that are thrown away. False if there is none."""
        while self._later:
            topic, later = next(iter(self._later.items()))
            if later.drain() is not None:
                self._later_count -= 1
                return True
            del self._later[topic]
        if self._firsts:
            self._firsts.popitem()
            return True
        return self._order.drain() is not None

    def __len__(self) -> int:
        return len(self._order) + self._later_count

    def _push_later(self, timer: Timer) -> None:
        topic = timer[2]
        later = self._later.get(topic)
        if later is None:
            later = self._later[topic] = OrderedRecords()
        later.push(timer)
        self._later_count += 1

    def _choose_first(self, topic: int) -> None:
        """The first timer of a topic is gone. The next one takes its place."""
        later = self._later.get(topic)
        if later is None:
            del self._firsts[topic]
            return
        first = self._firsts[topic] = later.pop()
        self._order.push(first)
        self._later_count -= 1
        if not later:
            del self._later[topic]
