"""Headers, the key and the attempts of a message, on every way that it takes through the machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from disheap.errors import CommandRefused, InvalidArgument, InvalidHeaders, InvalidKey
from disheap.protocol import broker
from disheap.protocol.broker import (
    Ack,
    Bind,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Peek,
    Pop,
    Publish,
    Purge,
    Recover,
    Subscribe,
    encode_headers,
)
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HEADERS_PER_UNIT, MAX_ANSWER_BYTES, MAX_PUSH_BYTES_PER_CALL, HeapSettings
from disheap_heap.state.messages import Message

from .driver import Driver, token

HEADERS = encode_headers({"tenant": "blue", "retries": 3, "raw": b"\x00\xff"})
KEY = "customer-ä"
SIZE = len(b"x") + len(HEADERS) + len(KEY.encode())


@pytest.fixture
def jobs() -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    return driver


def one(payload: bytes = b"x", **more: Any) -> NewMessage:
    return NewMessage(payload, encoded_headers=HEADERS, key=KEY, **more)


def shown(delivery: broker.Deliver) -> tuple[bytes, bytes, str]:
    return delivery.payload, delivery.encoded_headers, delivery.key


# --- they come with the message ---


@pytest.mark.parametrize("no_ack", [False, True])
def test_headers_and_key_come_with_the_message_as_they_were_sent(jobs: Driver, no_ack: bool) -> None:
    jobs.do(Enqueue("jobs", one()))
    jobs.do(Pop("jobs", 1, no_ack=no_ack))
    (delivery,) = jobs.deliveries()
    assert shown(delivery) == (b"x", HEADERS, KEY)


@pytest.mark.parametrize("more", [{"encoded_headers": HEADERS}, {"key": KEY}])
def test_headers_need_no_key_and_a_key_no_headers(jobs: Driver, more: dict[str, Any]) -> None:
    new = NewMessage(b"x", **more)
    jobs.do(Enqueue("jobs", new))
    jobs = jobs.restored()
    jobs.do(Pop("jobs", 1))
    (delivery,) = jobs.deliveries()
    assert shown(delivery) == (b"x", new.encoded_headers, new.key)


def test_each_message_of_a_batch_has_its_own_headers_and_key(jobs: Driver) -> None:
    batch = [NewMessage(b"%d" % n, 0, 0, 0, encode_headers({"n": n}) if n % 2 else b"", f"k{n}") for n in range(6)]
    jobs.do(EnqueueMany("jobs", batch))
    jobs.do(Pop("jobs", 6))
    assert [shown(each) for each in jobs.deliveries()] == [(one.payload, one.encoded_headers, one.key) for one in batch]


def test_every_topic_of_a_publish_has_the_headers_and_the_key(jobs: Driver) -> None:
    jobs.do(CreateExchange("e", "fanout"))
    for name in ("a", "b"):
        jobs.do(CreateTopic(name))
        jobs.do(Bind("e", name))
    jobs.do(Publish("e", "", one()))
    jobs.do(Publish("", "a", one(b"y")))
    jobs = jobs.restored()
    for name in ("a", "b"):
        jobs.do(Pop(name, 2))
    assert [shown(each) for each in jobs.deliveries()] == [(p, HEADERS, KEY) for p in (b"x", b"y", b"x")]


def test_a_key_survives_all_ways_back_into_the_topic_and_to_the_client(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", one(delay_ms=10)))
    consumer = jobs.do(Subscribe("jobs", 1, lease_ms=50)).consumer
    jobs.wait(10)
    seen = jobs.deliveries()
    jobs.do(Nack([token(seen[-1])]))
    seen += jobs.deliveries()
    jobs.do(Nack([token(seen[-1])], delay_ms=5))
    jobs.wait(5)
    seen += jobs.deliveries()
    jobs.wait(50)  # the lease ends
    seen += jobs.deliveries()
    jobs.do(Recover([consumer]))
    seen += jobs.deliveries()
    jobs.detach(1)
    again = jobs.attach(1).deliveries
    assert [each.attempts for each in seen] == [each.epoch for each in seen] == [1, 2, 3, 4, 5]
    assert {shown(each) for each in (*seen, *again)} == {(b"x", HEADERS, KEY)}
    assert (again[0].epoch, again[0].attempts) == (5, 5)


def test_peek_shows_headers_and_key_of_a_message_in_every_state(jobs: Driver) -> None:
    for delay in (0, 0, 100):
        jobs.do(Enqueue("jobs", one(delay_ms=delay)))
    jobs.do(Pop("jobs", 1))
    found = jobs.ask(Peek("jobs", 10, delayed=True, leased=True)).messages
    assert [each.state for each in found] == ["ready", "delayed", "leased"]
    assert {(each.payload, each.encoded_headers, each.key) for each in found} == {(b"x", HEADERS, KEY)}


# --- attempts ---


def test_a_no_ack_delivery_says_whether_it_is_the_first(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", one()))
    jobs.now = 30
    jobs.do(Pop("jobs", 1))
    (first,) = jobs.deliveries()
    jobs.do(Nack([token(first)]))
    jobs.do(Pop("jobs", 1, no_ack=True))
    (again,) = jobs.deliveries()
    assert (first.epoch, first.attempts, first.enqueued_ms) == (1, 1, 0)
    assert (again.epoch, again.attempts, again.enqueued_ms) == (0, 2, 0), "when it was first enqueued"


# --- bounds ---


def test_headers_and_key_count_as_bytes_wherever_payload_does(jobs: Driver) -> None:
    jobs.do(Enqueue("jobs", one()))
    assert jobs.info().ready_bytes == jobs.machine.stats()["message_bytes"] == SIZE
    jobs.do(Pop("jobs", 1))
    state = jobs.machine._state
    assert [each.held_bytes for each in state.consumers.values()] == [SIZE]
    jobs.do(Ack([token(jobs.deliveries()[0])]))
    assert state.message_bytes == 0


def test_the_credit_in_bytes_bounds_headers(jobs: Driver) -> None:
    for _ in range(3):
        jobs.do(Enqueue("jobs", one()))
    jobs.do(Subscribe("jobs", 10, credit_bytes=SIZE + 1))
    assert len(jobs.deliveries()) == 2, "one passes as long as the bound is not reached"


def test_answers_and_calls_are_bounded_with_the_largest_headers(jobs: Driver) -> None:
    large = encode_headers({"n": b"x" * (broker.HEADERS_BYTES_MAX - 20)})
    count = MAX_PUSH_BYTES_PER_CALL // len(large) + 50
    for _ in range(count // 50 + 1):
        jobs.do(EnqueueMany("jobs", [NewMessage(b"", encoded_headers=large)] * 50))
    assert len(broker.encode(jobs.ask(Peek("jobs", 1000)))) <= MAX_ANSWER_BYTES
    _, effects = jobs.machine.apply(999, 0, 1, broker.encode(Pop("jobs", count)))
    assert sum(len(body) for _, body in effects) <= MAX_PUSH_BYTES_PER_CALL + 2 * len(large)


def test_the_largest_command_fits_the_bound_that_the_node_sets_for_it() -> None:
    settings = HeapSettings(payload_bytes=1000)
    name, key = "\U0001f40c" * 255, "k" * 255
    headers = encode_headers({f"h{n:02}": "x" * 163 for n in range(96)})
    assert 16_000 < len(headers) <= broker.HEADERS_BYTES_MAX
    message = NewMessage(b"x" * 1000, -(1 << 63), (1 << 47) - 1, (1 << 47) - 1, headers, key)
    room = broker.HEADERS_BYTES_MAX - len(headers)
    assert len(broker.encode(Publish(name, name, message, True))) + room <= HeapMachine.max_command_bytes(settings)


def test_a_message_without_headers_holds_its_payload_alone(jobs: Driver) -> None:
    payload = bytes(40)
    jobs.do(Enqueue("jobs", NewMessage(payload)))
    (message,) = jobs.machine._state.topics["jobs"].ready.by_id().values()
    assert type(message) is Message
    assert type(message.body) is bytes
    assert jobs.machine._state.contents == 0


def test_the_estimate_of_headers_falls_when_their_messages_are_gone(jobs: Driver) -> None:
    before = jobs.machine.memory_bytes()
    for how in (Purge("jobs"), Pop("jobs", 9, no_ack=True)):
        for _ in range(9):
            jobs.do(Enqueue("jobs", one()))
        assert jobs.machine.memory_bytes() > before + 9 * (SIZE + 300)
        jobs.do(how)
        jobs.work_off(100)
        jobs.taken()
        assert jobs.machine.memory_bytes() == before
    jobs.do(Enqueue("jobs", one()))
    jobs.do(DeleteTopic("jobs"))
    jobs.work_off(100)
    assert jobs.machine._state.contents == 0


# --- what is refused ---

NAMED_TWICE = b"\x82\xa1n\x01\xa1n\x02"
BAD: list[tuple[dict[str, Any], type[CommandRefused], str]] = [
    ({"encoded_headers": NAMED_TWICE}, InvalidHeaders, "twice"),
    ({"encoded_headers": b"\xc1"}, InvalidHeaders, "begins no map"),
    ({"encoded_headers": msgspec.msgpack.encode({"n": [1]})}, InvalidHeaders, "flat"),
    ({"encoded_headers": msgspec.msgpack.encode({1: "n"})}, InvalidHeaders, "flat"),
    ({"encoded_headers": b"\x81\xa1n" + b"\x91" * 9000}, InvalidHeaders, "flat"),
    ({"encoded_headers": msgspec.msgpack.encode({"n": b"x" * (16 << 10)})}, InvalidHeaders, "over the limit of 16384"),
    ({"encoded_headers": msgspec.msgpack.encode({str(n): n for n in range(257)})}, InvalidHeaders, "257 headers"),
    ({"key": "k" * 256}, InvalidKey, "a key of 256 bytes"),
    ({"key": "ä" * 200}, InvalidKey, "a key of 400 bytes"),
]


@pytest.mark.parametrize(("more", "error", "words"), BAD, ids=[words + str(n) for n, (_, _, words) in enumerate(BAD)])
def test_what_a_foreign_client_sends_is_refused_and_changes_nothing(
    jobs: Driver, more: dict[str, Any], error: type[CommandRefused], words: str
) -> None:
    jobs.do(CreateExchange("e", "fanout"))
    jobs.do(Bind("e", "jobs"))
    jobs.do(Subscribe("jobs", 1))
    bad, before = NewMessage(b"x", **more), jobs.machine.state_hash()
    for command in (
        Enqueue("jobs", bad),
        EnqueueMany("jobs", [one(), bad]),
        Publish("e", "", bad),
    ):
        with pytest.raises(error, match=words):
            jobs.do(command)
    assert jobs.machine.state_hash() == before
    assert not jobs.taken()


def test_a_batch_with_too_many_headers_is_refused_before_they_are_decoded(jobs: Driver) -> None:
    """10,000 messages of 800 bytes with 250 headers each would stop a node for a second."""
    many, before = encode_headers({f"n{number}": 1 for number in range(250)}), jobs.machine.state_hash()
    with pytest.raises(InvalidHeaders, match="20250 headers"):
        jobs.do(EnqueueMany("jobs", [NewMessage(b"", encoded_headers=many)] * 81))
    assert jobs.machine.state_hash() == before
    units = jobs.machine.work_done()
    jobs.do(EnqueueMany("jobs", [NewMessage(b"", encoded_headers=many)] * 80))
    assert jobs.machine.work_done() - units == 80 + broker.BATCH_HEADERS_MAX // HEADERS_PER_UNIT


@pytest.mark.parametrize("extra", [[5], [b"", 7], [b"", b"k"], [b"", "", 1], [None], ["text"]])
def test_fields_of_a_wrong_type_are_refused_by_name(jobs: Driver, extra: list[Any]) -> None:
    before = jobs.machine.state_hash()
    body = msgspec.msgpack.encode([1, "jobs", [b"x", 0, 0, 0, *extra]])
    with pytest.raises(InvalidArgument, match="message"):
        jobs.machine.apply(99, 0, 1, body)
    assert jobs.machine.state_hash() == before
