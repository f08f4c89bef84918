"""A strict heap: records in order, each removable by its key.

A dict holds the records, and a binary heap over the same records finds the next one. `remove` deletes a record from the
dict and leaves its entry in the heap as garbage. Garbage is skipped when it comes to the top, and it is swept before it
exceeds the live records. The sweep is incremental: each removal moves a few entries from the old heap to a new one. So
no single call pays for a million entries.

Only the dict is state. It keeps the order of insertion, which is the same on every replica, and it has no garbage. So
the layout of the heap may differ between a restored replica and another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Any, Generic, TypeVar

R = TypeVar("R", bound=tuple[Any, ...])

GARBAGE_MIN = 64
"""With fewer entries of garbage than this there is no sweep."""

MOVES_PER_REMOVAL = 4
"""Entries that one removal moves. It is more than two, so that a sweep ends before the new heap needs one."""


class StrictHeap(Generic[R]):
    """Records are tuples (rank, key, ...) with unique keys; the least (rank, key) comes first."""

    __slots__ = ("_heap", "_old", "_records")

    def __init__(self) -> None:
        self._records: dict[int, R] = {}
        self._heap: list[R] = []
        self._old: list[R] = []  # being swept; it stays a heap when its last entry is removed

    def by_id(self) -> Mapping[int, R]:
        """All records by key, in the order of insertion. It changes with the heap, until `load` is called."""
        return self._records

    def __len__(self) -> int:
        return len(self._records)

    def push(self, record: R) -> None:
        """Adds a record. Its key must not be in the heap."""
        self._records[record[1]] = record
        heappush(self._heap, record)

    def load(self, records: dict[int, R]) -> None:
        """Replaces all records by this dict, which then belongs to the heap."""
        self._records = records
        self._heap = list(records.values())
        self._old = []
        heapify(self._heap)

    def pop(self) -> R:
        """Removes and returns the first record. There must be one."""
        records, heap = self._records, self._heap
        while True:
            record = heappop(self._next() if self._old else heap)
            if records.get(record[1]) is record:
                del records[record[1]]
                return record

    def first(self) -> R | None:
        """The first record, or None. Removes the garbage above it."""
        while self._heap or self._old:
            heap = self._next()
            if self._records.get(heap[0][1]) is heap[0]:
                return heap[0]
            heappop(heap)
        return None

    def remove(self, key: int) -> R | None:
        """Removes and returns the record with this key, or returns None."""
        record = self._records.pop(key, None)
        if record is not None:
            self._sweep()
        return record

    def smallest(self, count: int) -> list[R]:
        """The first `count` records in order. Changes nothing: it searches both heaps from the top, best branch
        first."""
        found: list[R] = []
        front = [(heap[0], number, 0) for number, heap in enumerate((self._heap, self._old)) if heap]
        heapify(front)
        while front and len(found) < count:
            record, number, place = heappop(front)
            if self._records.get(record[1]) is record:
                found.append(record)
            heap = self._old if number else self._heap
            for child in range(2 * place + 1, min(2 * place + 3, len(heap))):
                heappush(front, (heap[child], number, child))
        return found

    def drain(self) -> R | None:
        """Takes any record or piece of garbage out, for a heap that is being freed. Returns None when it is empty."""
        heap = self._heap or self._old
        if not heap:
            return None
        record = heap.pop()
        self._records.pop(record[1], None)
        return record

    def entries(self) -> int:
        """The number of entries that take memory: records and garbage."""
        return len(self._heap) + len(self._old)

    def _next(self) -> list[R]:
        """The heap whose top is the first of both."""
        heap, old = self._heap, self._old
        return heap if not old or (heap and heap[0] < old[0]) else old

    def _sweep(self) -> None:
        heap, old, records = self._heap, self._old, self._records
        if not old:
            if len(heap) <= 2 * len(records) + GARBAGE_MIN:
                return
            self._old, self._heap = old, heap = heap, old
        for _ in range(min(MOVES_PER_REMOVAL, len(old))):
            record = old.pop()
            if records.get(record[1]) is record:
                heappush(heap, record)

    def check(self) -> None:
        """For tests: asserts that every record is in a heap exactly once."""
        live = [record[1] for record in chain(self._heap, self._old) if self._records.get(record[1]) is record]
        assert sorted(live) == sorted(self._records)
