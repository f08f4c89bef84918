"""What a full topic does: it refuses, or it drops the ready message of the lowest priority."""

from __future__ import annotations

import pytest

from disheap.errors import InvalidArgument, TopicFull
from disheap.protocol.broker import (
    BATCH_MAX,
    Ack,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Peek,
    Subscribe,
    TopicSettings,
)

from .driver import Driver, token


def dropping(bound: int = 3, mode: str = "max") -> Driver:
    driver = Driver()
    driver.do(CreateTopic("jobs", TopicSettings(mode, bound, overflow="drop")))
    return driver


def put(driver: Driver, *priorities: int) -> None:
    for priority in priorities:
        driver.do(Enqueue("jobs", NewMessage(b"x", priority)))


def waiting(driver: Driver) -> list[tuple[int, int]]:
    """(priority, id) of the ready messages, in the order of delivery."""
    return [(one.priority, one.id) for one in driver.ask(Peek("jobs", 1000)).messages]


def test_among_equals_the_oldest_is_dropped() -> None:
    driver = dropping()
    put(driver, 0, 0, 0, 0, 0)
    assert waiting(driver) == [(0, 3), (0, 4), (0, 5)]
    assert driver.machine.stats()["dropped"] == 2


@pytest.mark.parametrize(("mode", "kept"), [("max", [(9, 1), (7, 4), (5, 2)]), ("min", [(1, 3), (5, 2), (7, 4)])])
def test_the_lowest_priority_is_dropped_first(mode: str, kept: list[tuple[int, int]]) -> None:
    driver = dropping(mode=mode)
    put(driver, 9, 5, 1, 7)
    assert waiting(driver) == kept


def test_the_new_message_is_dropped_if_all_others_have_higher_priorities() -> None:
    driver = dropping()
    put(driver, 5, 5, 5, 1)
    assert waiting(driver) == [(5, 1), (5, 2), (5, 3)]


@pytest.mark.parametrize("bound", [1, 3, 100])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_batch_drops_what_single_messages_would_have_dropped(mode: str, bound: int) -> None:
    new = [NewMessage(b"%d" % number, number * 7 % 10, 0, number % 3 * (1000 - number)) for number in range(250)]
    batch, single = dropping(bound, mode), dropping(bound, mode)
    batch.do(EnqueueMany("jobs", new[:50]))
    batch.do(EnqueueMany("jobs", new[50:]))
    for one in new:
        single.do(Enqueue("jobs", one))
    assert waiting(batch) == waiting(single)
    for driver in (batch, single):
        assert driver.machine.stats()["dropped"] == 250 - bound
        assert driver.machine.work_done() == 250 + 250 - bound
        driver.machine._state.timers.next_deadline()
    for milliseconds in range(100, 2100, 100):
        for driver in (batch, single):
            driver.wait(milliseconds)
        assert waiting(batch) == waiting(single)
        assert batch.machine.state_hash() == single.machine.state_hash()
    assert batch.machine.next_deadline() is None


def test_a_small_topic_that_drops_does_not_grow_by_a_large_batch() -> None:
    driver = dropping(3)
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", number % 5) for number in range(BATCH_MAX)]))
    driver.machine._state.topics["jobs"].ready.check()
    assert driver.info().ready == 3


def test_leased_messages_count_only_after_they_are_given_back() -> None:
    driver = dropping()
    driver.do(Subscribe("jobs", 2))
    put(driver, 0, 0, 0, 0, 0)
    held = driver.deliveries()
    assert (len(held), len(waiting(driver))) == (2, 3)
    driver.do(Nack([token(held[0])]))
    assert len(waiting(driver)) + len(driver.deliveries()) + 1 <= 5
    for one in (driver, driver.restored()):
        assert len(waiting(one)) <= 3


def test_a_batch_drops_what_does_not_fit() -> None:
    driver = dropping()
    driver.do(EnqueueMany("jobs", [NewMessage(b"x", number) for number in range(10)]))
    assert [priority for priority, _ in waiting(driver)] == [9, 8, 7]


def test_delayed_messages_are_bounded_by_themselves() -> None:
    driver = dropping()
    for _ in range(3):
        driver.do(Enqueue("jobs", NewMessage(b"x", 0, 50)))
    with pytest.raises(TopicFull, match="3 delayed"):
        driver.do(Enqueue("jobs", NewMessage(b"x", 0, 50)))
    put(driver, 1, 1, 1)
    driver.wait(50)
    assert [priority for priority, _ in waiting(driver)] == [1, 1, 1]


def test_a_restored_replica_drops_the_same() -> None:
    driver = dropping(5)
    put(driver, 3, 1, 4, 1, 5, 9, 2, 6)
    driver.do(Subscribe("jobs", 1))
    driver.do(Ack([token(driver.deliveries()[0])]))
    twin = driver.restored()
    for one in (driver, twin):
        put(one, 5, 3, 5, 8)
    assert waiting(driver) == waiting(twin)
    assert driver.machine.state_hash() == twin.machine.state_hash()


def test_an_unknown_overflow_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="overflow"):
        Driver().do(CreateTopic("jobs", TopicSettings(overflow="explode")))
