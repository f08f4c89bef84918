"""Headers exchanges (AMQP 0-9-1, section 3.1.3.4): a binding's arguments against the headers of a message."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap.errors import InvalidArgument, InvalidHeaders
from disheap.protocol import broker
from disheap.protocol.broker import (
    Batch,
    Bind,
    CreateExchange,
    CreateTopic,
    DeleteExchange,
    DeleteTopic,
    ListExchanges,
    NewMessage,
    Publish,
    Unbind,
    encode_arguments,
    encode_headers,
)
from disheap.testing.simulator.checks.reference_exchanges import Binding, ReferenceExchange
from disheap_heap.settings import ARGUMENTS_PER_ANSWER
from disheap_heap.state.footprint import memory_bytes
from disheap_heap.tables.conditions import ConditionIndex
from disheap_heap.tables.patterns import TooManySteps
from tests.heap.driver import Driver

PLENTY = 1 << 30
names = st.sampled_from(["a", "b", "c", "x-d"])
values = st.sampled_from([0, 1, 1.0, True, "1", b"1", -1, 0.5, "ü"])
headers = st.dictionaries(names, values, max_size=4)
arguments = st.tuples(
    st.dictionaries(names, st.none() | values, max_size=4), st.sampled_from([None, *broker.MATCHES])
).map(lambda pair: pair[0] if pair[1] is None else {**pair[0], "x-match": pair[1]})
changes = st.lists(st.tuples(arguments, st.integers(0, 4), st.booleans()), max_size=20)


def topic(number: int) -> Any:
    return SimpleNamespace(number=number, alive=True)


def bound(*given: tuple[str, dict[str, Any]], **settings: int) -> Driver:
    """An exchange `h` with (topic, arguments) bound to it."""
    driver = Driver(**settings)
    driver.do(CreateExchange("h", "headers"))
    for name, wanted in given:
        driver.do(CreateTopic(name))
        driver.do(Bind("h", name, "", encode_arguments(wanted)))
    return driver


def message(**given: Any) -> NewMessage:
    return NewMessage(b"x", encoded_headers=encode_headers(given))


def reached(driver: Driver, **given: Any) -> list[str]:
    """Publishes with these headers. Returns the topics that got the message."""
    names = list(driver.machine._state.topics)
    before = [driver.info(name).ready for name in names]
    assert driver.do(Publish("h", "any key", message(**given))).routed <= len(names)
    return [name for name, old in zip(names, before, strict=True) if driver.info(name).ready > old]


def refuse(driver: Driver, command: Any, kind: type[Exception], text: str = ".") -> None:
    """The machine refuses the command with an error of this kind, whose text has these words."""
    with pytest.raises(kind, match=text):
        driver.do(command)


@given(changes=changes, offered=st.lists(headers, min_size=1, max_size=5))
def test_the_index_finds_what_the_definition_finds(
    changes: list[tuple[dict[str, Any], int, bool]], offered: list[dict[str, Any]]
) -> None:
    """After each added or removed binding the headers lead to the same topics, in the same order."""
    index: ConditionIndex[Any] = ConditionIndex()
    exchange, topics, there = ReferenceExchange("headers", False, ""), [topic(number) for number in range(5)], {}
    for order, (wanted, number, stays) in enumerate(changes):
        place = encode_arguments(wanted), number
        if place not in there:
            index.add("", topics[number], order, place[0])
            there[place] = wanted
        if not stays:
            index.remove("", topics[number], place[0])
            del there[place]
        for given_headers in offered:
            expected = dict.fromkeys(
                place[1]
                for place, wanted in there.items()
                if exchange.matches(Binding("", topics[0], tuple(wanted.items())), "", given_headers)
            )
            assert [one.number for one in index.find("", PLENTY, encode_headers(given_headers))] == list(expected)
    for encoded, number in there:
        index.remove("", topics[number], encoded)
    assert index.nodes == 0


class Match(enum.StrEnum):
    ANY = "any"


def test_a_match_of_another_type_than_text_is_refused() -> None:
    """msgpack has no form for a subclass of `str`."""
    with pytest.raises(InvalidArgument, match="x-match is one of"):
        encode_arguments({"a": 1, "x-match": Match.ANY})


def test_unreadable_headers_take_no_steps_of_the_message_before() -> None:
    index: ConditionIndex[Any] = ConditionIndex()
    for number in range(50):
        index.add("", topic(number), number, encode_arguments({"a": 1}))
    index.find("", PLENTY, encode_headers({"a": 1}))
    with pytest.raises(InvalidHeaders):
        index.find("", PLENTY, b"\xc1")
    assert index.steps == 0


@given(changes=changes, offered=headers)
def test_the_steps_follow_from_the_bindings_alone(
    changes: list[tuple[dict[str, Any], int, bool]], offered: dict[str, Any]
) -> None:
    """A restored replica has never had the removed bindings, and must refuse the same messages."""
    lived: ConditionIndex[Any] = ConditionIndex()
    fresh: ConditionIndex[Any] = ConditionIndex()
    left: dict[tuple[bytes, int], None] = {}
    for order, (wanted, number, _) in enumerate(changes):
        place = encode_arguments(wanted), number
        if place not in left:
            lived.add("", topic(number), order, place[0])
            left[place] = None
    for wanted, number, stays in changes:
        place = encode_arguments(wanted), number
        if not stays and place in left:
            lived.remove("", topic(number), place[0])
            del left[place]
    for order, (encoded, number) in enumerate(left):
        fresh.add("", topic(number), order, encoded)
    assert lived.nodes == fresh.nodes
    for index in (lived, fresh):
        index.find("", PLENTY, encode_headers(offered))
    assert lived.steps == fresh.steps


@pytest.mark.parametrize(
    ("wanted", "matching", "other"),
    [
        ({"type": "pdf", "pages": 2}, {"type": "pdf", "pages": 2, "more": 1}, {"type": "pdf"}),
        ({"type": "pdf", "x-match": "all"}, {"type": "pdf"}, {"type": "PDF"}),
        ({"type": "pdf", "pages": 2, "x-match": "any"}, {"pages": 2}, {"pages": 3}),
        ({"type": None}, {"type": False}, {"types": 1}),
        ({"pages": 2}, {"pages": 2}, {"pages": 2.0}),
        ({"pages": 1}, {"pages": 1}, {"pages": True}),
        ({"type": "pdf"}, {"type": "pdf"}, {"type": b"pdf"}),
        ({"type": "pdf", "x-from": "a"}, {"type": "pdf"}, {"x-from": "a"}),
        ({"type": "pdf", "x-from": "a", "x-match": "all-with-x"}, {"type": "pdf", "x-from": "a"}, {"type": "pdf"}),
        ({"type": "pdf", "x-from": "a", "x-match": "any-with-x"}, {"x-from": "a"}, {"x-from": "b"}),
        ({"type": "pdf", "x-from": "a", "x-match": "any"}, {"type": "pdf"}, {"x-from": "a"}),
    ],
)
def test_a_binding_matches_by_its_arguments(
    wanted: dict[str, Any], matching: dict[str, Any], other: dict[str, Any]
) -> None:
    driver = bound(("t", wanted))
    assert reached(driver, **matching) == ["t"]
    assert reached(driver, **other) == []


def test_without_arguments_all_match_and_with_any_none_does() -> None:
    driver = bound(("all", {}), ("any", {"x-match": "any"}))
    assert reached(driver) == reached(driver, a=1) == ["all"]


def test_a_topic_gets_a_message_once_whatever_leads_there() -> None:
    driver = bound(("t", {"a": 1}), ("u", {"b": 2}), ("t", {"a": 1, "b": 2, "x-match": "any"}))
    assert driver.do(Publish("h", "", message(a=1, b=2))).routed == 2
    assert driver.info("t").ready == 1


def test_a_binding_is_told_by_key_and_arguments_in_any_order() -> None:
    driver = bound(("t", {"a": 1, "b": 2}))
    other_order = broker.encode({"b": 2, "a": 1})
    driver.do(Bind("h", "t", "", other_order))
    assert driver.ask(ListExchanges("h")).bindings == [("h", "t", "", encode_arguments({"a": 1, "b": 2}))]
    driver.do(Bind("h", "t", "key", other_order))
    driver.do(Unbind("h", "t", "", encode_arguments({"a": 1})))
    assert len(driver.ask(ListExchanges("h")).bindings) == 2
    driver.do(Unbind("h", "t", "", other_order))
    assert reached(driver, a=1, b=2) == ["t"]
    driver.do(Unbind("h", "t", "key", other_order))
    assert reached(driver, a=1, b=2) == []
    assert driver.machine._state.pattern_nodes == driver.machine._state.argument_bytes == 0


def test_what_matches_nothing_goes_to_the_alternate_with_its_headers() -> None:
    driver = bound(("t", {"a": 1}))
    driver.do(CreateExchange("first", "direct", alternate="h"))
    assert driver.do(Publish("first", "", message(a=1))).routed == 1
    assert driver.do(Publish("first", "", message(a=2))).routed == 0


def test_a_batch_routes_by_headers() -> None:
    driver = bound(("t", {"a": 1}), ("u", {"a": 2}))
    assert driver.do(Batch([Publish("h", "", message(a=1)), Publish("h", "", message(a=3))])).results == [1, 0]


BAD = {
    "another x-match": encode_headers({"x-match": "some"}),
    "x-match is no text": encode_headers({"x-match": 1}),
    "nested": broker.encode({"a": [1]}),
    "no map": broker.encode([1]),
    "no MessagePack": b"\xc1",
    "a name that is no text": broker.encode({1: "a"}),
    "an empty name": broker.encode({"": 1}),
    "a name that is too long": broker.encode({"a" * 256: 1}),
    "not a number": broker.encode({"a": float("nan")}),
    "too many": broker.encode({f"a{number}": 1 for number in range(17)}),
    "too many bytes": broker.encode({"a": "x" * 5000}),
}


@pytest.mark.parametrize("why", BAD)
@pytest.mark.parametrize("kind", [Bind, Unbind])
def test_bad_arguments_are_refused(kind: type, why: str) -> None:
    driver = bound(("t", {"a": 1}))
    refuse(driver, kind("h", "t", "", BAD[why]), InvalidArgument)
    assert len(driver.ask(ListExchanges("h")).bindings) == 1


def test_other_exchanges_refuse_arguments() -> None:
    driver = bound(("t", {}))
    driver.do(CreateExchange("d", "direct"))
    for kind in (Bind, Unbind):
        refuse(driver, kind("d", "t", "", encode_arguments({"a": 1})), InvalidArgument, "of the kind direct")


def test_headers_that_are_none_are_refused_before_they_route() -> None:
    driver = bound(("t", {}))
    refuse(driver, Publish("h", "", NewMessage(b"x", encoded_headers=b"\xc1")), InvalidHeaders)
    assert driver.info("t").ready == 0


def test_bindings_that_share_conditions_cost_one_walk() -> None:
    """5,000 users ask for messages of one type, each for their own. No step is taken for the others."""
    index: ConditionIndex[Any] = ConditionIndex()
    for number in range(5000):
        index.add("", topic(number), number, encode_arguments({"type": "mail", "user": number}))
    assert [one.number for one in index.find("", 100, encode_headers({"type": "mail", "user": 7}))] == [7]


@pytest.mark.parametrize("match", ["all", "any"])
def test_a_message_that_too_many_bindings_match_is_refused(match: str) -> None:
    index: ConditionIndex[Any] = ConditionIndex()
    for number in range(101):
        index.add(str(number), topic(number), number, encode_arguments({"a": 1, "x-match": match}))
    with pytest.raises(TooManySteps):
        index.find("", 100, encode_headers({"a": 1}))
    driver = bound(("t", {"a": 1, "x-match": match}), routing_steps=100)
    for number in range(101):
        driver.do(Bind("h", "t", str(number), encode_arguments({"a": 1, "x-match": match})))
    refuse(driver, Publish("h", "", message(a=1)), InvalidArgument, "routing_steps")


def test_the_work_of_routing_by_headers_is_counted() -> None:
    driver = bound(*((f"t{number}", {"a": 1, "x-match": "any"}) for number in range(200)))
    before = driver.machine._state.units
    driver.do(Publish("h", "", message(a=1, b=2)))
    first = driver.machine._state.units - before
    driver.do(Publish("h", "", message(a=1, b=2)))
    assert driver.machine._state.units - before - first == first, "a route by headers is not cached"
    assert first >= 200 // 16


@pytest.mark.parametrize("match", ["all", "any"])
def test_conditions_take_of_the_bound_on_nodes(match: str) -> None:
    driver = bound(("t", {}), pattern_nodes=3)
    driver.do(Bind("h", "t", "", encode_arguments({"a": 1, "b": 1, "x-match": match})))
    refuse(driver, Bind("h", "t", "", encode_arguments({"a": 1, "c": 1, "x-match": match})), InvalidArgument, "nodes")
    driver.do(Unbind("h", "t", "", encode_arguments({"a": 1, "b": 1, "x-match": match})))
    driver.do(Bind("h", "t", "", encode_arguments({"a": 1, "c": 1, "x-match": match})))


def test_a_list_of_bindings_ends_before_it_has_too_many_bytes() -> None:
    driver = bound(("t", {}))
    for number in range(200):
        driver.do(Bind("h", "t", "", encode_arguments({"a": f"{number:03}" + "x" * 4000})))
    found = broker.ExchangeInfos([], [])
    pages = 0
    while len(found.exchanges) + len(found.bindings) < 202:
        page = driver.ask(ListExchanges("h", len(found.exchanges) + len(found.bindings)))
        assert 0 < sum(len(row[3]) for row in page.bindings) <= ARGUMENTS_PER_ANSWER
        found, pages = found.joined(page), pages + 1
    assert pages > 1
    assert len(set(found.bindings)) == 201


@pytest.mark.parametrize("ending", [DeleteTopic("t"), DeleteExchange("h")])
def test_nothing_of_a_binding_stays_behind(ending: Any) -> None:
    driver = bound(("u", {}))
    driver.do(CreateTopic("t"))
    before = memory_bytes(driver.machine._state)
    driver.do(CreateExchange("h", "headers"))
    for number in range(50):
        driver.do(Bind("h", "t", "", encode_arguments({"a": number, "x-match": ("all", "any")[number % 2]})))
    assert memory_bytes(driver.machine._state) > before + 50 * 500
    driver.do(ending)
    driver.work_off(10)
    assert memory_bytes(driver.machine._state) < before
    assert driver.machine._state.argument_bytes == driver.machine._state.pattern_nodes == 0


def test_a_snapshot_keeps_the_arguments() -> None:
    driver = bound(("t", {"a": 1}), ("u", {"a": None, "b": "ü", "x-match": "any"}), ("t", {}))
    restored = driver.restored()
    assert restored.ask(ListExchanges()) == driver.ask(ListExchanges())
    assert reached(restored, b="ü") == reached(driver, b="ü") == ["t", "u"]
    assert restored.machine._state.pattern_nodes == driver.machine._state.pattern_nodes
    assert restored.machine._state.argument_bytes == driver.machine._state.argument_bytes


@pytest.mark.parametrize(("kind", "counts"), [("headers", 4), ("topic", 2)])
def test_a_binding_that_is_long_to_remove_counts_as_several(kind: str, counts: int) -> None:
    """All bindings of a topic are removed in one step, when it is deleted."""
    driver = Driver(topic_bindings=10)
    driver.do(CreateTopic("t"))
    driver.do(CreateExchange("e", kind))
    short = {"headers": ("", encode_arguments({"a": 1})), "topic": ("a.b", b"")}[kind]
    long = {"headers": ("", encode_arguments({f"a{n}": n for n in range(12)})), "topic": ("a.b.c.d.*", b"")}[kind]
    driver.do(Bind("e", "t", *long))
    for number in range(10 - counts):
        driver.do(Bind("e", "t", f"{number}{short[0]}", short[1]))
    refuse(driver, Bind("e", "t", *short), InvalidArgument, "topic_bindings")
    driver.do(Unbind("e", "t", *long))
    driver.do(Bind("e", "t", *long))
