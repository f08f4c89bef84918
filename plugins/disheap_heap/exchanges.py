"""Exchanges and bindings: into which topics a published message goes (AMQP 0-9-1, section 3.1.3).

Kinds: `direct` (the key is equal), `topic` (words between dots; `*` is one word, `#` any number of them) and `fanout`
(always). The exchange "" is there from the start and routes to the topic that the key names. A topic that
several bindings lead to gets one message. What a key leads to is remembered, until a binding changes; that memory is
not state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.errors import ExchangeMismatch, ExchangeNotFound, InvalidArgument, TopicInUse
from disheap.protocol.broker import EXCHANGE_KINDS, NAME_CHARACTERS, Bind, CreateExchange, DeleteExchange, Unbind
from disheap_heap.checks import check_name, find_topic, no_room, require_access
from disheap_heap.words import DONE

if TYPE_CHECKING:
    from disheap_heap.state import State, Topic

ROUTES_REMEMBERED = 1024
"""Keys per exchange; then the memory starts afresh. Task queues use a handful."""


class Exchange:
    __slots__ = ("_routes", "auto_delete", "bindings", "kind", "name")

    def __init__(self, name: str, kind: str, auto_delete: bool) -> None:
        self.name = name
        self.kind = kind
        self.auto_delete = auto_delete
        self.bindings: dict[tuple[str, str], Topic] = {}  # (routing key, topic's name)
        self._routes: dict[str, tuple[Topic, ...]] = {}

    def route(self, key: str) -> tuple[Topic, ...]:
        """The topics that `key` leads to, in the order in which they were bound."""
        topics = self._routes.get(key)
        if topics is None:
            if len(self._routes) >= ROUTES_REMEMBERED:
                self._routes.clear()
            topics = self._routes[key] = self._find(key)
        return topics

    def change(self, key: str, name: str, topic: Topic | None) -> None:
        """Bind, or with None unbind."""
        self._routes.clear()
        if topic is None:
            del self.bindings[key, name]
        else:
            self.bindings[key, name] = topic

    def _find(self, key: str) -> tuple[Topic, ...]:
        words = split(key)
        found: dict[str, Topic] = {}
        for (pattern, name), topic in self.bindings.items():
            if name not in found and self._leads(pattern, key, words):
                found[name] = topic
        return tuple(found.values())

    def _leads(self, pattern: str, key: str, words: list[str]) -> bool:
        if self.kind == "fanout":
            return True
        if self.kind == "direct":
            return pattern == key
        return matches(split(pattern), words)


def split(key: str) -> list[str]:
    return key.split(".") if key else []


def matches(pattern: list[str], words: list[str]) -> bool:
    """Walk the words once and keep every place in the pattern that can have been reached: no backtracking, so that a
    pattern of many `#` costs no more than its length times the key's."""
    reached = _skip(pattern, [True] + [False] * len(pattern))
    for word in words:
        following = [False] * len(reached)
        for place, part in enumerate(pattern):
            if reached[place]:
                if part == "#":
                    following[place] = True
                elif part in ("*", word):
                    following[place + 1] = True
        reached = _skip(pattern, following)
    return reached[-1]


def _skip(pattern: list[str], reached: list[bool]) -> list[bool]:
    """A `#` may stand for no word at all."""
    for place, part in enumerate(pattern):
        if part == "#" and reached[place]:
            reached[place + 1] = True
    return reached


def create_exchange(state: State, session: int, command: CreateExchange) -> bytes:
    check_name("exchange", command.exchange)
    if command.kind not in EXCHANGE_KINDS:
        raise InvalidArgument(f"an exchange is one of {', '.join(EXCHANGE_KINDS)}, not {command.kind!r}")
    exchange = state.exchanges.get(command.exchange)
    if exchange is None:
        if len(state.exchanges) >= state.settings.exchanges:
            raise no_room("exchanges", len(state.exchanges))
        state.exchanges[command.exchange] = Exchange(command.exchange, command.kind, command.auto_delete)
    elif (exchange.kind, exchange.auto_delete) != (command.kind, command.auto_delete):
        raise ExchangeMismatch(
            f"exchange {exchange.name!r} exists as {exchange.kind}, auto_delete {exchange.auto_delete}; "
            "use those, or delete the exchange first"
        )
    return DONE


def delete_exchange(state: State, session: int, command: DeleteExchange) -> bytes:
    exchange = state.exchanges.get(command.exchange)
    if exchange is None:
        return DONE
    if command.if_unused and exchange.bindings:
        raise TopicInUse(f"exchange {exchange.name!r} has {len(exchange.bindings)} bindings; unbind those first")
    del state.exchanges[exchange.name]
    state.bindings -= len(exchange.bindings)
    for (key, _), topic in exchange.bindings.items():
        del topic.bindings[exchange.name, key]
    return DONE


def bind(state: State, session: int, command: Bind) -> bytes:
    exchange, topic = find_exchange(state, command.exchange), find_topic(state, command.topic)
    require_access(topic, session)
    check_key(command.routing_key)
    if (command.routing_key, topic.name) not in exchange.bindings:
        if state.bindings >= state.settings.bindings:
            raise no_room("bindings", state.bindings)
        state.bindings += 1
        exchange.change(command.routing_key, topic.name, topic)
        topic.bindings[exchange.name, command.routing_key] = None
    return DONE


def unbind(state: State, session: int, command: Unbind) -> bytes:
    exchange, topic = find_exchange(state, command.exchange), find_topic(state, command.topic)
    require_access(topic, session)
    if (command.routing_key, topic.name) in exchange.bindings:
        _unbind(state, exchange, topic, command.routing_key)
    return DONE


def unbind_all(state: State, topic: Topic) -> None:
    for name, key in list(topic.bindings):
        _unbind(state, state.exchanges[name], topic, key)


def _unbind(state: State, exchange: Exchange, topic: Topic, key: str) -> None:
    exchange.change(key, topic.name, None)
    del topic.bindings[exchange.name, key]
    state.bindings -= 1
    if exchange.auto_delete and not exchange.bindings:
        del state.exchanges[exchange.name]


def find_exchange(state: State, name: str) -> Exchange:
    exchange = state.exchanges.get(name)
    if exchange is None:
        if not name:
            raise InvalidArgument("the exchange '' routes to the topic that the key names; it takes no bindings")
        raise ExchangeNotFound(f"there is no exchange {name!r}; create it first")
    return exchange


def check_key(key: str) -> None:
    if len(key) > NAME_CHARACTERS:
        raise InvalidArgument(f"a routing key has at most {NAME_CHARACTERS} characters, not {len(key)}")
