"""Snapshots and hashes (Raft §7; pitfalls 15 and 29): one point in time, canonical, whole or refused."""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec
import pytest

from disheap.errors import SnapshotDamaged, VersionUnsupported
from disheap.protocol.broker import (
    Ack,
    Bind,
    CreateExchange,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Pop,
    Publish,
    Purge,
    Subscribe,
    TopicSettings,
    Unbind,
)
from disheap_heap.snapshots.snapshot import FORMAT, PIECE_BYTES

from .driver import Driver, token


@pytest.fixture
def busy() -> Driver:
    """At least one record of every kind."""
    driver = Driver(sessions=3)
    driver.wait(5)
    driver.do(CreateTopic("jobs"))
    driver.do(CreateTopic("least", TopicSettings("min", 10_000, 500, 0, False, False)))
    driver.do(CreateTopic("mine", TopicSettings(exclusive=True)), session=2)
    driver.do(CreateTopic("brief", TopicSettings(expires_ms=300)))
    driver.do(CreateExchange("e", "topic", auto_delete=True))
    driver.do(Bind("e", "jobs", "a.*"))
    driver.do(Bind("e", "least", "#"))
    for number in range(30):
        driver.do(
            Publish("e", "a.b", NewMessage(b"payload", number % 4 - 2, delay_ms=100 * (number % 3), expires_ms=0))
        )
    driver.do(Subscribe("jobs", 3, lease_ms=50))
    driver.do(Subscribe("jobs", 2, credit_bytes=20), session=2)
    driver.do(Subscribe("least", 1, no_ack=True), session=2)
    driver.do(Pop("mine", 2, wait_ms=1000), session=2)
    driver.detach(3)
    driver.taken()
    return driver


def test_a_restored_replica_is_the_same_to_the_last_bit(busy: Driver) -> None:
    twin = busy.restored()
    assert twin.machine.state_hash() == busy.machine.state_hash()
    assert list(twin.machine.snapshot()) == list(busy.machine.snapshot())
    assert twin.machine.next_deadline() == busy.machine.next_deadline()
    states = [one.machine._state for one in (busy, twin)]
    for name in ("message_bytes", "bindings", "last_message", "last_consumer", "last_topic", "now_ms"):
        assert getattr(states[0], name) == getattr(states[1], name)


def test_a_restored_replica_goes_on_in_step(busy: Driver) -> None:
    twin = busy.restored()
    for step in range(40):
        for driver in (busy, twin):
            driver.wait(13)
            driver.do(Enqueue("jobs", NewMessage(b"more", step % 5)))
            driver.do(Publish("e", "x", NewMessage(b"more", -step)))
        pushed = [driver.taken() for driver in (busy, twin)]
        assert pushed[0] == pushed[1]
        assert busy.machine.state_hash() == twin.machine.state_hash()


def test_a_restored_replica_knows_whose_turn_it_is() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    consumers = [driver.do(Subscribe("jobs", 9)).consumer for _ in range(3)]
    driver.do(Enqueue("jobs", NewMessage(b"one")))
    driver.do(Enqueue("jobs", NewMessage(b"two")))
    twin = driver.restored()
    driver.taken()
    for replica in (driver, twin):
        replica.do(EnqueueMany("jobs", [NewMessage(b"three"), NewMessage(b"four")]))
        assert [one.consumer for one in replica.deliveries()] == [consumers[2], consumers[0]]


def test_a_view_does_not_show_what_happens_while_it_is_written(busy: Driver) -> None:
    before = busy.machine.state_hash()
    view = busy.machine.snapshot()
    first = next(view)
    busy.do(Purge("jobs"))
    busy.do(Unbind("e", "jobs", "a.*"))
    busy.do(Enqueue("jobs", NewMessage(b"new")))
    busy.wait(1000)
    busy.expire(2)
    twin = Driver(sessions=0)
    twin.machine.restore([first, *view])
    assert twin.machine.state_hash() == before != busy.machine.state_hash()


def test_garbage_and_history_do_not_show_in_the_hash() -> None:
    """Two ways to the same state. One had thousands of expired and purged messages, freed or not."""
    direct, winding = Driver(), Driver()
    for driver in (direct, winding):
        driver.do(CreateTopic("jobs"))
    winding.do(EnqueueMany("jobs", [NewMessage(b"x", n % 9, 0, 1 + n % 50) for n in range(5000)]))
    winding.wait(49)
    direct.now = 49
    direct.machine.advance(49, 1)
    winding.do(Purge("jobs"))
    for driver in (direct, winding):
        driver.machine._state.last_message = 5000
        driver.do(EnqueueMany("jobs", [NewMessage(b"y", 3), NewMessage(b"z", 9)]))
    assert len(winding.machine._state.topics["jobs"].ready) == 2
    assert direct.machine.state_hash() == winding.machine.state_hash()
    winding.work_off(100)
    assert direct.machine.state_hash() == winding.machine.state_hash()


