"""Commands on exchanges and bindings, and the way of a published message to its topics (AMQP 0-9-1, section 3.1.3).

There are four kinds of exchange. `direct` matches an equal key. `topic` matches words between dots, where `*` is one
word and `#` is any number of words. `fanout` matches every key. `headers` matches the headers of the message with the
arguments of a binding, whatever the key is. The exchange "" always exists and routes to the topic that the key names. A
topic to which several bindings lead gets one message. Routes are cached until a binding changes
(`routing.RouteCache`), except those by headers: few messages have equal ones.

A message that matches no binding goes to the alternate of the exchange with the same key, and from there to the next
alternate. If the chain of alternates is too long or has a loop, the publish is refused, since the message would be
lost.
"""

from __future__ import annotations

from disheap.errors import ExchangeMismatch, ExchangeNotFound, InvalidArgument, TopicInUse
from disheap.protocol.broker import (
    EXCHANGE_KINDS,
    NAME_CHARACTERS,
    Bind,
    CreateExchange,
    DeleteExchange,
    Unbind,
    count_headers,
    decode_arguments,
    encode_arguments,
)
from disheap_heap.commands.checks import check_name, find_topic, limit_reached, require_access
from disheap_heap.encoding import DONE
from disheap_heap.settings import STEPS_PER_UNIT, WORDS_PER_UNIT
from disheap_heap.state.routing import Exchange
from disheap_heap.state.state import Session, State, Topic
from disheap_heap.tables.conditions import conditions_of
from disheap_heap.tables.patterns import split

COUNTED = f" (one counts once more for each {WORDS_PER_UNIT} words of its pattern or arguments)"
MAX_ALTERNATES = 4
"""Alternates that one publish tries, each at the cost of `routing_steps`. People use one or two."""


def find_topics(state: State, name: str, key: str, headers: bytes) -> tuple[Topic, ...]:
    """The topics for a message with these encoded headers that is published to exchange `name` with `key`, alternates
    included. Raises `ExchangeNotFound`, `InvalidArgument` and `InvalidHeaders`."""
    if not name:
        topic = state.topics.get(key)
        return () if topic is None else (topic,)
    check_key(key)
    exchange = find_exchange(state, name)
    topics = _route(state, exchange, key, headers)
    if topics or not exchange.alternate:
        return topics
    tried = [exchange.name]
    while not topics and exchange.alternate:
        exchange = _alternate(state, exchange, tried)
        tried.append(exchange.name)
        topics = _route(state, exchange, key, headers)
    return topics


def _route(state: State, exchange: Exchange[Topic], key: str, headers: bytes) -> tuple[Topic, ...]:
    """The topics for a message, from the cache or from the index. Counts the work, even if it takes too many steps."""
    topics = state.routes.find(exchange, key)
    if topics is None:
        try:
            topics = exchange.route(key, state.settings.routing_steps, headers)
        finally:
            state.units += 1 + exchange.index.steps // STEPS_PER_UNIT
        if exchange.kind != "headers":
            state.routes.store(exchange, key, topics)
    return topics


def _alternate(state: State, exchange: Exchange[Topic], tried: list[str]) -> Exchange[Topic]:
    name = exchange.alternate
    if name in tried or len(tried) > MAX_ALTERNATES:
        chain = " -> ".join([*tried, name])
        raise InvalidArgument(
            f"the message leads nowhere, and the alternates of exchange {tried[0]!r} have no end: {chain}. "
            f"A chain has at most {MAX_ALTERNATES} alternates and comes back to none; bind a topic to one"
        )
    found = state.exchanges.get(name)
    if found is None:
        raise ExchangeNotFound(
            f"the message leads nowhere, and {name!r}, the alternate of exchange {exchange.name!r}, is not there; "
            "create it first"
        )
    return found


def create_exchange(state: State, session: int, command: CreateExchange) -> bytes:
    """Creates an exchange. Refuses other settings for one that exists."""
    check_name("exchange", command.exchange)
    if command.kind not in EXCHANGE_KINDS:
        raise InvalidArgument(f"an exchange is one of {', '.join(EXCHANGE_KINDS)}, not {command.kind!r}")
    if command.alternate:
        check_name("exchange", command.alternate)
        check_key(command.alternate)
    exchange = state.exchanges.get(command.exchange)
    wanted = (command.kind, command.auto_delete, command.alternate)
    if exchange is None:
        if len(state.exchanges) >= state.settings.exchanges:
            raise limit_reached("exchanges", len(state.exchanges))
        state.exchanges[command.exchange] = Exchange(command.exchange, *wanted)
    elif (exchange.kind, exchange.auto_delete, exchange.alternate) != wanted:
        raise ExchangeMismatch(
            f"exchange {exchange.name!r} exists as {exchange.kind}, auto_delete {exchange.auto_delete}, "
            f"alternate {exchange.alternate!r}; use those, or delete the exchange first"
        )
    return DONE


def delete_exchange(state: State, session: int, command: DeleteExchange) -> bytes:
    """Deletes an exchange with its bindings."""
    exchange = state.exchanges.get(command.exchange)
    if exchange is None:
        return DONE
    if command.if_unused and exchange.bindings:
        raise TopicInUse(f"exchange {exchange.name!r} has {len(exchange.bindings)} bindings; unbind those first")
    _delete(state, exchange)
    return DONE


