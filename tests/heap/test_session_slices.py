"""Sessions that hold much attach and end in slices."""

from __future__ import annotations

import pytest

from disheap.protocol.broker import (
    BATCH_MAX,
    Ack,
    CreateTopic,
    Deliver,
    Enqueue,
    EnqueueMany,
    NewMessage,
    Pop,
    Publish,
    Recover,
    Subscribe,
    TopicSettings,
)
from disheap_heap.commands import sessions
from disheap_heap.settings import (
    MAX_DELIVERIES_PER_CALL,
    MAX_END_UNITS_PER_CALL,
    MAX_RESENT_PER_REPLY,
    MAX_RETURNS_PER_CALL,
)

from .driver import PLENTY, Driver, token
from .large_states import MANY, come_back_with_many_leases, end_a_session_that_has_much, fan_out, filled


def test_a_session_that_attaches_again_is_served_in_slices() -> None:
    driver = Driver()
    fan_out(driver)
    driver.detach(1)
    driver.do(Publish("all", "", NewMessage(b"x")), session=2)
    driver.attach(1)
    assert len(driver.deliveries()) == MAX_DELIVERIES_PER_CALL
    driver.work_off(100)
    assert len(driver.deliveries()) == MANY - MAX_DELIVERIES_PER_CALL


@pytest.mark.parametrize("compared_per_call", [1, 1000])
def test_the_consumers_of_a_session_that_attaches_are_last_in_their_turns(
    monkeypatch: pytest.MonkeyPatch, compared_per_call: int
) -> None:
    """A property test found it: the place in the turns depended on how many leases one call compared."""
    monkeypatch.setattr(sessions, "MAX_SCANNED_PER_CALL", compared_per_call)
    driver = Driver()
    driver.do(CreateTopic("jobs", TopicSettings()))
    for _ in range(2):
        driver.do(Subscribe("jobs", 2), session=1)
    driver.do(EnqueueMany("jobs", [NewMessage(b"held")] * 2))
    held = [token(one) for one in driver.deliveries(1)]
    driver.do(Subscribe("jobs", 3), session=2)
    driver.attach(1, *held)
    driver.work_off(1)
    driver.do(Enqueue("jobs", NewMessage(b"x")), session=2)
    assert (driver.payloads(2), driver.payloads(1)) == ([b"x"], [])


def test_an_expired_session_gives_back_in_slices_over_all_that_it_owned() -> None:
    driver = Driver()
    for name in ("a", "b"):
        driver.do(CreateTopic(name, TopicSettings(exclusive=True)))
        driver.do(EnqueueMany(name, [NewMessage(b"x")] * MAX_RETURNS_PER_CALL))
        driver.do(Subscribe(name, MAX_RETURNS_PER_CALL))
        driver.work_off(PLENTY)
    driver.expire(1)
    assert driver.machine.stats()["leased"] == MAX_RETURNS_PER_CALL
    driver.work_off(100)
    assert driver.machine.stats()["leased"] == 0


def test_an_expired_session_gives_back_in_slices_the_oldest_lease_first() -> None:
    driver = filled()
    driver.do(Subscribe("jobs", MANY))
    driver.work_off(PLENTY)
    held = [one.id for one in driver.deliveries()]
    driver.expire(1)
    assert driver.info().ready == MAX_RETURNS_PER_CALL
    driver.wait(0, limit=10)
    assert driver.info().ready == MAX_RETURNS_PER_CALL + 10
    back = sorted(driver.machine._state.topics["jobs"].ready.by_id())
    assert back == sorted(held[: MAX_RETURNS_PER_CALL + 10])
    driver.work_off(100)
    assert (driver.info().ready, driver.info().leased) == (MANY, 0)
    assert driver.machine.stats()["consumers"] == 0