def test_the_layout_of_the_ready_messages_does_not_show_in_the_hash() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", 1, 0, 5 + 100 * (n % 2)) for n in range(2000)]))
    driver.wait(5)
    twin = driver.restored()
    chunks, restored = (len(one.machine._state.topics["jobs"].ready.chunks) for one in (driver, twin))
    assert chunks > restored
    assert twin.machine.state_hash() == driver.machine.state_hash()


def test_the_hash_tells_states_apart() -> None:
    driver = Driver()
    seen = {driver.machine.state_hash()}
    steps = [
        CreateTopic("jobs"),
        Enqueue("jobs", NewMessage(b"x")),
        Subscribe("jobs", 2),
        Ack([(1, 1)]),
        CreateExchange("e"),
        Bind("e", "jobs"),
        Unbind("e", "jobs"),
    ]
    for step in steps:
        driver.do(step)
        seen.add(driver.machine.state_hash())
    assert len(seen) == len(steps)  # an exchange without bindings hashes as before its first binding
    assert all(len(one) == 16 for one in seen)


def test_pieces_are_small_whatever_the_payloads() -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(EnqueueMany("jobs", [NewMessage(b"small")] * 9000))
    driver.do(Enqueue("jobs", NewMessage(b"x" * (1 << 20), 9)))
    pieces = list(driver.machine.snapshot())
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert driver.restored().info().ready == 9001


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_may_be_cut_anywhere(busy: Driver, size: int) -> None:
    whole = b"".join(busy.machine.snapshot())
    twin = Driver(sessions=0)
    twin.machine.restore(whole[start : start + size] for start in range(0, len(whole), size))
    assert twin.machine.state_hash() == busy.machine.state_hash()


def test_a_snapshot_cut_short_anywhere_is_refused_and_leaves_the_state(busy: Driver) -> None:
    whole = b"".join(busy.machine.snapshot())
    twin = Driver()
    before = twin.machine.state_hash()
    for end in range(0, len(whole), 11):
        with pytest.raises(SnapshotDamaged):
            twin.machine.restore([whole[:end]])
    assert twin.machine.state_hash() == before


def test_a_flipped_bit_anywhere_is_refused(busy: Driver) -> None:
    whole = bytearray(b"".join(busy.machine.snapshot()))
    for place in range(0, len(whole), 7):
        whole[place] ^= 0x10
        with pytest.raises(SnapshotDamaged):
            Driver().machine.restore([bytes(whole)])
        whole[place] ^= 0x10


def block(table: str, *rows: object) -> bytes:
    body = msgspec.msgpack.encode((table, rows))
    return struct.pack("<II", len(body), crc32(body)) + body


@pytest.mark.parametrize(
    "blocks",
    [
        [block("furniture", (1,)), block("end", (1,))],
        [block("sessions", (1, True, "")), block("end", (2,))],
        [block("end", (0,)), block("sessions", (1, True, ""))],
        [block("rings", (1, 1)), block("end", (1,))],
        [block("sessions", (1, True, "", 5)), block("end", (1,))],
    ],
    ids=["table", "count", "behind the end", "dangling", "fields"],
)
def test_a_snapshot_that_makes_no_sense_is_refused(blocks: list[bytes]) -> None:
    with pytest.raises(SnapshotDamaged) as caught:
        Driver().machine.restore(blocks)
    assert str(caught.value)


@pytest.mark.parametrize(("form", "other"), [(FORMAT - 1, "older"), (FORMAT + 1, "newer")])
def test_a_snapshot_of_another_format_is_refused_by_name_and_changes_nothing(form: int, other: str) -> None:
    driver = Driver()
    before = driver.machine.state_hash()
    with pytest.raises(VersionUnsupported, match=f"format {form}, and this release reads format {FORMAT}.*{other}"):
        driver.machine.restore([block("machine", (form, 1, 0, 0, 0, 0)), block("end", (1,))])
    assert driver.machine.state_hash() == before


def test_a_lease_of_a_deleted_topic_and_a_lost_session_survives_a_snapshot() -> None:
    """Schedule: a session with many leases expires, and its topic with it. The replica restarts before all leases are
    given back."""
    driver = Driver()
    driver.do(CreateTopic("mine", TopicSettings(exclusive=True)))
    driver.do(EnqueueMany("mine", [NewMessage(b"x")] * 5000))
    driver.do(Subscribe("mine", 5000))
    driver.work_off(5000)
    held = driver.deliveries()
    driver.expire(1)
    twin = driver.restored()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert twin.machine.backlog()
    for one in (driver, twin):
        one.work_off(333)
        assert one.machine.stats()["leased"] == one.machine.stats()["message_bytes"] == 0
        assert one.do(Ack([token(held[-1])]), session=2).count == 0
    assert twin.machine.state_hash() == driver.machine.state_hash()
