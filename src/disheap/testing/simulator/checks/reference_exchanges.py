"""The exchanges of the heap machine, as a plain reference: who is bound where, and where a message goes.

Written by the definition: every binding is looked at for every message. Topics are those of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from disheap.protocol import broker
from disheap.testing.heap_records import ModelTopic


class Refused(Exception):
    """A command was refused with this code. It has changed nothing."""


class Binding(NamedTuple):
    """A binding: the key, the topic to which it routes, and the arguments for a headers exchange, by their names."""

    key: str
    topic: ModelTopic
    arguments: tuple[tuple[str, Any], ...] = ()

    def is_for(self, command: broker.Bind | broker.Unbind, topic: ModelTopic) -> bool:
        """Whether the command names this binding."""
        mine = (self.key, broker.encode_arguments(dict(self.arguments)))
        return self.topic is topic and mine == (command.routing_key, command.arguments)


class ReferenceExchange:
    """An exchange with its bindings, the oldest first."""

    def __init__(self, kind: str, auto_delete: bool, alternate: str) -> None:
        self.kind = kind
        self.auto_delete = auto_delete
        self.alternate = alternate
        self.bindings: list[Binding] = []

    def matches(self, binding: Binding, key: str, headers: Mapping[str, Any]) -> bool:
        """Whether a binding routes a message with this key and these headers."""
        pattern = binding.key
        if self.kind == "fanout":
            return True
        if self.kind == "direct":
            return pattern == key
        if self.kind == "headers":
            return _meets(dict(binding.arguments), headers)
        return _matches(pattern.split(".") if pattern else [], key.split(".") if key else [])


class ReferenceExchanges:
    """`topic` finds a topic by its name. `seen` counts the rarer ways that were taken."""

    def __init__(self, topic: Callable[[str], ModelTopic | None], seen: Counter[str]) -> None:
        self.by_name: dict[str, ReferenceExchange] = {}
        self._topic = topic
        self._seen = seen

    def remove_deleted_topics(self) -> None:
        """Removes the bindings of deleted topics, and `auto_delete` exchanges without bindings."""
        for name, known in list(self.by_name.items()):
            left = [binding for binding in known.bindings if binding.topic.alive]
            if known.auto_delete and known.bindings and not left:
                del self.by_name[name]
            known.bindings = left

    def _known(self, name: str) -> ReferenceExchange:
        known = self.by_name.get(name)
        if known is None:
            raise Refused("exchange-not-found" if name else "invalid-argument")
        return known

    def routed(self, exchange: str, key: str, headers: Mapping[str, Any]) -> list[ModelTopic]:
        """The topics that a message with this key and these headers goes to. Raises `Refused`."""
        if not exchange:
            topic = self._topic(key)
            return [] if topic is None else [topic]
        found: dict[int, ModelTopic] = {}
        tried: list[str] = []
        while not found and exchange:
            if exchange in tried:
                raise Refused("invalid-argument")
            tried.append(exchange)
            known = self._known(exchange)
            leading = [binding for binding in known.bindings if known.matches(binding, key, headers)]
            found.update((id(binding.topic), binding.topic) for binding in leading)
            self._seen["long pattern"] += known.kind == "topic" and any("#." in one.key for one in leading)
            self._seen["matching headers"] += known.kind == "headers" and any(one.arguments for one in leading)
            self._seen["alternate"] += bool(found) and len(tried) > 1
            exchange = known.alternate
        return list(found.values())

    def create(self, command: broker.CreateExchange) -> broker.Reply:
        """Creates an exchange, or says that it is there. Raises `Refused`."""
        known = self.by_name.get(command.exchange)
        if known is None:
            self.by_name[command.exchange] = ReferenceExchange(command.kind, command.auto_delete, command.alternate)
        elif (known.kind, known.auto_delete, known.alternate) != (
            command.kind, command.auto_delete, command.alternate,
        ):  # fmt: skip
            raise Refused("exchange-mismatch")
        return broker.Done()

    def delete(self, command: broker.DeleteExchange) -> broker.Reply:
        """Deletes an exchange with its bindings. Raises `Refused`."""
        known = self.by_name.get(command.exchange)
        if known is not None and known.bindings and command.if_unused:
            raise Refused("topic-in-use")
        self.by_name.pop(command.exchange, None)
        return broker.Done()

    def bind(self, command: broker.Bind, find_topic: Callable[[], ModelTopic]) -> broker.Reply:
        """Routes messages with a key to a topic. `find_topic` may refuse, after the exchange was found."""
        known, topic = self._known(command.exchange), find_topic()
        if command.arguments and known.kind != "headers":
            raise Refused("invalid-argument")
        if not any(one.is_for(command, topic) for one in known.bindings):
            arguments = tuple(sorted(broker.decode_arguments(command.arguments).items()))
            known.bindings.append(Binding(command.routing_key, topic, arguments))
        return broker.Done()

    def unbind(self, command: broker.Unbind, find_topic: Callable[[], ModelTopic]) -> broker.Reply:
        """Removes a binding, if it is there. `find_topic` may refuse, after the exchange was found."""
        known, topic = self._known(command.exchange), find_topic()
        if command.arguments and known.kind != "headers":
            raise Refused("invalid-argument")
        left = [one for one in known.bindings if not one.is_for(command, topic)]
        if len(left) < len(known.bindings) and known.auto_delete and not left:
            del self.by_name[command.exchange]
        known.bindings = left
        return broker.Done()

    def list(self, query: broker.ListExchanges) -> broker.Reply:
        """A page of exchanges and bindings. Raises `Refused`."""
        chosen = [*self.by_name.items()]
        if query.exchange:
            chosen = [(query.exchange, self._known(query.exchange))]
        rows: list[tuple[str, str] | tuple[str, str, str, bytes]] = []
        for name, known in chosen:
            rows.append((name, known.kind))
            for one in known.bindings:
                rows.append((name, one.topic.name, one.key, broker.encode_arguments(dict(one.arguments))))
        page = rows[query.skip : query.skip + query.limit]
        told = {row[0] for row in page if len(row) == 2}
        return broker.ExchangeInfos(
            [row for row in page if len(row) == 2],
            [row for row in page if len(row) == 4],
            len(rows),
            {name: known.alternate for name, known in chosen if known.alternate and name in told},
        )


def _meets(arguments: dict[str, Any], headers: Mapping[str, Any]) -> bool:
    """By the definition. A value of another type is another value; None asks for the name alone."""
    match = arguments.pop("x-match", "all")
    met = [
        name in headers and (wanted is None or (type(wanted), wanted) == (type(headers[name]), headers[name]))
        for name, wanted in arguments.items()
        if match.endswith("-with-x") or not name.startswith("x-")
    ]
    return all(met) if match in ("all", "all-with-x") else any(met)


def _matches(pattern: list[str], words: list[str]) -> bool:
    """By the definition: `*` is one word, `#` any number of them. `ends`: how many words the parts so far may match. So
    a long pattern takes no more steps than parts times words."""
    ends = {0}
    for part in pattern:
        if part == "#":
            ends = set(range(min(ends), len(words) + 1)) if ends else set()
        else:
            ends = {end + 1 for end in ends if end < len(words) and part in ("*", words[end])}
    return len(words) in ends
