"""Which topics a routing key leads to: one index for each kind of exchange (AMQP 0-9-1, section 3.1.3).

Owns the indexes. Knows no commands, and decides nothing about what may be bound. An index changes with each binding by
the cost of that binding alone, so that a bind or an unbind never looks at the others.

A topic exchange keeps its patterns in a trie over words. A pattern is first put into a canonical form: in a run of
wildcards the order does not matter, and `#` after `#` says nothing new, so `#.*.#` becomes `*.#`. One publish walks all
patterns together, word by word, with the nodes that can be reached so far. No node is visited twice for a word, so the
cost is at most (words of the key + 1) x (nodes of the trie), and there is no backtracking. A setting bounds it further
(`routing_steps`): the steps depend on the bindings and the key alone, so every replica counts the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from disheap_heap.state import Topic

Found = tuple["Topic", ...]


KEYS_REMEMBERED = 4096
"""Keys that all exchanges together remember: 5 MB at worst. Task queues use a handful."""
TOPICS_REMEMBERED = 100_000
"""Topics that the remembered keys lead to, in all: 800 KB."""


class RouteMemory:
    """What keys led to, for all exchanges together. When it is full, or a binding changes, it starts afresh. Not state:
    a replica that was restored remembers nothing, and finds the same."""

    __slots__ = ("_routes", "_topics")

    def __init__(self) -> None:
        self._routes: dict[tuple[object, str], Found] = {}
        self._topics = 0

    def find(self, exchange: object, key: str) -> Found | None:
        """The topics for this exchange and key, or None if they are not remembered."""
        return self._routes.get((exchange, key))

    def remember(self, exchange: object, key: str, topics: Found) -> None:
        """Remembers the topics for this exchange and key. Forgets all others first if there are too many."""
        if len(self._routes) >= KEYS_REMEMBERED or self._topics + len(topics) > TOPICS_REMEMBERED:
            self.clear()
        self._routes[exchange, key] = topics
        self._topics += len(topics)

    def clear(self) -> None:
        """Forgets all routes. Called when a binding changes."""
        if self._routes:
            self._routes, self._topics = {}, 0

    def size(self) -> tuple[int, int]:
        """Keys, and the topics that they lead to."""
        return len(self._routes), self._topics


class TooManySteps(Exception):
    """The walk was given up: the key would cost more steps than one publish may take."""


class Index(Protocol):
    """A topic that several bindings lead to is found once, at the place of its oldest one."""

    nodes: int  # of a trie: what the index takes of the bound on nodes
    steps: int  # that the last `find` took, for the count of work; one that found many topics took as many

    def add(self, key: str, topic: Topic, order: int) -> None:
        """Adds a binding. `order` is its place among the bindings of the exchange."""

    def remove(self, key: str, topic: Topic) -> None:
        """Removes a binding."""

    def find(self, key: str, max_steps: int) -> Found:
        """The topics to which the bindings route this key. Notes in `steps` how much work it was."""


class FanoutIndex:
    """Every binding leads to its topic."""

    __slots__ = ("_topics", "steps")

    nodes = 0

    def __init__(self) -> None:
        self.steps = 0
        self._topics: dict[tuple[str, int], Topic] = {}

    def add(self, key: str, topic: Topic, order: int) -> None:
        """Adds a topic. The key does not matter."""
        self._topics[key, topic.number] = topic

    def remove(self, key: str, topic: Topic) -> None:
        """Removes a binding."""
        del self._topics[key, topic.number]

    def find(self, key: str, max_steps: int) -> Found:
        """All topics, each once."""
        self.steps = len(self._topics)
        return _once(self._topics.values())


class DirectIndex:
    """A binding leads to its topic where the key is equal."""

    __slots__ = ("_topics", "steps")

    nodes = 0

    def __init__(self) -> None:
        self.steps = 0
        self._topics: dict[str, dict[int, Topic]] = {}

    def add(self, key: str, topic: Topic, order: int) -> None:
        """Adds a topic under this key."""
        self._topics.setdefault(key, {})[topic.number] = topic

    def remove(self, key: str, topic: Topic) -> None:
        """Removes a topic from this key."""
        topics = self._topics[key]
        del topics[topic.number]
        if not topics:
            del self._topics[key]

    def find(self, key: str, max_steps: int) -> Found:
        """The topics under exactly this key, each once."""
        topics = self._topics.get(key, {})
        self.steps = len(topics)
        return _once(topics.values())


class Node:
    """A place in the trie. `any_words` is the node behind a `#`: it stays reached whatever words follow."""

    __slots__ = ("any_words", "bindings", "repeats", "star", "words")

    def __init__(self, repeats: bool = False) -> None:
        self.repeats = repeats
        self.words: dict[str, Node] | None = None
        self.star: Node | None = None
        self.any_words: Node | None = None
        self.bindings: dict[tuple[str, int], tuple[int, Topic]] | None = None  # (pattern, topic) -> (order, topic)

    def is_unused(self) -> bool:
        """Whether the node has neither children nor bindings."""
        return not (self.words or self.star or self.any_words or self.bindings)

    def child(self, part: str) -> Node | None:
        """The child for this part of a pattern, or None."""
        if part == "#":
            return self.any_words
        if part == "*":
            return self.star
        return self.words.get(part) if self.words else None

    def set_child(self, part: str, child: Node | None) -> None:
        """Sets or removes the child for this part of a pattern."""
        if part == "#":
            self.any_words = child
        elif part == "*":
            self.star = child
        elif child is not None:
            if self.words is None:
                self.words = {}
            self.words[part] = child
        elif self.words:
            self.words.pop(part, None)
            self.words = self.words or None


class PatternIndex:
    """The patterns of a topic exchange. `nodes` counts the trie's nodes without the root."""

    __slots__ = ("_root", "nodes", "steps")

    def __init__(self) -> None:
        self._root = Node()
        self.nodes = self.steps = 0

    def add(self, key: str, topic: Topic, order: int) -> None:
        """Adds a binding with this pattern, and the nodes that it needs."""
        node = self._root
        for part in canonical(split(key)):
            child = node.child(part)
            if child is None:
                child = Node(part == "#")
                node.set_child(part, child)
                self.nodes += 1
            node = child
        if node.bindings is None:
            node.bindings = {}
        node.bindings[key, topic.number] = (order, topic)

    def remove(self, key: str, topic: Topic) -> None:
        """Nodes that lead nowhere any more go as well: what a publish costs follows from the bindings that there are,
        not from those that there were."""
        parts, path = canonical(split(key)), [self._root]
        for part in parts:
            child = path[-1].child(part)
            assert child is not None
            path.append(child)
        bindings = path[-1].bindings
        assert bindings is not None
        del bindings[key, topic.number]
        while parts and path.pop().is_unused():
            path[-1].set_child(parts.pop(), None)
            self.nodes -= 1

    def find(self, key: str, max_steps: int) -> Found:
        """Raises `TooManySteps`."""
        reached = self.walk(split(key), max_steps)
        ends = [list(node.bindings.values()) for node in reached if node.bindings]
        self.steps += sum(map(len, ends))
        if len(ends) == 1:
            return _once(topic for _, topic in ends[0])
        bindings = sorted((one for end in ends for one in end), key=_order)
        return _once(topic for _, topic in bindings)

    def walk(self, words: list[str], max_steps: int) -> list[Node]:
        """The nodes that are reached when the words are used up. Raises `TooManySteps`."""
        reached: dict[Node, None] = {}
        _reach(reached, self._root)
        self.steps = 0
        for word in words:
            self.steps += len(reached)
            if self.steps > max_steps:
                raise TooManySteps
            following: dict[Node, None] = {}
            for node in reached:
                if node.repeats:
                    following[node] = None
                if node.star is not None:
                    _reach(following, node.star)
                if node.words is not None and word in node.words:
                    _reach(following, node.words[word])
            reached = following
        return list(reached)


INDEXES: dict[str, type[FanoutIndex] | type[DirectIndex] | type[PatternIndex]] = {
    "direct": DirectIndex,
    "topic": PatternIndex,
    "fanout": FanoutIndex,
}


def split(key: str) -> list[str]:
    """The words of a key; the empty key has none."""
    return key.split(".") if key else []


def canonical(parts: list[str]) -> list[str]:
    """The pattern in the one form of all that match the same keys: in each run of wildcards the `*` come first, and at
    most one `#` follows."""
    found: list[str] = []
    pending = False  # a `#` of the run is still to be written
    for part in parts:
        if part == "#":
            pending = True
            continue
        if part != "*" and pending:
            found.append("#")
            pending = False
        found.append(part)
    if pending:
        found.append("#")
    return found


def _reach(reached: dict[Node, None], node: Node) -> None:
    """A `#` may stand for no word at all, so the node behind it is reached as well."""
    reached[node] = None
    if node.any_words is not None:
        reached[node.any_words] = None


def _order(binding: tuple[int, Topic]) -> int:
    return binding[0]


def _once(topics: Iterable[Topic]) -> Found:
    return tuple({topic.number: topic for topic in topics if topic.alive}.values())
