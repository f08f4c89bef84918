"""A mapping by number that never copies many entries at once.

CPython copies a whole dict when it grows: 76 ms at 1.4 million entries, in one insertion. Here the entries are in
partitions, which are dicts of at most `PARTITION_MAX` entries, as in the leaves of a B-tree. A partition holds the keys
from its start up to the start of the next one. When one is full, a key above all its keys begins a new one, which
copies nothing. Ids grow, so that is the rule. For any other key a full partition is split into halves.

Memory is given back. Neighbours that have few entries are merged. A dict that has become mostly empty is copied into a
smaller one. An empty one is removed. Each of these copies at most `PARTITION_MAX` entries.

Where the partitions begin depends on what was added and removed before, so replicas may differ in it. Iteration goes in
the order of the keys. So it is equal on all replicas, after a snapshot as well.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar, overload

V = TypeVar("V")
D = TypeVar("D")

PARTITION_MAX = 682
"""Entries of a partition. A dict of 1,024 slots holds as many, and is full then, so it takes 27 bytes for an entry. To
split it takes 0.1 ms. One publish may reach 2,500 topics whose dicts all grow at that moment: 10 ms."""

MERGED_MAX = PARTITION_MAX // 2
"""Entries of two neighbours that are merged. A merged partition is far from being split again."""

FEW = 16
"""Entries that are added one by one, because it takes less time than to look whether they are in order."""

LOOK_MASK = 127
"""A partition before the last one is looked at when the number of its entries becomes a multiple of 128. Zero is one as
well. A look takes as long as ten removals."""

LEVELS = (PARTITION_MAX // 16, PARTITION_MAX // 4, PARTITION_MAX)
"""The last partition is looked at when it has an eighth of the level that it had reached. One that has not reached the
second level is never looked at: in an idle topic each message makes it empty."""

SPARE_BYTES = 2500
"""A dict for 85 entries, which a partition before the last one may keep, however few entries it has."""
ENTRY_BYTES_MAX = 100
"""A dict takes 27 to 56 bytes for an entry after it has grown."""

_NO_END = 1 << 128
"""Above all keys."""


class PartitionedDict(MutableMapping[int, V]):
    """A mapping whose keys are integers, not below 0, and whose values are not None. It must not change while it is
    iterated over.

    A caller that has no time for the call of `put` may do the most frequent part of it: `table.last[key] = value`. The
    key must not be below `last_start`, and `last` must have fewer entries than `limit`. These three are for nothing
    else."""

    __slots__ = ("_earlier", "_least", "last", "last_start", "limit")

    def __init__(self) -> None:
        self.last: dict[int, V] = {}  # the partition of the highest keys; it may be empty
        self.last_start = 0
        self.limit, self._least = LEVELS[0], 0  # it is looked at before it has more entries, and when it has fewer
        self._earlier: _Earlier[V] = _NONE  # the other partitions

    def put(self, key: int, value: V) -> None:
        """Adds an entry, or replaces it. `table[key] = value` does the same, and takes longer."""
        if key >= self.last_start:
            last = self.last
            if len(last) < self.limit:
                last[key] = value
            else:
                self._put_at_limit(key, value)
        else:
            self._earlier.put(key, value)

    def put_many(self, keys: list[int], values: list[V]) -> None:
        """Adds entries. None of these keys may be there."""
        if len(keys) < FEW or keys[0] < self.last_start or keys != sorted(keys) or not self._is_highest(keys[0]):
            for key, value in zip(keys, values, strict=True):
                self.put(key, value)
            return
        start = PARTITION_MAX - len(self.last)
        self.last.update(zip(keys[:start], values[:start], strict=True))
        self._choose_level()
        while start < len(keys):
            end = start + PARTITION_MAX
            self._begin(keys[start], dict(zip(keys[start:end], values[start:end], strict=True)))
            start = end

    @overload
    def get(self, key: int, /) -> V | None: ...
    @overload
    def get(self, key: int, /, default: V | D) -> V | D: ...
    def get(self, key: int, default: Any = None) -> Any:
        """Returns the value, or `default`."""
        if key >= self.last_start:
            return self.last.get(key, default)
        earlier = self._earlier
        if earlier.recent_start <= key < earlier.recent_end:
            return earlier.recent.get(key, default)
        return earlier.of(key).get(key, default)

    def take(self, key: int) -> V | None:
        """Removes an entry. Returns its value, or None if there is none."""
        if key >= self.last_start:
            last = self.last
            value = last.pop(key, None)
            if len(last) < self._least:
                self._look_at_last()
            return value
        earlier = self._earlier
        partition = earlier.recent if earlier.recent_start <= key < earlier.recent_end else earlier.of(key)
        value = partition.pop(key, None)
        if value is None:
            return None
        earlier.count -= 1
        if not len(partition) & LOOK_MASK:
            self._look_at(key)
        return value

    def popitem(self) -> tuple[int, V]:
        """Removes and returns any entry. Raises `KeyError` if there is none."""
        if not self.last and self._earlier.count:
            self.last_start, self.last = self._earlier.pop()
            self._choose_level()
        return self.last.popitem()

    def missing(self, keys: list[int]) -> list[int]:
        """Returns those of the keys that are not there. The keys are in ascending order."""
        gone: list[int] = []
        for partition, some in self._by_partition(keys):
            gone += [key for key in some if key not in partition]
        return gone

    def found(self, keys: list[int]) -> dict[int, V]:
        """Returns the entries of those keys that are there. The keys are in ascending order."""
        there: dict[int, V] = {}
        for partition, some in self._by_partition(keys):
            there.update([(key, partition[key]) for key in some if key in partition])
        return there

    def starts(self) -> list[int]:
        """The lowest key that may be in each partition, in ascending order. The first is 0."""
        return [*self._earlier.starts, self.last_start]

    def in_range(self, start: int, end: int) -> dict[int, V]:
        """Returns the entries with keys from `start` up to `end`, without `end`, in no order."""
        earlier, there = self._earlier, {}
        for place in range(max(0, bisect_right(earlier.starts, start) - 1), bisect_left(earlier.starts, end)):
            there.update({key: one for key, one in earlier.partitions[place].items() if start <= key < end})
        if end > self.last_start:
            there.update({key: one for key, one in self.last.items() if start <= key < end})
        return there

    def an_early_value(self) -> V | None:
        """The value that was added first in the first partition, or None if there is none. Replicas may differ."""
        _, first = self.partitions()[0]
        return next(iter(first.values()), None)

    def __getitem__(self, key: int) -> V:
        return (self.last if key >= self.last_start else self._earlier.of(key))[key]

    def __setitem__(self, key: int, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: int) -> None:
        if self.take(key) is None:
            raise KeyError(key)

    def __contains__(self, key: Any) -> bool:
        return key in (self.last if key >= self.last_start else self._earlier.of(key))

    def __len__(self) -> int:
        return len(self.last) + self._earlier.count

    def __iter__(self) -> Iterator[int]:
        """The keys in ascending order. Sorts one partition at a time."""
        for _, partition in self.partitions():
            yield from sorted(partition)

    def partitions(self) -> list[tuple[int, dict[int, V]]]:
        """For tests: each partition, after the lowest key that may be in it."""
        earlier = zip(self._earlier.starts, self._earlier.partitions, strict=True)
        return [*earlier, (self.last_start, self.last)]

    def _by_partition(self, keys: list[int]) -> Iterator[tuple[dict[int, V], list[int]]]:
        """Splits ascending keys. Yields each partition with those that belong into it."""
        start = 0
        while start < len(keys) and keys[start] < self.last_start:
            partition = self._earlier.of(keys[start])
            end = bisect_left(keys, min(self._earlier.recent_end, self.last_start), start)
            yield partition, keys[start:end]
            start = end
        if start < len(keys):
            yield self.last, keys[start:] if start else keys

    def _put_at_limit(self, key: int, value: V) -> None:
        """Adds an entry to the last partition, which has reached a level."""
        last = self.last
        self._choose_level()
        if len(last) < self.limit or key in last:
            last[key] = value
        elif self._is_highest(key):
            self._begin(key, {key: value})
        else:
            self.last, middle, upper = _halves(last)
            self._begin(middle, upper)
            self.put(key, value)

    def _is_highest(self, key: int) -> bool:
        return not self.last or key > max(self.last)

    def _begin(self, start: int, last: dict[int, V]) -> None:
        """Begins a new last partition. The present one is not empty."""
        if self._earlier is _NONE:
            self._earlier = _Earlier()
        self._earlier.append(self.last_start, self.last)
        self.last, self.last_start = last, start
        self._choose_level()

    def _choose_level(self) -> None:
        """Chooses when the last partition is looked at again."""
        count = len(self.last)
        self.limit = next((level for level in LEVELS if count < level), PARTITION_MAX)
        self._least = -(-self.limit // 8) if self.limit > LEVELS[0] else 0

    def _look_at_last(self) -> None:
        """The last partition has lost many entries, or its neighbour has."""
        if self._earlier.count and len(self.last) + len(self._earlier.partitions[-1]) <= MERGED_MAX:
            self.last_start, before = self._earlier.pop()
            self.last = {**before, **self.last}
        else:
            self.last = dict(self.last)
        self._choose_level()

    def _look_at(self, key: int) -> None:
        """The partition of this key has lost an entry, and is not the last one."""
        self._earlier.look_at(key)
        if not self._earlier.count:
            self._earlier, self.last_start = _NONE, 0
        elif len(self._earlier.partitions[-1]) + len(self.last) <= MERGED_MAX:
            self._look_at_last()


class _Earlier(Generic[V]):
    """The partitions of a table without its last one. None of them is empty between two calls. The one that was used
    last is found without a search: messages leave in about the order in which they came."""

    __slots__ = ("count", "partitions", "recent", "recent_end", "recent_start", "starts")

    def __init__(self) -> None:
        self.partitions: list[dict[int, V]] = []
        self.starts: list[int] = []  # of these; the first is 0
        self.count = 0  # the number of their entries
        self.recent: dict[int, V] = {}  # holds the keys from `recent_start` up to `recent_end`
        self.recent_start = self.recent_end = 0

    def of(self, key: int) -> dict[int, V]:
        """The partition in which the key is, if it is there."""
        if not self.recent_start <= key < self.recent_end:
            place = bisect_right(self.starts, key)
            self.recent, self.recent_start = self.partitions[place - 1], self.starts[place - 1]
            self.recent_end = self.starts[place] if place < len(self.starts) else _NO_END
        return self.recent

    def put(self, key: int, value: V) -> None:
        """Adds an entry, or replaces it."""
        partition = self.of(key)
        before = len(partition)
        if before < PARTITION_MAX or key in partition:
            partition[key] = value
            self.count += len(partition) - before
            return
        place = bisect_right(self.starts, key) - 1
        if key > max(partition):
            self._replace(place + 1, place + 1, [key], [{key: value}])
            self.count += 1
        else:
            lower, middle, upper = _halves(partition)
            self._replace(place, place + 1, [self.starts[place], middle], [lower, upper])
            self.put(key, value)

    def append(self, start: int, partition: dict[int, V]) -> None:
        """Adds a partition behind the others."""
        self._replace(len(self.starts), len(self.starts), [start], [partition])
        self.count += len(partition)

    def pop(self) -> tuple[int, dict[int, V]]:
        """Removes and returns the last of these partitions, after its start."""
        start, partition = self.starts[-1], self.partitions[-1]
        self._replace(len(self.starts) - 1, len(self.starts), [], [])
        self.count -= len(partition)
        return start, partition

    def look_at(self, key: int) -> None:
        """The partition of this key has lost an entry. Merges it with a neighbour, makes it smaller, or removes it, if
        it has few entries."""
        place = bisect_right(self.starts, key) - 1
        partitions, partition = self.partitions, self.partitions[place]
        if not partition:
            self._replace(place, place + 1, [], [])
            if self.starts:
                self.starts[0] = 0
            return
        for first in (place - 1, place):
            if 0 <= first < len(partitions) - 1 and sum(map(len, partitions[first : first + 2])) <= MERGED_MAX:
                merged = {**partitions[first], **partitions[first + 1]}
                self._replace(first, first + 2, [self.starts[first]], [merged])
                return
        if partition.__sizeof__() > SPARE_BYTES + ENTRY_BYTES_MAX * len(partition):
            self._replace(place, place + 1, [self.starts[place]], [dict(partition)])

    def _replace(self, start: int, end: int, starts: list[int], partitions: list[dict[int, V]]) -> None:
        """Replaces some partitions by others."""
        self.starts[start:end] = starts
        self.partitions[start:end] = partitions
        self.recent, self.recent_start, self.recent_end = {}, 0, 0


_NONE: _Earlier[Any] = _Earlier()
"""The earlier records of a table that has one partition only. It is never changed."""


def _halves(partition: dict[int, V]) -> tuple[dict[int, V], int, dict[int, V]]:
    """Returns the lower half, the lowest key of the upper half, and the upper half."""
    keys = sorted(partition)
    half = len(keys) // 2
    lower, upper = ({key: partition[key] for key in part} for part in (keys[:half], keys[half:]))
    return lower, keys[half], upper
