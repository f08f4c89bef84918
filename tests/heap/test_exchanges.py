"""Routing (AMQP 0-9-1, section 3.1.3): direct, topic, fanout, and the exchange without a name."""

from __future__ import annotations

from itertools import pairwise

import pytest

from disheap.errors import ExchangeMismatch, ExchangeNotFound, InvalidArgument, TopicInUse, TopicNotFound
from disheap.protocol import broker
from disheap.protocol.broker import (
    Bind,
    CreateExchange,
    CreateTopic,
    DeleteExchange,
    DeleteTopic,
    ListExchanges,
    NewMessage,
    Peek,
    Publish,
    Subscribe,
    Unbind,
)
from disheap_heap.commands.exchanges import MAX_ALTERNATES
from disheap_heap.state.routing import MAX_CACHED_KEYS, MAX_CACHED_TOPICS

from .driver import Driver


def routed(kind: str, *bindings: tuple[str, str]) -> Driver:
    """An exchange `e` with (topic, routing key) bound to it."""
    driver = Driver()
    driver.do(CreateExchange("e", kind))
    for topic, key in bindings:
        driver.do(CreateTopic(topic))
        driver.do(Bind("e", topic, key))
    return driver


def publish(driver: Driver, key: str, exchange: str = "e") -> list[str]:
    """Publishes with `key`. Returns the topics that got the message."""
    names = list(driver.machine._state.topics)
    before = [driver.info(name).ready for name in names]
    count = driver.do(Publish(exchange, key, NewMessage(b"x"))).routed
    reached = [name for name, old in zip(names, before, strict=True) if driver.info(name).ready > old]
    assert count == len(reached)
    return reached


def test_a_direct_exchange_routes_by_the_equal_key() -> None:
    driver = routed("direct", ("a", "red"), ("b", "red"), ("c", "blue"))
    assert publish(driver, "red") == ["a", "b"]
    assert publish(driver, "green") == []


def test_a_fanout_exchange_routes_to_every_topic() -> None:
    assert publish(routed("fanout", ("a", ""), ("b", "x")), "whatever") == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "key", "leads"),
    [
        ("worker.*", "worker.online", True),
        ("worker.*", "worker", False),
        ("worker.*", "worker.a.b", False),
        ("worker.#", "worker", True),
        ("worker.#", "worker.a.b", True),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("*", "", False),
        ("*", "a", True),
        ("", "", True),
        ("#.error", "error", True),
        ("#.error", "a.b.error", True),
        ("#.error", "a.error.b", False),
        ("a.#.b.*.c", "a.b.b.x.c", True),
        ("a.#.b.*.c", "a.b.c", False),
        ("#.#.*", "", False),
        ("a.*", "a.", True),
    ],
)
def test_a_topic_exchange_routes_by_words(pattern: str, key: str, leads: bool) -> None:
    assert publish(routed("topic", ("t", pattern)), key) == (["t"] if leads else [])


def test_a_topic_that_several_bindings_lead_to_gets_one_message() -> None:
    driver = routed("topic", ("t", "a.*"), ("t", "#"))
    assert driver.do(Publish("e", "a.b", NewMessage(b"x"))).routed == 1
    assert driver.info("t").ready == 1


def test_each_topic_gets_a_message_of_its_own() -> None:
    driver = routed("fanout", ("a", ""), ("b", ""))
    driver.do(Publish("e", "", NewMessage(b"x", 7)))
    ids = [driver.ask(Peek(name)).messages[0].id for name in ("a", "b")]
    assert ids == [1, 2]


def test_the_exchange_without_a_name_routes_to_the_topic_that_the_key_names() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    assert publish(driver, "jobs", exchange="") == ["jobs"]
    assert driver.do(Publish("", "nowhere", NewMessage(b"x"))).routed == 0


def test_a_published_message_is_delivered_to_a_waiting_consumer() -> None:
    driver = routed("direct", ("a", "k"))
    driver.do(Subscribe("a", 1), session=2)
    driver.do(Publish("e", "k", NewMessage(b"x", 3)))
    assert [(one.payload, one.priority) for one in driver.deliveries(2)] == [(b"x", 3)]


def test_a_message_without_a_route_is_dropped_unless_mandatory() -> None:
    driver = routed("fanout")
    assert driver.do(Publish("e", "k", NewMessage(b"x"))).routed == 0
    for exchange in ("e", ""):
        with pytest.raises(TopicNotFound):
            driver.do(Publish(exchange, "k", NewMessage(b"x"), mandatory=True))
    with pytest.raises(ExchangeNotFound, match="'nope'"):
        driver.do(Publish("nope", "k", NewMessage(b"x")))


def test_a_changed_binding_changes_the_next_publish() -> None:
    driver = routed("topic", ("a", "k"), ("b", "k"))
    assert publish(driver, "k") == ["a", "b"]
    driver.do(Unbind("e", "a", "k"))
    assert publish(driver, "k") == ["b"]
    driver.do(Bind("e", "a", "*"))
    assert publish(driver, "k") == ["a", "b"]
    driver.do(DeleteTopic("b"))
    assert publish(driver, "k") == ["a"]


