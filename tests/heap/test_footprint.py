"""How much memory the state takes: what is counted, and payloads that several messages share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap.errors import SnapshotDamaged
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
    Pop,
    Publish,
    Purge,
    Subscribe,
    encode_headers,
)
from disheap_heap.state.footprint import held_bytes, held_messages
from disheap_heap.state.messages import Body, Content, Message
from disheap_heap.state.state import State

from .driver import Driver

MIB = 1 << 20
HEADERS = encode_headers({"n": "x" * 50})
NAMES = ("a", "b", "c")


def fanout(*topics: str) -> Driver:
    driver = Driver()
    driver.do(CreateExchange("f", "fanout"))
    for name in topics:
        driver.do(CreateTopic(name))
        driver.do(Bind("f", name))
    return driver


def messages(state: State) -> Iterator[Message]:
    """All messages in memory, purged ones included."""
    for topic in state.topics.values():
        yield from topic.ready.by_id().values()
        yield from (message for _, message in topic.delayed.values())
    yield from (lease.message for lease in state.leases.values())
    for purged in state.unfreed:
        yield from purged.ready.by_id().values()
        yield from (message for _, message in purged.delayed.values())


def bodies(state: State) -> list[Body]:
    """Each body object once."""
    return list({id(one.body): one.body for one in messages(state)}.values())


def check_counts(state: State) -> None:
    assert held_messages(state) == len(list(messages(state)))
    assert held_bytes(state) == sum(map(len, bodies(state)))
    assert state.contents == sum(type(one) is Content for one in bodies(state))


def snapshot(driver: Driver) -> bytes:
    return b"".join(driver.machine.snapshot())


def test_a_payload_that_many_topics_hold_is_stored_once_everywhere() -> None:
    driver = fanout(*(f"t{number}" for number in range(500)))
    driver.do(Publish("f", "", NewMessage(b"x" * MIB)))
    assert driver.machine.stats()["message_bytes"] == 500 * MIB
    assert MIB < driver.machine.memory_bytes() < 4 * MIB
    assert MIB < len(snapshot(driver)) < 2 * MIB
    twin = driver.restored()
    assert len(bodies(twin.machine._state)) == 1
    assert snapshot(twin) == snapshot(driver)
    assert twin.machine.memory_bytes() == driver.machine.memory_bytes()


def test_a_payload_is_shared_wherever_its_messages_wait() -> None:
    driver = fanout(*NAMES)
    consumer = driver.do(Subscribe("a", 1)).consumer
    driver.do(Publish("f", "", NewMessage(b"shared")))
    [lease] = [push for push in driver.deliveries() if push.consumer == consumer]
    driver.do(Nack([(lease.id, lease.epoch)], delay_ms=1000))
    driver.do(Pop("b", 1))
    state = driver.restored().machine._state
    assert [len(state.topics[name].delayed) for name in NAMES] == [1, 0, 0]
    assert (len(state.leases), len(bodies(state)), held_bytes(state)) == (1, 1, len(b"shared"))


def test_the_estimate_falls_to_what_an_empty_state_takes() -> None:
    driver = fanout(*NAMES)
    before = driver.machine.memory_bytes()
    for number in range(50):
        driver.do(Publish("f", "", NewMessage(b"shared", delay_ms=number % 2, expires_ms=1000 * (number % 3))))
    driver.do(EnqueueMany("a", [NewMessage(b"own", number) for number in range(50)]))
    assert driver.machine.memory_bytes() > before + 200 * 100
    driver.do(Purge("a"))
    assert driver.machine.memory_bytes() > before + 200 * 100, "a purged message takes memory until it is freed"
    driver.do(Purge("b"))
    driver.wait(10)
    driver.do(Pop("c", 50))
    for push in driver.deliveries():
        driver.do(Ack([(push.id, push.epoch)]))
    driver.work_off(10)
    driver.wait(5000)
    assert driver.machine.memory_bytes() == before
    assert not driver.machine._state.copies


@pytest.mark.parametrize(
    "field", [(7, b"x"), (0, 5), (0, (0, b"x")), (b"x", b"h", 5), (b"x", "h", "k"), 1, -1, None, "text"]
)
def test_a_snapshot_with_a_shared_payload_that_cannot_be_is_refused(
    field: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = fanout("a", "b")
    driver.do(Publish("f", "", NewMessage(b"x")))
    monkeypatch.setattr(
        "disheap_heap.snapshots.snapshot._MessageRows.row", lambda self, m, *at: ((*at, *m[:-1], field), 0)
    )
    with pytest.raises(SnapshotDamaged):
        driver.restored()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("publish", "enqueue", "delayed", "pop", "ack", "nack", "discard", "purge", "restore", "wait")),
        st.sampled_from(NAMES),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_what_is_counted_is_what_is_held_also_in_a_restored_state(steps: Any) -> None:
    driver = fanout(*NAMES)
    for number, (what, name) in enumerate(steps):
        driver = take_step(driver, what, name, b"%d" % number * 20)
        check_counts(driver.machine._state)
    driver.work_off(3)
    check_counts(driver.machine._state)
    twin = driver.restored()
    check_counts(twin.machine._state)
    assert snapshot(twin) == snapshot(driver)
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert len(bodies(twin.machine._state)) == len(bodies(driver.machine._state))
    assert twin.machine.memory_bytes() == driver.machine.memory_bytes()


def take_step(driver: Driver, what: str, name: str, payload: bytes) -> Driver:
    tokens = [(lease.message.id, lease.epoch) for lease in driver.machine._state.leases.values()][:1]
    match what:
        case "publish":
            driver.do(Publish("f", "", NewMessage(payload, len(payload), key="k" * (len(payload) % 3))))
        case "enqueue":
            driver.do(Enqueue(name, NewMessage(payload, expires_ms=300, encoded_headers=HEADERS * (len(name) % 2))))
        case "delayed":
            driver.do(Publish("f", "", NewMessage(payload, delay_ms=50)))
        case "pop":
            driver.do(Pop(name, 2, lease_ms=200))
        case "ack" if tokens:
            driver.do(Ack(tokens))
        case "nack" if tokens:
            driver.do(Nack(tokens, delay_ms=20))
        case "discard" if tokens:
            driver.do(Nack(tokens, discard=True))
        case "purge":
            driver.do(Purge(name))
        case "restore":
            return driver.restored()
        case "wait":
            driver.wait(40, limit=2)
    driver.taken()
    return driver


def test_no_ack_deliveries_are_counted_too() -> None:
    driver = fanout(*NAMES)
    driver.do(Subscribe("a", 1, no_ack=True))
    driver.do(Publish("f", "", NewMessage(b"shared")))
    assert driver.payloads() == [b"shared"]
    check_counts(driver.machine._state)
    driver.do(DeleteTopic("b"))
    driver.work_off(1)
    check_counts(driver.machine._state)
    assert held_messages(driver.machine._state) == 1
