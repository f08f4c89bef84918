"""The records that a view keeps because they have changed: how they are found, how much memory they take, and how they
are freed.

They may take as much as the whole state, if all messages are settled while a snapshot is written. So they are freed in
portions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from disheap_heap.settings import BYTES_PER_RECORD
from disheap_heap.state.outbox import CHUNK as MESSAGES_PER_CHUNK
from disheap_heap.state.outbox import Content, Queued
from disheap_heap.tables.partitioned import PartitionedDict

PLACE_BYTES = 40
"""The memory for the old place of a message: an entry in a `PartitionedDict`."""
ROW_BYTES = 200
"""The memory for another old record: a tuple, and an entry in a dict."""
TUPLE_BYTES = 100
"""The memory for a message that the state has replaced by another tuple."""
DROPPED_BYTES = 150
"""The memory for a message that the state has no more: a tuple, its id, and the header of its payload."""
ID_BYTES = 8
"""The memory for an id in a list."""


ORDER_SPAN = 512
"""Leases that are put into order together: those whose numbers are in one span."""

order_of = attrgetter("order")


class Granted(Protocol):
    """What this module knows of a lease."""

    @property
    def consumer(self) -> Hashable:
        """Who holds it."""

    @property
    def order(self) -> int:
        """Grows with each lease of the consumer."""


L = TypeVar("L", bound=Granted)


class KeptLeases(Generic[L]):
    """The leases that have ended or were extended, by consumer. The other leases of a consumer are not copied. A lease
    has a number that grows with each lease of its consumer, so the order of all of them can be found again. The leases
    of a consumer are in lists of at most `ORDER_SPAN`, so neither sorting nor freeing takes long."""

    __slots__ = ("_by_consumer", "_count")

    def __init__(self) -> None:
        self._by_consumer: dict[Hashable, dict[int, list[L]]] = {}  # by span; no dict and no list is empty
        self._count = 0

    def add(self, lease: L) -> None:
        """Keeps a lease."""
        spans = self._by_consumer.get(lease.consumer)
        if spans is None:
            spans = self._by_consumer[lease.consumer] = {}
        number = lease.order // ORDER_SPAN
        leases = spans.get(number)
        if leases is None:
            spans[number] = [lease]
        else:
            leases.append(lease)
        self._count += 1

    def merged(self, consumer: Hashable, present: list[L]) -> Iterator[L]:
        """Yields the kept leases of a consumer among the present ones, with the oldest first. Some come twice: those
        that were extended, and those that are kept after the list of present ones was made."""
        spans, start = self._by_consumer.get(consumer, {}), 0
        for number in sorted(spans):
            first = bisect_left(present, number * ORDER_SPAN, start, key=order_of)
            end = bisect_left(present, (number + 1) * ORDER_SPAN, first, key=order_of)
            yield from present[start:first]
            yield from sorted(present[first:end] + spans[number], key=order_of)
            start = end
        yield from present[start:]

    def popitem(self) -> L:
        """Removes and returns any lease. There must be one."""
        consumer = next(reversed(self._by_consumer))
        spans = self._by_consumer[consumer]
        number = next(reversed(spans))
        leases = spans[number]
        lease = leases.pop()
        if not leases:
            del spans[number]
        if not spans:
            del self._by_consumer[consumer]
        self._count -= 1
        return lease

    def __len__(self) -> int:
        return self._count


class KeptQueues:
    """The messages for other groups, in chunks. A chunk that the outbox still has is only let go of."""

    __slots__ = ("_queues",)

    def __init__(self, queues: list[Queued]) -> None:
        self._queues = queues

    def popitem(self) -> list[Content]:
        """Removes and returns any chunk. There must be one."""
        chunks = self._queues[-1].chunks
        chunk = chunks.pop()
        if not chunks:
            self._queues.pop()
        return chunk

    def __len__(self) -> int:
        return sum(len(queue.chunks) for queue in self._queues)


class Table(Protocol):
    """What `Kept` needs of a table."""

    def __len__(self) -> int: ...

    def popitem(self) -> object:
        """Removes any record."""


class Kept:
    """The tables are the view's own: `places` by the ids of messages, `leases` by consumer, `rows` of other records,
    and the `queues` of messages for other groups."""

    __slots__ = ("_more_bytes", "_queues", "_tables")

    def __init__(
        self,
        places: PartitionedDict[Any],
        leases: KeptLeases[Any],
        *rows: dict[Any, Any] | PartitionedDict[Any],
        queues: KeptQueues,
    ) -> None:
        self._tables: tuple[Table, ...] = (places, leases, *rows)
        self._queues = queues
        self._more_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._tables)) + MESSAGES_PER_CHUNK * len(self._queues)

    def add_bytes(self, count: int) -> None:
        """Counts memory that only the view needs, beside its tables."""
        self._more_bytes += count

    def memory_bytes(self) -> int:
        """An estimate of the memory of all kept records."""
        places, leases = len(self._tables[0]), len(self._tables[1])
        rows = sum(map(len, self._tables)) - places - leases
        return PLACE_BYTES * places + ID_BYTES * leases + ROW_BYTES * rows + self._more_bytes

    def free(self, limit: int) -> int:
        """Frees records of one table, and the same share of the other memory. `limit` is about how many units of work
        it takes. A record is one unit, and a large payload is more. Returns how many units it took."""
        for table in self._tables:
            if table:
                before, records, units = len(self), 0, 0
                while table and units < limit:
                    units += 1 + _payload_bytes(table.popitem()) // BYTES_PER_RECORD
                    records += 1
                self._more_bytes -= self._more_bytes * records // before
                return units
        return self._free_chunks(limit)

    def _free_chunks(self, limit: int) -> int:
        """Messages for other groups are all that is left."""
        messages = len(self)
        chunks = min(-(-limit // MESSAGES_PER_CHUNK), len(self._queues))
        count = MESSAGES_PER_CHUNK * chunks
        self._more_bytes -= self._more_bytes * count // max(1, messages)
        for _ in range(chunks):
            self._queues.popitem()
        return count


def _payload_bytes(record: Any) -> int:
    """Returns the size of the payload of a message, or of the message of a lease or record. Returns 0 for others."""
    while type(record) is tuple and record:
        record = record[-1]
    return len(getattr(getattr(record, "message", record), "body", b""))