def test_the_cache_of_routes_is_bounded_and_right() -> None:
    driver = routed("topic", ("a", "k.#"))
    for number in range(2 * MAX_CACHED_KEYS):
        driver.do(Publish("e", f"other.{number}", NewMessage(b"")))
    assert driver.machine._state.routes.size()[0] <= MAX_CACHED_KEYS
    assert publish(driver, "k.1") == ["a"]


def test_binding_and_unbinding_twice_is_the_same_as_once() -> None:
    driver = routed("direct", ("a", "k"))
    driver.do(Bind("e", "a", "k"))
    assert driver.machine.stats()["bindings"] == 1
    for _ in range(2):
        driver.do(Unbind("e", "a", "k"))
    assert driver.machine.stats()["bindings"] == 0


def test_an_auto_delete_exchange_goes_with_its_last_binding() -> None:
    driver = Driver()
    driver.do(CreateExchange("e", "fanout", auto_delete=True))
    for name in ("a", "b"):
        driver.do(CreateTopic(name))
        driver.do(Bind("e", name))
    driver.do(Unbind("e", "a"))
    assert driver.machine.stats()["exchanges"] == 1
    driver.do(DeleteTopic("b"))
    assert driver.machine.stats()["exchanges"] == 0


def test_deleting_an_exchange_removes_its_bindings() -> None:
    driver = routed("direct", ("a", "k"))
    with pytest.raises(TopicInUse):
        driver.do(DeleteExchange("e", if_unused=True))
    driver.do(DeleteExchange("e"))
    driver.do(DeleteExchange("e"))
    assert driver.machine.stats()["bindings"] == 0
    driver.do(DeleteTopic("a"))


def test_exchanges_and_bindings_are_listed() -> None:
    driver = routed("topic", ("a", "x.*"), ("b", "#"))
    driver.do(CreateExchange("f", "fanout"))
    infos = driver.ask(ListExchanges())
    bindings = [("e", "a", "x.*", b""), ("e", "b", "#", b"")]
    assert infos == broker.ExchangeInfos([("e", "topic"), ("f", "fanout")], bindings, 4)
    assert driver.ask(ListExchanges("f")) == broker.ExchangeInfos([("f", "fanout")], [], 1)


def test_a_transient_message_is_admitted_only_if_a_topic_would_get_it() -> None:
    driver = routed("topic", ("a", "x.*"))
    admits = driver.machine.admits
    assert admits(broker.encode(Publish("e", "x.1", NewMessage(b""))))
    assert admits(broker.encode(Publish("", "a", NewMessage(b""))))
    assert admits(broker.encode(broker.Enqueue("a", broker.NewMessage(b""))))
    assert admits(broker.encode(broker.Ack([(1, 1)])))
    assert not admits(broker.encode(Publish("e", "y", NewMessage(b""))))
    assert not admits(broker.encode(Publish("nope", "y", NewMessage(b""))))
    assert not admits(broker.encode(Publish("", "nope", NewMessage(b""))))
    assert not admits(broker.encode(broker.Enqueue("nope", broker.NewMessage(b""))))
    assert not admits(b"garbage")


# --- alternates ---


def with_alternates(*names: str) -> Driver:
    """Direct exchanges in a chain, each the alternate of the one before it; topic `t` is bound to the last by `k`."""
    driver = Driver()
    driver.do(CreateTopic("t"))
    for name, alternate in zip(names, [*names[1:], ""], strict=True):
        driver.do(CreateExchange(name, "direct", alternate=alternate))
    driver.do(Bind(names[-1], "t", "k"))
    return driver


def test_a_message_without_a_route_goes_to_the_alternate() -> None:
    driver = with_alternates("e", "f", "g")
    for one in (driver, driver.restored()):
        assert publish(one, "k") == ["t"]
        assert one.do(Publish("e", "other", NewMessage(b"x"))).routed == 0
        with pytest.raises(TopicNotFound):
            one.do(Publish("e", "other", NewMessage(b"x"), mandatory=True))


def test_a_message_with_a_route_does_not_go_to_the_alternate() -> None:
    driver = with_alternates("e", "f")
    driver.do(CreateTopic("here"))
    driver.do(Bind("e", "here", "k"))
    assert publish(driver, "k") == ["here"]


def test_a_missing_alternate_is_an_error_when_a_message_needs_it() -> None:
    driver = routed("direct", ("t", "k"))
    driver.do(CreateExchange("f", "direct", alternate="none"))
    driver.do(Bind("f", "t", "k"))
    assert publish(driver, "k", "f") == ["t"]
    with pytest.raises(ExchangeNotFound, match="'none', the alternate of exchange 'f'"):
        driver.do(Publish("f", "other", NewMessage(b"x")))
    assert not driver.machine.admits(broker.encode(Publish("f", "other", NewMessage(b"x"))))