def bind(state: State, session: int, command: Bind) -> bytes:
    """Adds a binding, unless it exists."""
    exchange, topic = find_exchange(state, command.exchange), find_topic(state, command.topic)
    require_access(topic, session)
    check_key(command.routing_key)
    arguments = _checked_arguments(exchange, command.arguments)
    if (command.routing_key, topic.number, arguments) not in exchange.bindings:
        if exchange.kind == "topic":
            _check_pattern(state, command.routing_key)
        elif exchange.kind == "headers":
            _check_nodes(state, len(conditions_of(arguments)[0]))
        if state.bindings >= state.settings.bindings:
            raise limit_reached("bindings", state.bindings)
        units = binding_units(command.routing_key, arguments)
        if topic.binding_units + units > state.settings.topic_bindings:
            raise limit_reached("topic_bindings", topic.binding_units, f"bindings of topic {topic.name!r}{COUNTED}")
        if topic.owner is not None:
            check_bindings_of_owner(state, topic.owner, units)
        add_binding(state, exchange, command.routing_key, topic, arguments)
    return DONE


def check_bindings_of_owner(state: State, owner: Session, more: int) -> None:
    """Raises `InvalidArgument` if the owner may not have `more` bindings. All exclusive topics of a session together
    may have as many as one topic, because they are deleted together."""
    count = sum(topic.binding_units for topic in owner.owned.values())
    if count + more > state.settings.topic_bindings:
        called = f"bindings of the exclusive topics of session {owner.number}{COUNTED}"
        raise limit_reached("topic_bindings", count, called)


def unbind(state: State, session: int, command: Unbind) -> bytes:
    """Removes a binding, if it exists."""
    exchange, topic = find_exchange(state, command.exchange), find_topic(state, command.topic)
    require_access(topic, session)
    arguments = _checked_arguments(exchange, command.arguments)
    if (command.routing_key, topic.number, arguments) in exchange.bindings:
        remove_binding(state, exchange, command.routing_key, topic, arguments)
    return DONE


def add_binding(state: State, exchange: Exchange[Topic], key: str, topic: Topic, arguments: bytes) -> None:
    """Adds a binding to exchange and topic. Empties the cache of routes."""
    units = binding_units(key, arguments)
    state.units += units
    topic.binding_units += units
    before = exchange.index.nodes
    state.routes.clear()
    exchange.add(key, topic, arguments)
    topic.bindings[exchange, key, arguments] = None
    state.bindings += 1
    state.argument_bytes += len(arguments)
    state.pattern_nodes += exchange.index.nodes - before


def remove_binding(state: State, exchange: Exchange[Topic], key: str, topic: Topic, arguments: bytes) -> None:
    """Removes a binding from exchange and topic. The bindings of a deleted exchange are no longer counted."""
    units = binding_units(key, arguments)
    state.units += units
    topic.binding_units -= units
    before = exchange.index.nodes
    exchange.remove(key, topic, arguments)
    del topic.bindings[exchange, key, arguments]
    if exchange.alive:
        state.routes.clear()
        state.bindings -= 1
        state.argument_bytes -= len(arguments)
        state.pattern_nodes -= before - exchange.index.nodes
        if exchange.auto_delete and not exchange.bindings:
            _delete(state, exchange)


def binding_units(key: str, arguments: bytes) -> int:
    """The units of work of adding or removing a binding. As many does it count of the bindings of its topic."""
    words = key.count(".") if not arguments else count_headers(arguments)
    return 1 + words // WORDS_PER_UNIT


def _delete(state: State, exchange: Exchange[Topic]) -> None:
    """Deletes the exchange at once. The memory of its bindings is freed later."""
    del state.exchanges[exchange.name]
    exchange.alive = False
    state.routes.clear()
    state.bindings -= len(exchange.bindings)
    state.pattern_nodes -= exchange.index.nodes
    state.argument_bytes -= exchange.argument_bytes
    if exchange.bindings:
        state.unfreed.append(exchange)


def find_exchange(state: State, name: str) -> Exchange[Topic]:
    """The exchange with this name. Raises `ExchangeNotFound`, or `InvalidArgument` for the exchange `""`."""
    exchange = state.exchanges.get(name)
    if exchange is None:
        if not name:
            raise InvalidArgument("the exchange '' routes to the topic that the key names; it takes no bindings")
        raise ExchangeNotFound(f"there is no exchange {name!r}; create it first")
    return exchange


def check_key(key: str) -> None:
    """Raises `InvalidArgument` for a routing key that is too long."""
    if len(key) > NAME_CHARACTERS:
        raise InvalidArgument(f"a routing key has at most {NAME_CHARACTERS} characters, not {len(key)}")


def _check_pattern(state: State, pattern: str) -> None:
    """Raises `InvalidArgument` if the pattern is too long, or the tries have no room for its nodes."""
    settings = state.settings
    words, size = len(split(pattern)), len(pattern.encode())
    if words > settings.pattern_words or size > settings.pattern_bytes:
        raise InvalidArgument(
            f"a pattern has at most {settings.pattern_words} words and {settings.pattern_bytes} bytes (`pattern_words` "
            f"and `pattern_bytes` in [machine.heap]), not {words} words and {size} bytes"
        )
    _check_nodes(state, words)


def _check_nodes(state: State, more: int) -> None:
    if state.pattern_nodes + more > state.settings.pattern_nodes:
        raise limit_reached("pattern_nodes", state.pattern_nodes)


def _checked_arguments(exchange: Exchange[Topic], given: bytes) -> bytes:
    """The canonical bytes of the arguments of a binding. Raises `InvalidArgument`."""
    if given and exchange.kind != "headers":
        raise InvalidArgument(
            f"exchange {exchange.name!r} is of the kind {exchange.kind}, whose bindings have no arguments; only those "
            "of a headers exchange have"
        )
    return encode_arguments(decode_arguments(given))