def test_a_session_that_has_much_ends_in_slices() -> None:
    """A session with 100,000 topics of its own took more than a second."""
    driver = filled()
    end_a_session_that_has_much(driver)
    left = driver.machine.stats()["topics"]
    assert 1 < left < MAX_END_UNITS_PER_CALL
    driver.wait(0, limit=10)
    assert left - 10 <= driver.machine.stats()["topics"] < left
    driver.work_off(100)
    stats = driver.machine.stats()
    assert (stats["topics"], stats["bindings"], stats["consumers"], stats["leased"]) == (1, 0, 1, 7)
    assert not driver.machine.backlog()


def test_a_topic_of_a_session_that_is_ending_may_be_taken_over() -> None:
    driver = filled()
    for number in range(MAX_END_UNITS_PER_CALL + 10):
        driver.do(CreateTopic(f"own-{number}", TopicSettings(exclusive=True)), session=2)
    driver.expire(2)
    driver.do(CreateTopic(f"own-{MAX_END_UNITS_PER_CALL + 9}", TopicSettings(exclusive=True)))
    driver.work_off(100)
    assert driver.machine.stats()["topics"] == 2


def test_an_attach_sends_the_leases_in_slices_and_each_once() -> None:
    driver = filled()
    come_back_with_many_leases(driver)
    driver.taken()
    resumed = driver.attach(1)
    pushed = driver.deliveries()
    assert (len(resumed.deliveries), len(pushed)) == (MAX_RESENT_PER_REPLY, MAX_DELIVERIES_PER_CALL)
    driver.do(Ack([(BATCH_MAX, 1)]))
    driver.work_off(100)
    tokens = [token(one) for one in [*resumed.deliveries, *pushed, *driver.deliveries()]]
    assert len(tokens) == len(set(tokens)) == BATCH_MAX - 1


def test_an_attach_compares_leases_in_slices_before_new_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million leases stopped the loop for 200 ms."""
    monkeypatch.setattr(sessions, "MAX_SCANNED_PER_CALL", 1)
    driver = Driver()
    for name in ("a", "b", "c"):
        driver.do(CreateTopic(name))
        driver.do(EnqueueMany(name, [NewMessage(b"x")] * 2))
        driver.do(Subscribe(name, 4))
    held = driver.deliveries()
    resumed = driver.attach(1, token(held[0]), token(held[2]))
    assert [token(one) for one in resumed.deliveries] == [token(held[1])]
    driver.do(Enqueue("a", NewMessage(b"new")))
    driver.do(Ack([token(held[4])]))
    assert driver.deliveries() == []
    twin = driver.restored()
    for one in (driver, twin):
        assert one.machine.backlog()
        one.work_off(1)
        assert [(push.payload, push.epoch) for push in one.deliveries()] == [(b"new", 1), (b"x", 1), (b"x", 1)]
    assert twin.machine.state_hash() == driver.machine.state_hash()


def test_nothing_is_sent_again_to_a_session_that_detached_again() -> None:
    driver = filled()
    come_back_with_many_leases(driver)
    driver.taken()
    driver.detach(1)
    driver.work_off(100)
    assert driver.taken() == []


def test_a_lease_that_is_being_given_back_is_not_sent_again() -> None:
    driver = filled()
    come_back_with_many_leases(driver)
    driver.taken()
    driver.attach(1)
    driver.taken()
    driver.do(Recover([1]))
    driver.work_off(100)
    assert {one.epoch for one in driver.deliveries()} == {2}


def test_a_pop_that_ends_with_its_topic_amid_the_end_of_its_session_ends_once() -> None:
    driver = Driver()
    driver.do(CreateTopic("t", TopicSettings(auto_delete=True)))
    driver.do(Subscribe("t", 1))
    driver.do(Pop("t", wait_ms=1000))
    driver.expire(1)
    assert (driver.machine.stats()["topics"], driver.machine.stats()["consumers"]) == (0, 0)
    assert not driver.machine.backlog()


def test_a_session_that_expires_amid_its_deliveries_loses_no_message() -> None:
    """Schedule: the session expires when half of a slice was delivered. Every message is ready again."""
    driver = filled()
    driver.do(Subscribe("jobs", MANY))
    assert all(isinstance(one, Deliver) for one in driver.taken())
    driver.expire(1)
    driver.work_off(50)
    assert driver.info().ready == MANY
