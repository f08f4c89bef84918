"""Which topics a routing key leads to: exchanges, their bindings, and a cache (AMQP 0-9-1, section 3.1.3).

Owns the bindings of an exchange and one index for each kind of exchange; those with a trie are in `tables`. It knows no
commands, and decides nothing about what may be bound. Of a topic it knows the number, and whether the topic still
exists. An index changes with each binding by the cost of that binding alone. So a bind or an unbind never looks at the
other bindings.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol

from disheap.errors import InvalidArgument
from disheap_heap.tables.conditions import ConditionIndex
from disheap_heap.tables.patterns import PatternIndex, T, TooManySteps, split, unique

MAX_CACHED_KEYS = 4096
"""Keys in the cache, over all exchanges: 5 MB at worst. Task queues use a handful."""
MAX_CACHED_TOPICS = 100_000
"""Topics to which the cached keys lead, in all: 800 KB."""


BindingKey = tuple[str, int, bytes]
"""What tells the bindings of an exchange apart: the routing key, the number of the topic, the arguments."""


class RouteCache(Generic[T]):
    """The topics to which keys led, for all exchanges together. It is emptied when it is full and when a binding
    changes. It is not state: a restored replica starts with an empty cache and finds the same topics."""

    __slots__ = ("_routes", "_topics")

    def __init__(self) -> None:
        self._routes: dict[tuple[object, str], tuple[T, ...]] = {}
        self._topics = 0

    def find(self, exchange: object, key: str) -> tuple[T, ...] | None:
        """The topics for this exchange and key, or None if they are not cached."""
        return self._routes.get((exchange, key))

    def store(self, exchange: object, key: str, topics: tuple[T, ...]) -> None:
        """Stores the topics for this exchange and key. Empties the cache first if it is full."""
        if len(self._routes) >= MAX_CACHED_KEYS or self._topics + len(topics) > MAX_CACHED_TOPICS:
            self.clear()
        self._routes[exchange, key] = topics
        self._topics += len(topics)

    def clear(self) -> None:
        """Empties the cache. Called when a binding changes."""
        if self._routes:
            self._routes, self._topics = {}, 0

    def size(self) -> tuple[int, int]:
        """The number of keys, and the number of topics to which they lead."""
        return len(self._routes), self._topics


class Index(Protocol[T]):
    """Finds the bindings for a key. A topic with several bindings is found once, at the place of its oldest one. Only
    a headers exchange has bindings with arguments, and looks at the headers of a message."""

    nodes: int  # of a trie: what the index takes of the bound on nodes
    steps: int  # that the last `find` took, for the count of work; one that found many topics took as many

    def add(self, key: str, topic: T, order: int, arguments: bytes = b"") -> None:
        """Adds a binding. `order` is its place among the bindings of the exchange."""

    def remove(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Removes a binding, which must exist."""

    def find(self, key: str, max_steps: int, headers: bytes = b"") -> tuple[T, ...]:
        """The topics to which the bindings route a message with this key and these headers. Sets `steps`."""


class FanoutIndex(Generic[T]):
    """Every binding matches every key."""

    __slots__ = ("_topics", "steps")

    nodes = 0

    def __init__(self) -> None:
        self.steps = 0
        self._topics: dict[tuple[str, int], T] = {}

    def add(self, key: str, topic: T, order: int, arguments: bytes = b"") -> None:
        """Adds a binding. Its key does not matter."""
        self._topics[key, topic.number] = topic

    def remove(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Removes a binding, which must exist."""
        del self._topics[key, topic.number]

    def find(self, key: str, max_steps: int, headers: bytes = b"") -> tuple[T, ...]:
        """All topics, each once."""
        self.steps = len(self._topics)
        return unique(self._topics.values())


class DirectIndex(Generic[T]):
    """A binding matches the key that is equal to its own."""

    __slots__ = ("_topics", "steps")

    nodes = 0

    def __init__(self) -> None:
        self.steps = 0
        self._topics: dict[str, dict[int, T]] = {}

    def add(self, key: str, topic: T, order: int, arguments: bytes = b"") -> None:
        """Adds a binding with this key."""
        self._topics.setdefault(key, {})[topic.number] = topic

    def remove(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Removes a binding, which must exist."""
        topics = self._topics[key]
        del topics[topic.number]
        if not topics:
            del self._topics[key]

    def find(self, key: str, max_steps: int, headers: bytes = b"") -> tuple[T, ...]:
        """The topics that are bound with exactly this key."""
        topics = self._topics.get(key, {})
        self.steps = len(topics)
        return unique(topics.values())


INDEXES: dict[str, type[Index[Any]]] = {
    "direct": DirectIndex,
    "topic": PatternIndex,
    "fanout": FanoutIndex,
    "headers": ConditionIndex,
}


class Exchange(Generic[T]):
    """An exchange: its settings, its bindings, and the index that finds their topics."""

    __slots__ = ("_order", "alive", "alternate", "argument_bytes", "auto_delete", "bindings", "index", "kind", "name")

    def __init__(self, name: str, kind: str, auto_delete: bool, alternate: str = "") -> None:
        self.name = name
        self.kind = kind
        self.auto_delete = auto_delete
        self.alternate = alternate
        self.alive = True
        self.bindings: dict[BindingKey, T] = {}  # the oldest first
        self.argument_bytes = 0  # of all bindings
        self.index: Index[T] = INDEXES[kind]()
        self._order = 0

    def route(self, key: str, max_steps: int, headers: bytes = b"") -> tuple[T, ...]:
        """The topics to which the key, or the headers, lead, in the order in which they were bound. Raises
        `InvalidArgument` and `InvalidHeaders`."""
        try:
            return self.index.find(key, max_steps, headers)
        except TooManySteps:
            raise self._too_many_steps(key, max_steps) from None

    def add(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Adds a binding. The exchange must not have it."""
        self.bindings[key, topic.number, arguments] = topic
        self.argument_bytes += len(arguments)
        self._order += 1
        self.index.add(key, topic, self._order, arguments)

    def remove(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Removes a binding. The exchange must have it."""
        del self.bindings[key, topic.number, arguments]
        self.argument_bytes -= len(arguments)
        self.index.remove(key, topic, arguments)

    def _too_many_steps(self, key: str, max_steps: int) -> InvalidArgument:
        if self.kind == "headers":
            return InvalidArgument(
                f"routing a message through the headers exchange {self.name!r} takes more than {max_steps} steps "
                "(`routing_steps` in [machine.heap]). Use fewer headers, or fewer bindings that match the same ones"
            )
        return InvalidArgument(
            f"routing a key of {len(split(key))} words through the topic exchange {self.name!r} takes more than "
            f"{max_steps} steps (`routing_steps` in [machine.heap]). Use shorter keys, or fewer patterns with wildcards"
        )
