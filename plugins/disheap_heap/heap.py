"""A strict heap: records in order, each removable by its key, with a bound on the work of one call.

A dict holds the records, and binary heaps over the same records find the next one. `remove` deletes a record from the
dict and leaves its entry in a heap as garbage, which is skipped when it comes to the top.

The records are partitioned by key into heaps of about `PART_RECORDS`, as the leaves of a B-tree are. New records have
larger keys as a rule, so they go to the *open* part. It is closed when it is full. So the key tells which part has the
garbage. A part is built again without its garbage when that is an eighth of it. The first record of a closed part is
never garbage, and another heap, `_tops`, has these first records. So one call passes over the garbage of one part at
most.

Only the dict is state. It keeps the order of insertion, which is the same on every replica, and it has no garbage. So
the layout of the heaps may differ between a restored replica and another one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from operator import itemgetter
from typing import Any, Generic, TypeVar

R = TypeVar("R", bound=tuple[Any, ...])

PART_RECORDS = 4096
"""Records of a part when it is closed. To build it again takes less than a millisecond."""

GARBAGE_SHARE = 8
"""A part is built again when more than one of so many entries is garbage. Then a removal costs as much as the building
of so many entries."""

GARBAGE_MIN = 16
"""With fewer entries of garbage than this the open part is not built again."""

LEVELS = 8
"""To build a heap takes as long as to push about one in so many of its entries."""

_key_of = itemgetter(1)


class _Part(Generic[R]):
    """The records whose keys are behind those of the part before, up to `last`."""

    __slots__ = ("garbage", "heap", "last", "number")

    def __init__(self, number: int, heap: list[R], last: int) -> None:
        self.number, self.heap, self.last = number, heap, last
        self.garbage = 0


class StrictHeap(Generic[R]):
    """Records are tuples (rank, key, ...) with unique keys; the least (rank, key) comes first."""

    __slots__ = ("_garbage", "_heap", "_last", "_lasts", "_numbers", "_parts", "_records", "_tops")

    def __init__(self) -> None:
        self._records: dict[int, R] = {}
        self._heap: list[R] = []  # the open part
        self._garbage = 0  # of the open part
        self._parts: list[_Part[R]] = []  # closed, in the order of their keys
        self._lasts: list[int] = []  # of each
        self._last = -1  # of the last one
        self._numbers = 0  # of the parts so far, which tell apart a record's entries of two parts
        self._tops: list[tuple[R, int, _Part[R]]] = []  # a heap; an entry counts while its record is the part's first

    def by_id(self) -> Mapping[int, R]:
        """All records by key, in the order of insertion. It changes with the heap, until `load` is called."""
        return self._records

    def __len__(self) -> int:
        return len(self._records)

    def push(self, record: R) -> None:
        """Adds a record. Its key must not be in the heap."""
        key = record[1]
        self._records[key] = record
        if key > self._last:
            heap = self._heap
            heappush(heap, record)
            if len(heap) >= PART_RECORDS:
                self._close()
        else:
            self._enter(record)

    def push_new(self, records: list[R]) -> None:
        """Adds records in the order of their keys, which are larger than all keys that the heap has had."""
        self._records.update(zip(map(_key_of, records), records, strict=True))
        start = 0
        while start < len(records):
            heap = self._heap
            some = records[start : start + max(1, PART_RECORDS - len(heap))]
            start += len(some)
            if len(some) > len(heap) // LEVELS:
                heap += some
                heapify(heap)
            else:
                for record in some:
                    heappush(heap, record)
            if len(heap) >= PART_RECORDS:
                self._close()

    def load(self, records: dict[int, R]) -> None:
        """Replaces all records by this dict, which then belongs to the heap."""
        StrictHeap.__init__(self)
        self._records = records
        entries = sorted(records.values(), key=_key_of)
        whole = len(entries) - len(entries) % PART_RECORDS
        for start in range(0, whole, PART_RECORDS):
            part = entries[start : start + PART_RECORDS]
            heapify(part)
            self._append_part(part)
        self._heap = entries[whole:]
        heapify(self._heap)

    def pop(self) -> R:
        """Removes and returns the first record. There must be one."""
        records, heap = self._records, self._heap
        if self._parts:
            record = self._take()
            del records[record[1]]
            return record
        while True:  # the short way of `_take`, because most queues are short
            record = heappop(heap)
            if records.get(record[1]) is record:
                del records[record[1]]
                return record
            self._garbage -= 1

    def first(self) -> R | None:
        """The first record, or None."""
        part = self._first_part()
        heap = part.heap if part is not None else self._heap
        return heap[0] if heap else None

    def remove(self, key: int) -> R | None:
        """Removes and returns the record with this key, or returns None."""
        record = self._records.pop(key, None)
        if record is None:
            return None
        if key <= self._last:
            part = self._parts[bisect_left(self._lasts, key)]
            part.garbage += 1
            self._clean(part)
        elif self._heap[0] is record:
            heappop(self._heap)  # so a queue whose first record is removed each time has no garbage
        else:
            self._garbage += 1
            self._clean_open()
        return record

    def remove_many(self, keys: list[int]) -> list[R]:
        """Removes and returns the records with these keys, which must be in the heap. A part is cleaned once."""
        removed = [self._records.pop(key) for key in keys]
        keys = sorted(keys)
        while keys:
            place = bisect_left(self._lasts, keys[0])
            if place == len(self._parts):
                self._garbage += len(keys)
                self._clean_open()
                break
            part = self._parts[place]
            count = bisect_right(keys, part.last)
            part.garbage += count
            self._clean(part)
            del keys[:count]
        return removed

    def smallest(self, count: int) -> list[R]:
        """The first `count` records in order. They are taken out of the heaps and put back; the dict stays as it is."""
        found = [self._take() for _ in range(min(count, len(self._records)))]
        for record in found:
            if record[1] > self._last:
                heappush(self._heap, record)
            else:
                self._enter(record)
        return found

    def drain(self) -> R | None:
        """Takes any record or piece of garbage out, for a heap that is being freed. Returns None when it is empty."""
        if not self._heap and self._parts:
            part = self._parts[-1]
            self._heap, part.heap = part.heap, []
            self._garbage = part.garbage
            self._remove_part(part)
        if not self._heap:
            return None
        record = self._heap.pop()
        if self._records.get(record[1]) is record:
            del self._records[record[1]]
        else:
            self._garbage -= 1
        return record

    def entries(self) -> int:
        """The number of entries that take memory: records and garbage."""
        return len(self._heap) + sum(len(part.heap) for part in self._parts)

    def _take(self) -> R:
        """Takes the first record out of its heap, not out of the dict."""
        part = self._first_part()
        if part is None:
            return heappop(self._heap)
        heap = part.heap
        record = heappop(heap)
        if heap and self._records.get(heap[0][1]) is not heap[0]:
            self._skip_garbage(part)
        if heap:
            heapreplace(self._tops, (heap[0], part.number, part))  # the part's entry is the first one
        else:
            self._remove_part(part)
        return record

    def _first_part(self) -> _Part[R] | None:
        """The closed part that has the first record. Returns None if the open part has it, or if there is none. Takes
        the garbage above it away."""
        heap, records, tops = self._heap, self._records, self._tops
        while heap and records.get(heap[0][1]) is not heap[0]:
            heappop(heap)
            self._garbage -= 1
        while tops:
            record, _, part = tops[0]
            if part.heap and part.heap[0] is record:
                return None if heap and heap[0] < record else part
            heappop(tops)
        return None

    def _enter(self, record: R) -> None:
        """Adds an entry to the closed part that has its key."""
        part = self._parts[bisect_left(self._lasts, record[1])]
        heappush(part.heap, record)
        if len(part.heap) >= 2 * PART_RECORDS:
            self._split(part)
        elif part.heap[0] is record:
            self._note_first(part)

    def _close(self) -> None:
        """The open part becomes a closed one, and an empty part is open. Without its garbage it may not be full."""
        heap = self._live(self._heap) if self._garbage else self._heap
        self._garbage = 0
        if len(heap) <= PART_RECORDS // 2:
            self._heap = heap
        else:
            self._heap = []
            self._append_part(heap)

    def _append_part(self, heap: list[R]) -> None:
        part = self._new_part(heap, max([record[1] for record in heap]))
        self._parts.append(part)
        self._lasts.append(part.last)
        self._last = part.last
        self._note_first(part)

    def _split(self, part: _Part[R]) -> None:
        """Two parts of a part that has grown: records came back whose keys belong there."""
        entries = sorted(self._live(part.heap), key=_key_of)
        half = len(entries) // 2
        before = self._new_part(entries[:half], entries[half - 1][1])
        part.heap, part.garbage = entries[half:], 0
        place = bisect_left(self._lasts, part.last)
        self._parts.insert(place, before)
        self._lasts.insert(place, before.last)
        for one in (before, part):
            heapify(one.heap)
            self._note_first(one)

    def _new_part(self, heap: list[R], last: int) -> _Part[R]:
        self._numbers += 1
        return _Part(self._numbers, heap, last)

    def _note_first(self, part: _Part[R]) -> None:
        """Another record may be the first of a part."""
        if not part.heap:
            self._remove_part(part)
            return
        heappush(self._tops, (part.heap[0], part.number, part))
        if len(self._tops) > 2 * len(self._parts) + GARBAGE_MIN:
            self._tops = [(one.heap[0], one.number, one) for one in self._parts if one.heap]
            heapify(self._tops)

    def _remove_part(self, part: _Part[R]) -> None:
        """Removes an empty part. Its keys belong to the part behind it, or to the open one if there is none."""
        place = bisect_left(self._lasts, part.last)
        del self._parts[place], self._lasts[place]
        self._last = self._lasts[-1] if self._lasts else -1

    def _clean_open(self) -> None:
        """Builds the open part again if it has much garbage."""
        if self._garbage > GARBAGE_MIN and self._garbage * GARBAGE_SHARE > len(self._heap):
            self._heap = self._live(self._heap)
            self._garbage = 0

    def _clean(self, part: _Part[R]) -> None:
        """Builds a closed part again if it has much garbage. Takes garbage away that came to its top."""
        first = part.heap[0]
        if part.garbage * GARBAGE_SHARE > len(part.heap):
            part.heap, part.garbage = self._live(part.heap), 0
            self._note_first(part)
        elif self._records.get(first[1]) is not first:
            self._skip_garbage(part)
            self._note_first(part)

    def _skip_garbage(self, part: _Part[R]) -> None:
        heap, records = part.heap, self._records
        while heap and records.get(heap[0][1]) is not heap[0]:
            heappop(heap)
            part.garbage -= 1

    def _live(self, entries: Iterable[R]) -> list[R]:
        """A heap of the entries that are no garbage."""
        records = self._records
        heap = [one for one in entries if records.get(one[1]) is one]
        heapify(heap)
        return heap

    def check(self) -> None:
        """For tests: asserts that every record is in its heap exactly once, and that the garbage is counted."""
        live = [record[1] for record in self._live(self._heap)]
        assert all(key > self._last for key in map(_key_of, self._heap))
        assert len(live) + self._garbage == len(self._heap)
        before = -1
        for part, last in zip(self._parts, self._lasts, strict=True):
            keys = [record[1] for record in self._live(part.heap)]
            assert part.last == last and all(before < key <= last for key in map(_key_of, part.heap))
            assert len(keys) + part.garbage == len(part.heap)
            assert self._records.get(part.heap[0][1]) is part.heap[0]
            assert any(one is part and record is part.heap[0] for record, _, one in self._tops)
            live += keys
            before = last
        assert sorted(live) == sorted(self._records)
