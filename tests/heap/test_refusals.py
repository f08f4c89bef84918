"""Bad input gets a typed, clear error. A command that is refused leaves the state exactly as it was."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from disheap import errors
from disheap.protocol import broker
from disheap.protocol.broker import (
    CREDIT_MAX,
    DURATION_MAX_MS,
    HELD_MAX,
    NAMED_MAX,
    Ack,
    Bind,
    Cancel,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Pop,
    Publish,
    Purge,
    Recover,
    SetCredit,
    Subscribe,
    TopicSettings,
    Unbind,
)
from disheap_heap.settings import HeapSettings

from .driver import Driver


@pytest.fixture
def busy() -> Driver:
    """A machine at some of its limits, with a message in every state."""
    driver = Driver(payload_bytes=100, topics=4, consumers=3, exchanges=1, bindings=1)
    driver.do(CreateTopic("jobs"))
    driver.do(CreateTopic("full", TopicSettings(max_messages=2)))
    driver.do(CreateTopic("empty"))
    driver.do(CreateExchange("e", "fanout"))
    driver.do(Bind("e", "full", ""))
    for delay in (0, 0, 100):
        driver.do(Enqueue("jobs", NewMessage(b"x", delay_ms=delay)))
    driver.do(EnqueueMany("full", [NewMessage(b"x"), NewMessage(b"x")]))
    driver.do(Subscribe("jobs", 1))
    driver.do(Pop("empty", wait_ms=1000))
    driver.taken()
    return driver


REFUSALS: list[tuple[Any, type[errors.CommandRefused], str]] = [
    (Enqueue("nope", NewMessage(b"x")), errors.TopicNotFound, "disheap topic create"),
    (EnqueueMany("nope", [NewMessage(b"x")]), errors.TopicNotFound, "'nope'"),
    (Subscribe("nope", 1), errors.TopicNotFound, "'nope'"),
    (Subscribe("empty", 1, no_ack=True, group=1), errors.InvalidArgument, "belongs to no group"),
    (SetCredit(0, 1, 0, 7), errors.ConsumerNotFound, "group 7"),
    (SetCredit(1, 1, 0, 1), errors.InvalidArgument, "not for both"),
    (Pop("nope"), errors.TopicNotFound, "'nope'"),
    (Purge("nope"), errors.TopicNotFound, "'nope'"),
    (DeleteTopic("nope"), errors.TopicNotFound, "'nope'"),
    (
        Enqueue("jobs", NewMessage(b"x", 1 << 63)),
        errors.PriorityOutOfRange,
        f"priority {1 << 63} is not between {-(1 << 63)}",
    ),
    (Publish("", "jobs", NewMessage(b"x", (1 << 64) - 1)), errors.PriorityOutOfRange, "64-bit"),
    (Enqueue("jobs", NewMessage(b"x" * 101)), errors.PayloadTooLarge, "101 bytes is over the limit of 100"),
    (EnqueueMany("jobs", [NewMessage(b"x"), NewMessage(b"x" * 101)]), errors.PayloadTooLarge, "101"),
    (Publish("e", "", NewMessage(b"x" * 101)), errors.PayloadTooLarge, "101"),
    (Enqueue("jobs", NewMessage(b"x", delay_ms=-1)), errors.InvalidArgument, "delay_ms"),
    (Enqueue("jobs", NewMessage(b"x", delay_ms=DURATION_MAX_MS + 1)), errors.InvalidArgument, "delay_ms"),
    (Enqueue("jobs", NewMessage(b"x", expires_ms=-1)), errors.InvalidArgument, "expires_ms"),
    (Nack([(1, 1)], delay_ms=-1), errors.InvalidArgument, "delay_ms of Nack does not fit"),
    (Enqueue("full", NewMessage(b"x")), errors.TopicFull, "2 of at most 2"),
    (EnqueueMany("full", [NewMessage(b"x")]), errors.TopicFull, "cannot take 1 more"),
    (Publish("e", "", NewMessage(b"x")), errors.TopicFull, "'full'"),
    (Publish("nope", "", NewMessage(b"x")), errors.ExchangeNotFound, "'nope'"),
    (Publish("e", "k" * 256, NewMessage(b"x")), errors.InvalidArgument, "255 characters"),
    (Subscribe("jobs", 0), errors.InvalidArgument, f"1 to {CREDIT_MAX}"),
    (Subscribe("jobs", CREDIT_MAX + 1), errors.InvalidArgument, f"1 to {CREDIT_MAX}"),
    (Subscribe("jobs", 1, credit_bytes=-1), errors.InvalidArgument, "credit_bytes"),
    (Subscribe("jobs", 1, lease_ms=-1), errors.InvalidArgument, "Subscribe"),
    (SetCredit(1, 0), errors.InvalidArgument, "credit"),
    (SetCredit(99, 1), errors.ConsumerNotFound, "99"),
    (SetCredit(2, 1), errors.ConsumerNotFound, "has ended, or is a pop"),
    (Cancel(99), errors.ConsumerNotFound, "99"),
    (Recover([1, 99]), errors.ConsumerNotFound, "99"),
    (Pop("jobs", 0), errors.InvalidArgument, "1 to 10000"),
    (Pop("jobs", 10_001), errors.InvalidArgument, "1 to 10000"),
    (Ack([]), errors.InvalidArgument, "Ack"),
    (CreateTopic(""), errors.InvalidArgument, "topic of CreateTopic does not fit: Expected `str` of length >= 1"),
    (CreateTopic("n" * 256), errors.InvalidArgument, "CreateTopic"),
    (CreateTopic("a\nb"), errors.InvalidArgument, "control characters"),
    (CreateTopic("invoice\u202egpj.exe"), errors.InvalidArgument, "invisible ones; this one has '\\u202e'"),
    (CreateTopic("jobs\u200b"), errors.InvalidArgument, "invisible ones"),
    (CreateExchange("\u2066x"), errors.InvalidArgument, "invisible ones"),
    (CreateTopic("new", TopicSettings(mode="sideways")), errors.InvalidArgument, "'sideways'"),
    (CreateTopic("jobs", TopicSettings(expires_ms=5)), errors.TopicMismatch, "expires_ms is 0, not 5"),
    (DeleteTopic("jobs", if_unused=True), errors.TopicInUse, "consumers"),
    (CreateExchange("x\x00"), errors.InvalidArgument, "control characters"),
    (CreateExchange("x", "x-random"), errors.InvalidArgument, "direct, topic, fanout, headers"),
    (CreateExchange("e", "direct"), errors.ExchangeMismatch, "fanout"),
    (CreateExchange("another"), errors.InvalidArgument, "1 exchanges"),
    (Bind("nope", "jobs"), errors.ExchangeNotFound, "'nope'"),
    (Bind("", "jobs"), errors.InvalidArgument, "takes no bindings"),
    (Bind("e", "nope"), errors.TopicNotFound, "'nope'"),
    (Bind("e", "jobs", "k" * 256), errors.InvalidArgument, "255 characters"),
    (Bind("e", "jobs"), errors.InvalidArgument, "1 bindings"),
    (Unbind("nope", "jobs"), errors.ExchangeNotFound, "'nope'"),
    (Unbind("e", "nope"), errors.TopicNotFound, "'nope'"),
]


@pytest.mark.parametrize(
    ("command", "error", "words"), REFUSALS, ids=[f"{type(row[0]).__name__}-{row[2]}"[:50] for row in REFUSALS]
)
def test_a_refused_command_changes_nothing(
    busy: Driver, command: Any, error: type[errors.CommandRefused], words: str
) -> None:
    before = busy.machine.state_hash()
    with pytest.raises(error, match=re.escape(words)) as caught:
        busy.do(command)
    assert type(caught.value) is error
    assert busy.machine.state_hash() == before
    assert busy.taken() == []


def test_topics_and_consumers_have_bounds_that_are_named(busy: Driver) -> None:
    busy.do(CreateTopic("fourth"))
    with pytest.raises(errors.InvalidArgument, match="`topics` in"):
        busy.do(CreateTopic("fifth"))
    busy.do(Subscribe("empty", 1))
    for command in (Subscribe("empty", 1), Pop("empty")):
        with pytest.raises(errors.InvalidArgument, match="`consumers` in"):
            busy.do(command)


@pytest.mark.parametrize(
    "command", [Subscribe("jobs", 1), Pop("jobs"), CreateTopic("x", TopicSettings(exclusive=True))]
)
def test_only_an_open_session_can_hold_or_own(busy: Driver, command: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="session 77 is not open"):
        busy.do(command, session=77)


GARBAGE = [
    (b"", errors.UnknownCommand, "not one whole msgpack value"),
    (b"\xc1", errors.UnknownCommand, "not one whole msgpack value"),
    (b"\x90", errors.UnknownCommand, "tag None"),
    (b"\xa5hello", errors.UnknownCommand, "tag None"),
    (msgspec.msgpack.encode([200, 1]), errors.VersionTooOld, "no command with the tag 200 at machine_version 1"),
    (msgspec.msgpack.encode(["1", 1]), errors.UnknownCommand, "tag None"),
    (broker.encode(broker.Done()), errors.VersionTooOld, "tag 64"),
    (msgspec.msgpack.encode([1, 5, b"x"]), errors.InvalidArgument, "Enqueue does not fit: Expected `str`, got `int`"),
    (msgspec.msgpack.encode([1, "jobs"]), errors.InvalidArgument, "Enqueue"),
    (msgspec.msgpack.encode([8, [[1, "x"]]]), errors.InvalidArgument, "tokens[0][1] of Ack does not fit"),
    (broker.encode(Enqueue("jobs", NewMessage(b"x"))) + b"\x00", errors.UnknownCommand, "whole"),
    (broker.encode(Enqueue("jobs", NewMessage(b"x")))[:-1], errors.UnknownCommand, "whole"),
]


@pytest.mark.parametrize(("body", "error", "words"), GARBAGE, ids=[str(row[0])[:30] for row in GARBAGE])
def test_garbage_is_refused_by_name_and_changes_nothing(
    busy: Driver, body: bytes, error: type[errors.CommandRefused], words: str
) -> None:
    before = busy.machine.state_hash()
    with pytest.raises(error, match=re.escape(words)):
        busy.machine.apply(99, 50, 1, body)
    with pytest.raises(errors.CommandRefused):
        busy.machine.query(50, 1, body)
    assert busy.machine.state_hash() == before


def test_an_attach_that_cannot_be_read_is_refused(busy: Driver) -> None:
    before = busy.machine.state_hash()
    with pytest.raises(errors.InvalidArgument, match="ATTACH"):
        busy.machine.session_attached(1, b"\xc1")
    assert busy.machine.state_hash() == before


def test_a_version_beyond_the_machines_own_is_refused(busy: Driver) -> None:
    busy.machine.set_version(1)
    for version in (0, 2):
        with pytest.raises(errors.VersionUnsupported, match=rf"machine_version {version}, this release runs 1 to 1"):
            busy.machine.set_version(version)


def test_a_full_topic_refuses_a_publish_for_itself_alone(busy: Driver) -> None:
    busy.do(Unbind("e", "full"))
    busy.do(CreateTopic("fourth"))
    busy.machine._state.settings = msgspec.structs.replace(busy.machine._settings, bindings=5)
    busy.do(Bind("e", "fourth"))
    busy.do(Bind("e", "full"))
    reply = busy.do(Publish("e", "", NewMessage(b"x")))
    assert reply.refused == 1
    assert busy.info("fourth").ready == 1
    with pytest.raises(errors.TopicFull, match=f"1 of {reply.routed + 1} topics are full"):
        broker.check_routed(reply)
    busy.machine._state.settings = msgspec.structs.replace(busy.machine._settings, bindings=9, exchanges=9)
    busy.do(CreateExchange("narrow", "fanout"))
    busy.do(Bind("narrow", "full"))
    with pytest.raises(errors.TopicFull):
        busy.do(Publish("narrow", "", NewMessage(b"x")))


def test_a_publish_that_leads_to_too_many_topics_is_refused() -> None:
    driver = Driver(fanout=2)
    driver.do(CreateExchange("e", "fanout"))
    for name in ("a", "b", "c"):
        driver.do(CreateTopic(name))
        driver.do(Bind("e", name))
    with pytest.raises(errors.InvalidArgument, match="`fanout`"):
        driver.do(Publish("e", "", NewMessage(b"x")))
    assert driver.machine.stats()["ready"] == 0


def test_a_command_with_a_field_from_a_later_version_is_refused(busy: Driver) -> None:
    """A replica that knows the field would do something else."""
    body = msgspec.msgpack.encode([1, "jobs", [b"x", 0, 0, 0], "a field to come"])
    with pytest.raises(errors.InvalidArgument, match="Enqueue does not fit: Expected `array` of at most length"):
        busy.machine.apply(99, 0, 1, body)


def test_a_client_ignores_fields_that_later_nodes_add_to_a_reply() -> None:
    settings = [*msgspec.to_builtins(broker.TopicSettings()), "a setting to come"]
    body = msgspec.msgpack.encode(
        [71, "jobs", settings, 1, 2, 3, 4, 5, True, 6, [], 1, False, False, "a field to come"]
    )
    found = broker.decode_reply.decode(body)
    assert isinstance(found, broker.TopicInfo)
    assert (found.settings.mode, found.oldest_enqueued_ms) == ("max", 6)


def test_while_room_is_short_only_commands_with_a_payload_are_refused() -> None:
    allowed = Driver().machine.allowed_when_full
    for command in (Enqueue("jobs", NewMessage(b"")), EnqueueMany("jobs", []), Publish("e", "k", NewMessage(b""))):
        assert not allowed(broker.encode(command))
    for drains in (Ack([(1, 1)]), Nack([(1, 1)]), Cancel(1), Purge("jobs"), Subscribe("jobs", 1), CreateTopic("jobs")):
        assert allowed(broker.encode(drains))
    assert not allowed(b"") and not allowed(b"\x91\x7f")


@pytest.mark.parametrize(
    ("setting", "command"),
    [
        ("topic_consumers", Subscribe("jobs", 1)),
        ("topic_consumers", Pop("jobs", wait_ms=1000)),
        ("session_consumers", Subscribe("other", 1)),
        ("topic_bindings", Bind("e", "jobs", "c")),
    ],
)
def test_what_ends_with_a_topic_or_a_session_is_bounded(setting: str, command: Any) -> None:
    """Deleting a topic with 100,000 bindings took 400 ms, and one with 100,000 consumers 110 ms."""
    driver = Driver(**{setting: 2})
    for name in ("jobs", "other"):
        driver.do(CreateTopic(name))
    driver.do(CreateExchange("e"))
    for key in ("a", "b"):
        driver.do(Bind("e", "jobs", key))
        driver.do(Subscribe("jobs", 1))
    before = driver.machine.state_hash()
    with pytest.raises(errors.InvalidArgument, match=f"raise `{setting}` in"):
        driver.do(command)
    assert driver.machine.state_hash() == before
    driver.do(Cancel(1))
    driver.do(Unbind("e", "jobs", "a"))
    driver.do(command)


def test_an_attach_with_too_many_consumers_is_refused_and_changes_nothing() -> None:
    """An ATTACH of 1.9 MB that named 400,000 consumers was answered with 21 MB."""
    driver = Driver(session_consumers=3)
    before = driver.machine.state_hash()
    with pytest.raises(errors.InvalidArgument, match="session_consumers"):
        driver.attach(1, tickets=[1, 2, 3], consumers=[4, 5, 6, 7])
    assert driver.machine.state_hash() == before
    assert len(driver.attach(1, tickets=[1, 2, 3], consumers=[4, 5, 6]).ended) == 6


def test_an_attach_that_names_too_many_leases_is_refused_and_changes_nothing() -> None:
    """One of 300,000 leases stopped the loop for 139 ms."""
    driver = Driver()
    before = driver.machine.state_hash()
    tokens = [(number, 1) for number in range(HELD_MAX + 1)]
    with pytest.raises(errors.InvalidArgument, match=f"at most {HELD_MAX} leases"):
        driver.attach(1, *tokens)
    assert driver.machine.state_hash() == before
    assert driver.attach(1, *tokens[1:]).deliveries == []


def test_no_session_has_more_consumers_than_an_attach_can_name() -> None:
    names = NAMED_MAX // 2
    assert msgspec.convert({"session_consumers": names}, HeapSettings).session_consumers == names
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"session_consumers": names + 1}, HeapSettings)