@pytest.mark.parametrize("names", [("e", "e"), ("e", "f", "e"), ("e", "f", "g", "f")])
def test_a_loop_of_alternates_is_an_error(names: tuple[str, ...]) -> None:
    driver = Driver()
    for name, alternate in pairwise(names):
        driver.do(CreateExchange(name, "direct", alternate=alternate))
    with pytest.raises(InvalidArgument, match=" -> ".join(names)):
        driver.do(Publish("e", "k", NewMessage(b"x")))


def test_a_chain_of_alternates_is_bounded() -> None:
    names = [f"e{number}" for number in range(MAX_ALTERNATES + 1)]
    assert publish(with_alternates(*names), "k", "e0") == ["t"]
    with pytest.raises(InvalidArgument, match="have no end"):
        with_alternates(*names, "last").do(Publish("e0", "k", NewMessage(b"x")))


def test_another_alternate_is_another_exchange() -> None:
    driver = with_alternates("e", "f")
    driver.do(CreateExchange("e", "direct", alternate="f"))
    with pytest.raises(ExchangeMismatch, match="alternate 'f'"):
        driver.do(CreateExchange("e", "direct"))


# --- bounds ---


def test_all_exchanges_share_one_cache_of_routes() -> None:
    driver = Driver()
    for number in range(50):
        driver.do(CreateExchange(f"e{number}"))
        for key in range(MAX_CACHED_KEYS // 40):
            driver.do(Publish(f"e{number}", f"k{key}", NewMessage(b"")))
        assert driver.machine._state.routes.size()[0] <= MAX_CACHED_KEYS


def test_the_topics_of_cached_routes_are_bounded() -> None:
    driver = routed("topic", *((f"t{number}", "#") for number in range(300)))
    for number in range(MAX_CACHED_TOPICS // 300 + 5):
        driver.do(Publish("e", f"k.{number}", NewMessage(b"")))
        keys, topics = driver.machine._state.routes.size()
        assert topics == 300 * keys <= MAX_CACHED_TOPICS


@pytest.mark.parametrize(("setting", "pattern"), [("pattern_words", "a.b.#.*"), ("pattern_bytes", "äää")])
def test_a_pattern_is_bounded_in_words_and_bytes(setting: str, pattern: str) -> None:
    driver = Driver(pattern_words=3, pattern_bytes=5)
    driver.do(CreateTopic("t"))
    driver.do(CreateExchange("e", "topic"))
    driver.do(CreateExchange("direct"))
    driver.do(Bind("direct", "t", pattern))
    with pytest.raises(InvalidArgument, match=setting):
        driver.do(Bind("e", "t", pattern))


def test_the_nodes_of_all_patterns_are_bounded_and_come_back() -> None:
    driver = Driver(pattern_nodes=6)
    driver.do(CreateTopic("t"))
    for name in ("e", "f"):
        driver.do(CreateExchange(name, "topic"))
        driver.do(Bind(name, "t", "a.b.c"))
    for command in (Unbind("f", "t", "a.b.c"), DeleteExchange("e")):
        with pytest.raises(InvalidArgument, match="pattern_nodes"):
            driver.do(Bind("f", "t", "d"))
        driver.do(command)
        driver.do(CreateExchange("e", "topic"))
        driver.do(Bind("f", "t", "a.b.c"))
    driver.do(Bind("f", "t", "d.e.f"))
    assert driver.machine._state.pattern_nodes == driver.restored().machine._state.pattern_nodes == 6


def test_a_key_that_would_cost_too_many_steps_is_refused() -> None:
    driver = Driver(routing_steps=1000)
    driver.do(CreateTopic("t"))
    driver.do(CreateExchange("e", "topic"))
    for number in range(64):
        places = ["a" if number >> place & 1 else "*" for place in range(6)]
        driver.do(Bind("e", "t", ".".join(["#", *places, "a", "#", "b"])))
    for one in (driver, driver.restored()):
        with pytest.raises(InvalidArgument, match="routing_steps"):
            one.do(Publish("e", ".".join(["a"] * 100), NewMessage(b"x")))
        assert one.do(Publish("e", "a.a.a.a.a.a.a.b", NewMessage(b"x"))).routed == 1


def test_a_deleted_exchange_is_freed_in_slices() -> None:
    driver = routed("topic", *((f"t{number}", f"a.{number}.#") for number in range(20)))
    driver.do(DeleteExchange("e"))
    state = driver.machine._state
    assert (state.bindings, state.pattern_nodes) == (0, 0)
    driver.do(CreateExchange("e", "topic"))
    driver.do(Bind("e", "t3", "a.#"))
    driver.do(DeleteTopic("t4"))
    assert driver.work_off(5) >= 4
    assert [list(topic.bindings.values()) for topic in state.topics.values() if topic.bindings] == [[None]]
    assert publish(driver, "a.b") == ["t3"]
