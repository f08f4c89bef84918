"""Records in strict order, each removable by its key, with a bound on the work of every call.

The records are in sorted lists of at most `MAX_CHUNK`, the chunks, as in the leaves of a B-tree. A removed record
leaves nothing behind, so no call has to pass over what others removed. A binary heap keeps removed entries until they
come to its top. Then one publish to many queues may meet very many at once.

A call finds the chunk by bisection, and moves at most the pointers of one chunk. Queues in which all messages have one
priority append at the end and take from the front.

Only the dict is state. It keeps the order of insertion, which is the same on every replica. The layout of the chunks
may differ between a restored replica and another one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Generic, TypeVar

R = TypeVar("R", bound=tuple[Any, ...])

MAX_CHUNK = 512
"""Records of a chunk. To move so many pointers takes 0.1 us. A chunk that grows beyond it is split."""

FEW = 16
"""To sort a chunk again, or to filter it, takes about as long as so many single insertions or removals."""

_key_of = itemgetter(1)


class OrderedRecords(Generic[R]):
    """Records are tuples (rank, key, ...) with unique keys; the least (rank, key) comes first."""

    __slots__ = ("_chunks", "_lasts", "_records")

    def __init__(self) -> None:
        self._records: dict[int, R] = {}
        self._chunks: list[list[R]] = []  # none is empty
        self._lasts: list[R] = []  # the last record of each chunk

    def by_id(self) -> Mapping[int, R]:
        """All records by key, in the order of insertion. It changes with the records, until `load` is called."""
        return self._records

    def __len__(self) -> int:
        return len(self._records)

    def push(self, record: R) -> None:
        """Adds a record. There must be none with its key."""
        self._records[record[1]] = record
        lasts = self._lasts
        if lasts and record < lasts[-1]:
            place = bisect_left(lasts, record)
            chunk = self._chunks[place]
            insort(chunk, record)
            if len(chunk) > MAX_CHUNK:
                self._split(place)
        elif lasts and len(self._chunks[-1]) < MAX_CHUNK:
            self._chunks[-1].append(record)
            lasts[-1] = record
        else:
            self._chunks.append([record])
            lasts.append(record)

    def push_many(self, records: list[R]) -> None:
        """Adds records in this order of insertion. There must be none with their keys."""
        self._records.update(zip(map(_key_of, records), records, strict=True))
        records = sorted(records)
        start = 0
        while start < len(records):
            place = bisect_left(self._lasts, records[start])
            if place == len(self._lasts):
                self._append(records[start:])
                return
            end = bisect_right(records, self._lasts[place], start)
            chunk = self._chunks[place]
            if end - start < FEW:
                for record in records[start:end]:
                    insort(chunk, record)
            else:
                chunk += records[start:end]
                chunk.sort()
            if len(chunk) > MAX_CHUNK:
                self._split(place)
            start = end

    def load(self, records: dict[int, R]) -> None:
        """Replaces all records by this dict, which then belongs to this object."""
        self._records, self._chunks, self._lasts = records, [], []
        self._append(sorted(records.values()))

    def pop(self) -> R:
        """Removes and returns the first record. There must be one."""
        chunk = self._chunks[0]
        record = chunk.pop(0)
        if not chunk:
            del self._chunks[0], self._lasts[0]
        del self._records[record[1]]
        return record

    def first(self) -> R | None:
        """The first record, or None."""
        return self._chunks[0][0] if self._chunks else None

    def remove(self, key: int) -> R | None:
        """Removes and returns the record with this key, or returns None."""
        record = self._records.pop(key, None)
        if record is not None:
            place = bisect_left(self._lasts, record)
            chunk = self._chunks[place]
            self._cut(place, at := bisect_left(chunk, record), at + 1)
        return record

    def remove_many(self, keys: list[int]) -> list[R]:
        """Removes and returns the records with these keys, which must be there."""
        records = self._records
        removed = [records.pop(key) for key in keys]
        doomed = sorted(removed)
        start = 0
        while start < len(doomed):
            place = bisect_left(self._lasts, doomed[start])
            end = bisect_right(doomed, self._lasts[place], start)
            chunk = self._chunks[place]
            if end - start < FEW:
                for record in doomed[start:end]:
                    del chunk[bisect_left(chunk, record)]
            else:
                chunk[:] = [record for record in chunk if record[1] in records]
            self._update_last(place)
            start = end
        return removed

    def smallest(self, count: int) -> list[R]:
        """Returns the first `count` records in order, or all if there are fewer."""
        return list(islice(chain.from_iterable(self._chunks), count))

    def take_last_rank(self, count: int) -> list[R]:
        """Removes and returns at most `count` records of the last rank, those with the lowest keys. There must be a
        record."""
        last = self._chunks[-1][-1]
        chunk = self._chunks[-1]
        if len(chunk) > 1 and chunk[-2][0] != last[0]:
            place, at = len(self._chunks) - 1, len(chunk) - 1
        else:
            place = bisect_left(self._lasts, last[:1])
            at = bisect_left(self._chunks[place], last[:1])
        taken = self._chunks[place][at : at + count]
        self._cut(place, at, at + count)
        for record in taken:
            del self._records[record[1]]
        return taken

    def drain(self) -> R | None:
        """Takes any record out, for records that are being freed. Returns None if there is none."""
        if not self._chunks:
            return None
        record = self._chunks[-1][-1]
        self._cut(len(self._chunks) - 1, -1, None)
        return self._records.pop(record[1])

    def _append(self, records: list[R]) -> None:
        """Adds sorted records, all of which come after those that there are."""
        start = 0
        if self._chunks and (room := MAX_CHUNK - len(self._chunks[-1])) > 0:
            self._chunks[-1] += records[:room]
            self._lasts[-1] = self._chunks[-1][-1]
            start = room
        chunks = [records[at : at + MAX_CHUNK] for at in range(start, len(records), MAX_CHUNK)]
        self._chunks += chunks
        self._lasts += [chunk[-1] for chunk in chunks]

    def _split(self, place: int) -> None:
        """A chunk has grown. Its records go into chunks that are half full, or a little fuller."""
        chunk = self._chunks[place]
        size = MAX_CHUNK // 2
        parts = [chunk[at : at + size] for at in range(0, len(chunk), size)]
        self._chunks[place : place + 1] = parts
        self._lasts[place : place + 1] = [part[-1] for part in parts]

    def _cut(self, place: int, start: int, end: int | None) -> None:
        """Removes a slice of a chunk."""
        del self._chunks[place][start:end]
        self._update_last(place)

    def _update_last(self, place: int) -> None:
        """Records of a chunk were removed."""
        chunk = self._chunks[place]
        if chunk:
            self._lasts[place] = chunk[-1]
        else:
            del self._chunks[place], self._lasts[place]

    def check(self) -> None:
        """For tests: asserts that every record is in its chunk exactly once, and all are in order."""
        records = list(chain.from_iterable(self._chunks))
        assert records == sorted(self._records.values())
        assert self._lasts == [chunk[-1] for chunk in self._chunks]
        assert all(0 < len(chunk) <= MAX_CHUNK for chunk in self._chunks)
