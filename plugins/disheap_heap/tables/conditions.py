"""Finds the bindings of a headers exchange that match the headers of a message (AMQP 0-9-1, section 3.1.3.4).

Each argument of a binding is a condition: a header of this name has this value, or just exists. Values of different
types are different: 1 is neither 1.0 nor "1" nor true. Arguments whose names begin with `x-` count only with
`x-match` all-with-x or any-with-x.

The bindings that want all conditions are in a trie over conditions, in the order of their names. The walk goes through
the headers in the same order. It enters a node only if the message meets all conditions on the way to it. So thousands
of bindings that share some conditions and differ in another cost what one of them costs. The bindings that want any
condition are listed under each of theirs. `routing_steps` bounds the steps, which depend on the bindings and the
headers alone. So every replica counts the same.
"""

from __future__ import annotations

from typing import Any, Generic

from disheap.protocol.broker import RESERVED, X_MATCH, HeaderValue, decode_arguments, decode_headers
from disheap_heap.tables.patterns import T, TooManySteps, unique

Condition = tuple[str, type, Any]
"""The name of a header, and the type and the value that it has to have. None twice: it has to exist."""
Place = tuple[str, bytes, int]
"""A binding among the others: its routing key, its arguments, the number of its topic."""
Found = tuple[int, T]

EXISTS = (type(None), None)


class Node(Generic[T]):
    """A node of the trie: the bindings whose conditions end here, and the nodes behind one condition more."""

    __slots__ = ("bindings", "children")

    def __init__(self) -> None:
        self.children: dict[Condition, Node[T]] = {}
        self.bindings: dict[Place, Found[T]] = {}


class ConditionIndex(Generic[T]):
    """The bindings of a headers exchange. `nodes` counts the nodes of the trie without the root, and the places in the
    lists of those that want any condition."""

    __slots__ = ("_any", "_root", "nodes", "steps")

    def __init__(self) -> None:
        self._root: Node[T] = Node()
        self._any: dict[Condition, dict[Place, Found[T]]] = {}
        self.nodes = self.steps = 0

    def add(self, key: str, topic: T, order: int, arguments: bytes = b"") -> None:
        """Adds a binding with these arguments."""
        conditions, is_any = conditions_of(arguments)
        place = (key, arguments, topic.number)
        if is_any:
            for condition in conditions:
                self._any.setdefault(condition, {})[place] = (order, topic)
            self.nodes += len(conditions)
            return
        node = self._root
        for condition in conditions:
            child = node.children.get(condition)
            if child is None:
                child = node.children[condition] = Node()
                self.nodes += 1
            node = child
        node.bindings[place] = (order, topic)

    def remove(self, key: str, topic: T, arguments: bytes = b"") -> None:
        """Removes a binding, and the nodes that no other binding needs."""
        conditions, is_any = conditions_of(arguments)
        place = (key, arguments, topic.number)
        if is_any:
            for condition in conditions:
                places = self._any[condition]
                del places[place]
                if not places:
                    del self._any[condition]
            self.nodes -= len(conditions)
            return
        path = [self._root]
        for condition in conditions:
            path.append(path[-1].children[condition])
        del path[-1].bindings[place]
        while conditions and not path[-1].children and not path[-1].bindings:
            path.pop()
            del path[-1].children[conditions.pop()]
            self.nodes -= 1

    def find(self, key: str, max_steps: int, headers: bytes = b"") -> tuple[T, ...]:
        """The topics whose binding matches the headers, in the order of their oldest binding. Raises `TooManySteps`,
        and `InvalidHeaders` for bytes that are none."""
        self.steps = 0
        offered = [(name, *kinds_of(value)) for name, value in sorted(decode_headers(headers).items())]
        self.steps = len(offered)
        found: list[Found[T]] = []
        for name, value, existing in offered:
            for kind in (value, existing):
                places = self._any.get((name, *kind))
                if places:
                    self._take_steps(len(places), max_steps)
                    found += places.values()
        reached: list[tuple[Node[T], int]] = [(self._root, 0)]
        while reached:
            node, start = reached.pop()
            self._take_steps(len(node.bindings), max_steps)
            found += node.bindings.values()
            if not node.children:
                continue
            self._take_steps(len(offered) - start, max_steps)
            for place in range(start, len(offered)):
                name, value, existing = offered[place]
                for kind in (value, existing):
                    child = node.children.get((name, *kind))
                    if child is not None:
                        reached.append((child, place + 1))
        found.sort(key=_order)
        return unique(topic for _, topic in found)

    def _take_steps(self, count: int, max_steps: int) -> None:
        self.steps += count
        if self.steps > max_steps:
            raise TooManySteps


def kinds_of(value: HeaderValue) -> tuple[tuple[type, Any], tuple[type, Any]]:
    """What a header with this value meets: conditions on its value, and on its existence."""
    return (type(value), value), EXISTS


def conditions_of(arguments: bytes) -> tuple[list[Condition], bool]:
    """The conditions of a binding in the order of their names, and whether any of them is enough."""
    named = decode_arguments(arguments)
    match = str(named.pop(X_MATCH, "all"))
    with_reserved = match.endswith("-with-x")
    conditions = [
        (name, type(value), value)
        for name, value in sorted(named.items())
        if with_reserved or not name.startswith(RESERVED)
    ]
    return conditions, match.startswith("any")


def _order(found: tuple[int, Any]) -> int:
    return found[0]
