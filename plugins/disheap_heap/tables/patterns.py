"""The patterns of one topic exchange, as a trie over words (AMQP 0-9-1, section 3.1.3.3).

Words stand between dots. In a pattern `*` is one word, and `#` is any number of words. This module finds the bindings
whose pattern matches a routing key. It decides nothing about what may be bound.

A pattern is first put into a canonical form. In a run of wildcards the order does not matter, and `#` after `#` changes
nothing, so `#.*.#` becomes `*.#`. One publish walks all patterns together: for each word, it computes the nodes that
can be reached so far. It visits no node twice for one word, so there is no backtracking. The cost is at most
(words of the key + 1) x (nodes of the trie). The setting `routing_steps` bounds it further. The steps depend on the
bindings and the key alone, so every replica counts the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Target(Protocol):
    """What a binding leads to, as far as routing knows it: a topic."""

    number: int
    alive: bool


T = TypeVar("T", bound=Target)


class TooManySteps(Exception):
    """Matching the key would take more steps than one publish may take."""


class Node(Generic[T]):
    """A node of the trie. `any_words` is the child behind a `#`. It stays reached whatever words follow."""

    __slots__ = ("any_words", "bindings", "repeats", "star", "words")

    def __init__(self, repeats: bool = False) -> None:
        self.repeats = repeats
        self.words: dict[str, Node[T]] | None = None
        self.star: Node[T] | None = None
        self.any_words: Node[T] | None = None
        self.bindings: dict[tuple[str, int], tuple[int, T]] | None = None  # (pattern, topic) -> (order, topic)

    def is_unused(self) -> bool:
        """Whether the node has neither children nor bindings."""
        return not (self.words or self.star or self.any_words or self.bindings)

    def child(self, part: str) -> Node[T] | None:
        """The child for this part of a pattern, or None."""
        if part == "#":
            return self.any_words
        if part == "*":
            return self.star
        return self.words.get(part) if self.words else None

    def set_child(self, part: str, child: Node[T] | None) -> None:
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


class PatternIndex(Generic[T]):
    """The bindings of a topic exchange. `nodes` counts the nodes of the trie without the root."""

    __slots__ = ("_root", "nodes", "steps")

    def __init__(self) -> None:
        self._root: Node[T] = Node()
        self.nodes = self.steps = 0

    def add(self, key: str, topic: T, order: int, arguments: bytes = b"") -> None:
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

    def remove(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Removes a binding, and the nodes that no other binding needs. So the cost of a publish follows from the
        bindings that exist now."""
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

    def find(self, key: str, max_steps: int, headers: bytes = b"") -> tuple[T, ...]:
        """The topics whose pattern matches the key, in the order of their oldest binding. Raises `TooManySteps`."""
        reached = self.walk(split(key), max_steps)
        ends = [list(node.bindings.values()) for node in reached if node.bindings]
        self.steps += sum(map(len, ends))
        if len(ends) == 1:
            return unique(topic for _, topic in ends[0])
        bindings = sorted((one for end in ends for one in end), key=_order)
        return unique(topic for _, topic in bindings)

    def walk(self, words: list[str], max_steps: int) -> list[Node[T]]:
        """The nodes that are reached after all words. Raises `TooManySteps`."""
        reached: dict[Node[T], None] = {}
        _reach(reached, self._root)
        self.steps = 0
        for word in words:
            self.steps += len(reached)
            if self.steps > max_steps:
                raise TooManySteps
            following: dict[Node[T], None] = {}
            for node in reached:
                if node.repeats:
                    following[node] = None
                if node.star is not None:
                    _reach(following, node.star)
                if node.words is not None and word in node.words:
                    _reach(following, node.words[word])
            reached = following
        return list(reached)


def split(key: str) -> list[str]:
    """The words of a key. The empty key has none."""
    return key.split(".") if key else []


def canonical(parts: list[str]) -> list[str]:
    """The one form of all patterns that match the same keys. In each run of wildcards the `*` come first, and at most
    one `#` follows."""
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


def unique(topics: Iterable[T]) -> tuple[T, ...]:
    """Each topic that exists once, at its first place."""
    return tuple({topic.number: topic for topic in topics if topic.alive}.values())


def _reach(reached: dict[Node[T], None], node: Node[T]) -> None:
    """A `#` may stand for no word at all, so the node behind it is reached as well."""
    reached[node] = None
    if node.any_words is not None:
        reached[node.any_words] = None


def _order(binding: tuple[int, Target]) -> int:
    return binding[0]
