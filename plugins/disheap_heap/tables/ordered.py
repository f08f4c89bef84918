"""Records in strict order, each removable by its key, with a bound on the work of every call.

The records are in sorted lists of at most `MAX_CHUNK`, the chunks, as in the leaves of a B-tree. A removed record
leaves nothing behind, so no call has to pass over what others removed. A binary heap keeps removed entries until they
come to its top. Then one publish to many queues may meet very many at once.

A call finds the chunk by bisection, and moves at most the pointers of one chunk. Queues in which all messages have one
priority append at the end and take from the front.

Only which records there are is state. The layout of the chunks may differ between a restored replica and another one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Generic, TypeVar

from disheap_heap.tables.partitioned import PartitionedDict

R = TypeVar("R", bound=tuple[Any, ...])

MAX_CHUNK = 512
"""Records of a chunk. To move so many pointers takes 0.1 us. A chunk that grows beyond it is split."""

FEW = 16
"""To sort a chunk again, or to filter it, takes about as long as so many single insertions or removals."""

_key_of = itemgetter(1)


class OrderedRecords(Generic[R]):
    """Records are tuples (rank, key, ...) with unique keys; the least (rank, key) comes first."""

    __slots__ = ("_lasts", "_records", "chunks")

    def __init__(self) -> None:
        self._records: PartitionedDict[R] = PartitionedDict()
        self.chunks: list[list[R]] = []
        """For others to read. None is empty. To ask whether there are chunks takes a fifth of the time that `len`
        takes."""
        self._lasts: list[R] = []  # the last record of each chunk

    def by_id(self) -> PartitionedDict[R]:
        """All records by key, to read. It changes with the records."""
        return self._records

    def __len__(self) -> int:
        return len(self._records)

    def push(self, record: R) -> None:
        """Adds a record. There must be none with its key."""
        records, key = self._records, record[1]
        if key >= records.last_start and len(records.last) < records.limit:
            records.last[key] = record  # as `put`, written out here
        else:
            records.put(key, record)
        lasts = self._lasts
        if lasts and record < lasts[-1]:
            place = bisect_left(lasts, record)
            chunk = self.chunks[place]
            insort(chunk, record)
            if len(chunk) > MAX_CHUNK:
                self._split(place)
        elif lasts and len(self.chunks[-1]) < MAX_CHUNK:
            self.chunks[-1].append(record)
            lasts[-1] = record
        else:
            self.chunks.append([record])
            lasts.append(record)

    def push_many(self, records: list[R]) -> None:
        """Adds records. There must be none with their keys."""
        self._records.put_many(list(map(_key_of, records)), records)
        records = sorted(records)
        start = 0
        while start < len(records):
            place = bisect_left(self._lasts, records[start])
            if place == len(self._lasts):
                self._append(records[start:])
                return
            end = bisect_right(records, self._lasts[place], start)
            chunk = self.chunks[place]
            if end - start < FEW:
                for record in records[start:end]:
                    insort(chunk, record)
            else:
                chunk += records[start:end]
                chunk.sort()
            if len(chunk) > MAX_CHUNK:
                self._split(place)
            start = end

    def pop(self) -> R:
        """Removes and returns the first record. There must be one."""
        chunk = self.chunks[0]
        record = chunk.pop(0)
        if not chunk:
            del self.chunks[0], self._lasts[0]
        self._records.take(record[1])
        return record

    def first(self) -> R | None:
        """The first record, or None."""
        return self.chunks[0][0] if self.chunks else None

    def remove(self, key: int) -> R | None:
        """Removes and returns the record with this key, or returns None."""
        record = self._records.take(key)
        if record is not None:
            place = bisect_left(self._lasts, record)
            chunk = self.chunks[place]
            self._cut(place, at := bisect_left(chunk, record), at + 1)
        return record

    def remove_many(self, keys: list[int]) -> list[R]:
        """Removes and returns the records with these keys, which must be there."""
        records, gone = self._records, set(keys)
        removed = [record for key in keys if (record := records.take(key)) is not None]
        assert len(removed) == len(keys)
        doomed = sorted(removed)
        start = 0
        while start < len(doomed):
            place = bisect_left(self._lasts, doomed[start])
            end = bisect_right(doomed, self._lasts[place], start)
            chunk = self.chunks[place]
            if end - start < FEW:
                for record in doomed[start:end]:
                    del chunk[bisect_left(chunk, record)]
            else:
                chunk[:] = [record for record in chunk if record[1] not in gone]
            self._update_last(place)
            start = end
        return removed

    def count_before(self, record: R) -> int:
        """How many records come before this one, which must be there. It looks at each chunk: 0.2 ms of a million."""
        place = bisect_left(self._lasts, record)
        return sum(map(len, self.chunks[:place])) + bisect_left(self.chunks[place], record)

    def smallest(self, count: int) -> list[R]:
        """Returns the first `count` records in order, or all if there are fewer."""
        return list(islice(chain.from_iterable(self.chunks), count))

    def count_ranks(self, limit: int) -> list[tuple[Any, int]]:
        """Returns the first `limit` ranks in order, each with the number of its records."""
        ranks: list[tuple[Any, int]] = []
        chunks, place, at = self.chunks, 0, 0
        while place < len(chunks) and len(ranks) < limit:
            rank = chunks[place][at][0]
            end = bisect_left(self._lasts, (rank + 1,), place)
            behind = bisect_left(chunks[end], (rank + 1,)) if end < len(chunks) else 0
            ranks.append((rank, sum(map(len, islice(chunks, place, end))) - at + behind))
            place, at = end, behind
        return ranks

    def take_last_rank(self, count: int) -> list[R]:
        """Removes and returns at most `count` records of the last rank, those with the lowest keys. There must be a
        record."""
        last = self.chunks[-1][-1]
        chunk = self.chunks[-1]
        if len(chunk) > 1 and chunk[-2][0] != last[0]:
            place, at = len(self.chunks) - 1, len(chunk) - 1
        else:
            place = bisect_left(self._lasts, last[:1])
            at = bisect_left(self.chunks[place], last[:1])
        taken = self.chunks[place][at : at + count]
        self._cut(place, at, at + count)
        for record in taken:
            self._records.take(record[1])
        return taken

    def drain(self) -> R | None:
        """Takes any record out, for records that are being freed. Returns None if there is none."""
        if not self.chunks:
            return None
        record = self.chunks[-1][-1]
        self._cut(len(self.chunks) - 1, -1, None)
        return self._records.take(record[1])

    def _append(self, records: list[R]) -> None:
        """Adds sorted records, all of which come after those that there are."""
        start = 0
        if self.chunks and (room := MAX_CHUNK - len(self.chunks[-1])) > 0:
            self.chunks[-1] += records[:room]
            self._lasts[-1] = self.chunks[-1][-1]
            start = room
        chunks = [records[at : at + MAX_CHUNK] for at in range(start, len(records), MAX_CHUNK)]
        self.chunks += chunks
        self._lasts += [chunk[-1] for chunk in chunks]

    def _split(self, place: int) -> None:
        """A chunk has grown. Its records go into chunks that are half full, or a little fuller."""
        chunk = self.chunks[place]
        size = MAX_CHUNK // 2
        parts = [chunk[at : at + size] for at in range(0, len(chunk), size)]
        self.chunks[place : place + 1] = parts
        self._lasts[place : place + 1] = [part[-1] for part in parts]

    def _cut(self, place: int, start: int, end: int | None) -> None:
        """Removes a slice of a chunk."""
        del self.chunks[place][start:end]
        self._update_last(place)

    def _update_last(self, place: int) -> None:
        """Records of a chunk were removed."""
        chunk = self.chunks[place]
        if chunk:
            self._lasts[place] = chunk[-1]
        else:
            del self.chunks[place], self._lasts[place]

    def check(self) -> None:
        """For tests: asserts that every record is in its chunk exactly once, and all are in order."""
        records = list(chain.from_iterable(self.chunks))
        assert records == sorted(self._records.values())
        assert self._lasts == [chunk[-1] for chunk in self.chunks]
        assert all(0 < len(chunk) <= MAX_CHUNK for chunk in self.chunks)
