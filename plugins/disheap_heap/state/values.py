"""Values under keys, who watches them, and barriers: all that lives apart from the topics.

Owns the records and their tables. `commands.values` and `commands.barriers` change them. A value is immutable: another
value under the same key is another record with another number. So a view only has to keep the old record. The numbers
give the order in which values were set, and values are read in this order.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol, TypeVar

from disheap_heap.tables.keyed import KeyedDict
from disheap_heap.tables.partitioned import PartitionedDict


class Watching(Protocol):
    """What this module knows of a session. `watches`: the keys that it watches."""

    number: int
    watches: dict[str, None]


S = TypeVar("S", bound=Watching)


class Value(NamedTuple):
    """What is stored under a key. `expires_at_ms` is 0 if it never expires."""

    number: int
    key: str
    expires_at_ms: int
    stage: int
    body: bytes

    def size(self) -> int:
        """Its bytes, with those of its key."""
        return key_bytes(self.key) + len(self.body)


Part = tuple[str, int]
"""(key, order) of a value that arrived at a barrier."""


class Barrier:
    """Waits for parts. `parts`: those that arrived, in this order. `message`: an encoded `Publish`; empty for none, and
    after it was published, when `is_released` is true. `lifetime_ms`: how long the barrier stays after it was touched;
    0 for as long as it is open. A view reads `parts` up to a length, so nothing but `add` changes the list."""

    __slots__ = (
        "_known",
        "expires_at_ms",
        "is_closed",
        "is_released",
        "key",
        "lifetime_ms",
        "message",
        "more",
        "number",
        "parts",
        "size",
    )

    def __init__(self, number: int, key: str) -> None:
        self.number = number
        self.key = key
        self.size = self.more = 0
        self.message = b""
        self.lifetime_ms = self.expires_at_ms = 0
        self.parts: list[Part] = []
        self._known: dict[Part, None] = {}
        self.is_released = self.is_closed = False

    def awaited(self) -> int:
        """How many parts it waits for; 0 if that is not known yet."""
        return self.size + self.more if self.size else 0

    def is_complete(self) -> bool:
        """Whether all parts have arrived."""
        return 0 < self.awaited() <= len(self.parts)

    def has(self, part: Part) -> bool:
        """Whether the part has arrived."""
        return part in self._known

    def add(self, part: Part) -> None:
        """Adds a part that has not arrived yet."""
        self._known[part] = None
        self.parts.append(part)

    def close(self) -> list[Part]:
        """Closes it. Returns its parts, which a view may still read."""
        parts, self.parts, self._known = self.parts, [], {}
        self.message, self.is_closed = b"", True
        return parts


class Values(Generic[S]):
    """The tables. `size`: the bytes of all values. `watches`: how many (session, key) there are. `parts`: of all
    barriers. `message_bytes`: of the messages that barriers hold."""

    def __init__(self) -> None:
        self.last_number = self.last_barrier = 0
        self.by_number: PartitionedDict[Value] = PartitionedDict()
        self.by_key: KeyedDict[Value] = KeyedDict()
        self.size = 0
        self.watchers: KeyedDict[dict[int, S]] = KeyedDict()  # of a key, by number of the session
        self.watches = 0
        self.barriers: dict[str, Barrier] = {}
        self.barriers_by_number: dict[int, Barrier] = {}
        self.parts = self.message_bytes = 0
        self.set_count = self.expired_count = 0  # counted, not state

    def add(self, value: Value) -> None:
        """Adds a value. There must be none under its key."""
        self.by_number.put(value.number, value)
        self.by_key.put(value.key, value)
        self.size += value.size()

    def remove(self, value: Value) -> None:
        """Removes a value that is there."""
        self.by_number.take(value.number)
        self.by_key.take(value.key)
        self.size -= value.size()

    def watch(self, session: S, key: str) -> None:
        """Adds a watch. It must not be there."""
        watchers = self.watchers.get(key)
        if watchers is None:
            self.watchers.put(key, {session.number: session})
        else:
            watchers[session.number] = session
        session.watches[key] = None
        self.watches += 1

    def unwatch(self, session: S, key: str) -> None:
        """Removes a watch that is there."""
        watchers = self.watchers.get(key)
        assert watchers is not None
        del watchers[session.number]
        if not watchers:
            self.watchers.take(key)
        del session.watches[key]
        self.watches -= 1

    def add_barrier(self, barrier: Barrier) -> None:
        """Adds a barrier."""
        self.barriers[barrier.key] = self.barriers_by_number[barrier.number] = barrier

    def remove_barrier(self, barrier: Barrier) -> None:
        """Removes a barrier that is closed."""
        del self.barriers[barrier.key], self.barriers_by_number[barrier.number]


def key_bytes(key: str) -> int:
    """The bytes of a key in UTF-8."""
    return len(key) if key.isascii() else len(key.encode())
