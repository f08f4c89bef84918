"""Routing (AMQP 0-9-1, section 3.1.3): direct, topic, fanout, and the exchange without a name."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap.errors import ExchangeNotFound, TopicInUse, TopicNotFound
from disheap.protocol import broker
from disheap.protocol.broker import (
    Bind,
    CreateExchange,
    CreateTopic,
    DeleteExchange,
    DeleteTopic,
    ListExchanges,
    Peek,
    Publish,
    Subscribe,
    Unbind,
)
from disheap_heap.exchanges import ROUTES_REMEMBERED, matches

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
    """Publish under `key`; returns the topics that got the message."""
    names = list(driver.machine._state.topics)
    before = [driver.info(name).ready for name in names]
    count = driver.do(Publish(exchange, key, b"x")).routed
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


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=7), st.lists(st.sampled_from(["a", "b", "c"]), max_size=7)
)
def test_matching_agrees_with_its_definition(pattern: list[str], words: list[str]) -> None:
    @cache
    def defined(p: int, w: int) -> bool:
        if p == len(pattern):
            return w == len(words)
        if pattern[p] == "#":
            return any(defined(p + 1, rest) for rest in range(w, len(words) + 1))
        return w < len(words) and pattern[p] in ("*", words[w]) and defined(p + 1, w + 1)

    assert matches(pattern, words) == defined(0, 0)


def test_a_topic_that_several_bindings_lead_to_gets_one_message() -> None:
    driver = routed("topic", ("t", "a.*"), ("t", "#"))
    assert driver.do(Publish("e", "a.b", b"x")).routed == 1
    assert driver.info("t").ready == 1


def test_each_topic_gets_a_message_of_its_own() -> None:
    driver = routed("fanout", ("a", ""), ("b", ""))
    driver.do(Publish("e", "", b"x", 7))
    ids = [driver.ask(Peek(name)).messages[0].id for name in ("a", "b")]
    assert ids == [1, 2]


def test_the_exchange_without_a_name_routes_to_the_topic_that_the_key_names() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    assert publish(driver, "jobs", exchange="") == ["jobs"]
    assert driver.do(Publish("", "nowhere", b"x")).routed == 0


def test_a_published_message_meets_a_waiting_consumer() -> None:
    driver = routed("direct", ("a", "k"))
    driver.do(Subscribe("a", 1), session=2)
    driver.do(Publish("e", "k", b"x", 3))
    assert [(one.payload, one.priority) for one in driver.deliveries(2)] == [(b"x", 3)]


def test_what_leads_nowhere_is_dropped_unless_it_is_mandatory() -> None:
    driver = routed("fanout")
    assert driver.do(Publish("e", "k", b"x")).routed == 0
    for exchange in ("e", ""):
        with pytest.raises(TopicNotFound):
            driver.do(Publish(exchange, "k", b"x", mandatory=True))
    with pytest.raises(ExchangeNotFound, match="'nope'"):
        driver.do(Publish("nope", "k", b"x"))


def test_a_changed_binding_changes_the_next_publish() -> None:
    driver = routed("topic", ("a", "k"), ("b", "k"))
    assert publish(driver, "k") == ["a", "b"]
    driver.do(Unbind("e", "a", "k"))
    assert publish(driver, "k") == ["b"]
    driver.do(Bind("e", "a", "*"))
    assert publish(driver, "k") == ["a", "b"]
    driver.do(DeleteTopic("b"))
    assert publish(driver, "k") == ["a"]


def test_the_memory_of_routes_is_bounded_and_right() -> None:
    driver = routed("topic", ("a", "k.#"))
    for number in range(2 * ROUTES_REMEMBERED):
        driver.do(Publish("e", f"other.{number}", b""))
    assert len(driver.machine._state.exchanges["e"]._routes) <= ROUTES_REMEMBERED
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


def test_a_deleted_exchange_takes_its_bindings_along() -> None:
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
    assert infos == broker.ExchangeInfos([("e", "topic"), ("f", "fanout")], [("e", "a", "x.*"), ("e", "b", "#")])
    assert driver.ask(ListExchanges("f")) == broker.ExchangeInfos([("f", "fanout")], [])


def test_a_transient_message_is_admitted_only_where_somebody_is_bound_for_it() -> None:
    driver = routed("topic", ("a", "x.*"))
    admits = driver.machine.admits
    assert admits(broker.encode(Publish("e", "x.1", b"")))
    assert admits(broker.encode(Publish("", "a", b"")))
    assert admits(broker.encode(broker.Enqueue("a", b"")))
    assert admits(broker.encode(broker.Ack([(1, 1)])))
    assert not admits(broker.encode(Publish("e", "y", b"")))
    assert not admits(broker.encode(Publish("nope", "y", b"")))
    assert not admits(broker.encode(Publish("", "nope", b"")))
    assert not admits(broker.encode(broker.Enqueue("nope", b"")))
    assert not admits(b"garbage")
