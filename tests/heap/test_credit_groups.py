"""Credit that the consumers of a session share (AMQP's prefetch count of a channel)."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import InvalidArgument
from disheap.protocol.broker import (
    CREDIT_GROUP_CONSUMERS_MAX,
    Ack,
    Cancel,
    CreateTopic,
    Enqueue,
    EnqueueMany,
    Nack,
    NewMessage,
    Recover,
    SetCredit,
    Subscribe,
)
from disheap_heap.settings import MAX_DELIVERIES_PER_CALL, MAX_RETURNS_PER_CALL

from .driver import PLENTY, Driver, token

NAMES = ("a", "b", "c")


@pytest.fixture
def filled() -> Driver:
    """Three topics with four messages each: a0, a1, ..."""
    driver = Driver()
    for name in NAMES:
        driver.do(CreateTopic(name))
        for number in range(4):
            driver.do(Enqueue(name, NewMessage(f"{name}{number}".encode())))
    return driver


def subscribe(driver: Driver, credit: int, group: int = 1, session: int = 1, names: Any = NAMES, **more: Any) -> None:
    for name in names:
        driver.do(Subscribe(name, credit, group=group, **more), session)


def settle_oldest(driver: Driver, held: list[Any]) -> list[bytes]:
    """Acknowledges the oldest delivery in `held`. Returns the deliveries that follow, and adds them to `held`."""
    driver.do(Ack([token(held.pop(0))]))
    came = driver.deliveries()
    held += came
    return [one.payload for one in came]


def test_a_group_holds_no_more_than_its_credit_over_all_topics(filled: Driver) -> None:
    subscribe(filled, 2)
    assert filled.payloads() == [b"a0", b"a1"]
    subscribe(filled, 2, session=2)
    assert filled.payloads(2) == [b"a2", b"a3"], "another session has a credit of its own"
    assert [filled.info(name).leased for name in NAMES] == [4, 0, 0]


def test_a_message_in_one_topic_uses_up_the_credit_for_the_others() -> None:
    driver = Driver()
    for name in NAMES:
        driver.do(CreateTopic(name))
    subscribe(driver, 1)
    for name in ("b", "a", "c", "b"):
        driver.do(Enqueue(name, NewMessage(name.encode())))
    held = driver.deliveries()
    assert [one.payload for one in held] == [b"b"]
    assert [settle_oldest(driver, held) for _ in range(3)] == [[b"a"], [b"c"], [b"b"]]


def test_topics_of_a_group_take_turns_with_the_longest_unserved_first(filled: Driver) -> None:
    subscribe(filled, 1)
    held = filled.deliveries()
    came = [settle_oldest(filled, held) for _ in range(8)]
    assert came == [[b"b0"], [b"c0"], [b"a1"], [b"b1"], [b"c1"], [b"a2"], [b"b2"], [b"c2"]]


def test_within_a_topic_priority_decides(filled: Driver) -> None:
    subscribe(filled, 1)
    held = filled.deliveries()
    filled.do(Enqueue("b", NewMessage(b"urgent", 9)))
    assert settle_oldest(filled, held) == [b"urgent"]


def test_a_message_of_any_topic_uses_the_credit_up_and_any_settlement_frees_it(filled: Driver) -> None:
    subscribe(filled, 3, names=("a",))
    first = filled.deliveries()
    subscribe(filled, 3, names=("b",))
    assert filled.payloads() == []
    filled.do(Nack([token(first[0])], discard=True))
    assert filled.payloads() == [b"b0"]


def test_credit_in_bytes_is_shared_too(filled: Driver) -> None:
    subscribe(filled, 100, credit_bytes=3)
    assert filled.payloads() == [b"a0", b"a1"]


def test_the_credit_of_a_group_changes_live(filled: Driver) -> None:
    subscribe(filled, 1)
    held = filled.deliveries()
    filled.do(SetCredit(0, 4, 0, 1))
    held += filled.deliveries()
    assert [one.payload for one in held] == [b"a0", b"b0", b"b1", b"b2"]
    filled.do(SetCredit(0, 2, 0, 1))
    assert [settle_oldest(filled, held) for _ in range(3)] == [[], [], [b"c0"]]


def test_the_last_subscription_sets_the_credit(filled: Driver) -> None:
    subscribe(filled, 1, names=("a",))
    subscribe(filled, 3, names=("b",))
    assert filled.payloads() == [b"a0", b"b0", b"b1"], "who was given nothing yet goes first"


def test_a_consumers_own_credit_cannot_be_set_in_a_group(filled: Driver) -> None:
    subscribe(filled, 1)
    with pytest.raises(InvalidArgument, match="shares the credit of group 1"):
        filled.do(SetCredit(1, 5))


def test_what_a_cancelled_consumer_holds_counts_until_it_is_settled(filled: Driver) -> None:
    subscribe(filled, 1)
    held = filled.deliveries()
    filled.do(Cancel(1))
    assert filled.payloads() == []
    assert settle_oldest(filled, held) == [b"b0"]


def test_a_group_ends_with_its_last_consumer(filled: Driver) -> None:
    subscribe(filled, 1, names=("a",))
    filled.do(Cancel(1, give_back=True))
    assert not filled.machine._state.sessions[1].groups
    filled.taken()
    subscribe(filled, 2, names=("b",))
    assert filled.payloads() == [b"b0", b"b1"]


def test_a_session_that_attaches_again_keeps_its_groups(filled: Driver) -> None:
    subscribe(filled, 1)
    (held,) = filled.deliveries()
    filled.detach(1)
    filled.do(Nack([token(held)], discard=True), 1)
    assert filled.payloads() == []
    filled.attach(1)
    assert filled.payloads() == [b"b0"]


def test_a_session_that_ends_frees_what_its_groups_held(filled: Driver) -> None:
    subscribe(filled, 2)
    subscribe(filled, 100, session=2)
    filled.taken()
    filled.expire(1)
    assert sorted(filled.payloads(2)) == [b"a0", b"a1"]
    assert not filled.machine._state.freed


def test_a_restored_replica_has_the_groups_and_their_turns(filled: Driver) -> None:
    subscribe(filled, 1)
    held = filled.deliveries()
    settle_oldest(filled, held)
    twin = filled.restored()
    twin_held = list(held)
    for _ in range(5):
        assert settle_oldest(filled, held) == settle_oldest(twin, twin_held)
    assert filled.machine.state_hash() == twin.machine.state_hash()


def test_a_group_is_bounded() -> None:
    driver = Driver()
    driver.do(CreateTopic("t"))
    for _ in range(CREDIT_GROUP_CONSUMERS_MAX):
        driver.do(Subscribe("t", 1, group=1))
    with pytest.raises(InvalidArgument, match="use another"):
        driver.do(Subscribe("t", 1, group=1))
    driver.do(Subscribe("t", 1, group=2))


def test_an_ended_consumer_that_holds_something_takes_no_place_in_its_group() -> None:
    driver = Driver()
    driver.do(CreateTopic("t"))
    held = []
    for _ in range(CREDIT_GROUP_CONSUMERS_MAX):
        number = driver.do(Subscribe("t", 1000, group=1)).consumer
        driver.do(Enqueue("t", NewMessage(b"m")))
        held += driver.deliveries()
        driver.do(Cancel(number))
    driver.do(Subscribe("t", CREDIT_GROUP_CONSUMERS_MAX, group=1))
    driver.do(Enqueue("t", NewMessage(b"next")))
    assert driver.payloads() == [], "what they hold counts"
    twin = driver.restored()
    assert settle_oldest(driver, held) == [b"next"]
    assert twin.do(Ack([token(held[-1])])) is not None


def test_a_group_of_ended_consumers_goes_with_the_last_lease(filled: Driver) -> None:
    subscribe(filled, 1, names=("a",))
    (held,) = filled.deliveries()
    filled.do(Cancel(1))
    filled.do(SetCredit(0, 3, 0, 1))
    filled.do(Ack([token(held)]))
    assert not filled.machine._state.sessions[1].groups
    assert not filled.machine._state.freed


def test_a_group_lasts_as_long_as_an_ended_consumer_of_it_holds_something(filled: Driver) -> None:
    subscribe(filled, 2, names=("a", "b"))
    held = filled.deliveries()
    filled.do(Cancel(1))
    filled.do(Cancel(2, give_back=True))
    subscribe(filled, 2, names=("c",))
    assert len(held) == 2 and filled.payloads() == []
    assert settle_oldest(filled, held) == [b"c0"]


def test_a_session_that_ends_gives_back_what_ended_consumers_hold(filled: Driver) -> None:
    subscribe(filled, 1, names=("a",))
    filled.deliveries()
    filled.do(Cancel(1))
    filled.expire(1)
    assert not filled.machine._state.freed
    subscribe(filled, 1, session=2, names=("a",))
    assert filled.payloads(2) == [b"a0"]


def test_many_freed_groups_are_served_in_slices_and_in_step() -> None:
    """Leases of 200 groups end together. A replica that is restored in between continues in the same order."""
    driver = Driver()
    for name in ("t", "u"):
        driver.do(CreateTopic(name))
    for group in range(1, 201):
        for name in ("t", "u"):
            driver.do(Subscribe(name, 1, group=group, lease_ms=10))
    for number in range(200):
        driver.do(Enqueue("t", NewMessage(b"%d" % number)))
        driver.do(Enqueue("u", NewMessage(b"%d" % number)))
    driver.taken()
    driver.wait(10, limit=30)
    assert driver.machine.backlog()
    twin = driver.restored()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert driver.work_off(30) == twin.work_off(30) > 3
    assert driver.taken() == twin.taken()
    assert driver.machine.state_hash() == twin.machine.state_hash()


def test_leases_that_go_back_in_slices_free_their_group_at_once() -> None:
    """The consumer that gives them back gets nothing before it is done. The others of its group do not wait for it."""
    driver = Driver()
    many = MAX_RETURNS_PER_CALL + 5
    for name in ("a", "b"):
        driver.do(CreateTopic(name))
    driver.do(EnqueueMany("a", [NewMessage(b"a")] * many))
    subscribe(driver, many, names=("a", "b"))
    while driver.machine.backlog():
        driver.work_off(many)
    held = driver.deliveries()
    driver.do(Enqueue("b", NewMessage(b"b")))
    assert len(held) == many
    assert driver.deliveries() == [], "the group is full"
    driver.do(Recover([held[0].consumer]))
    assert driver.machine.backlog(), "the last leases are still to go back"
    assert driver.payloads() == [b"b"]


def test_groups_that_have_credit_again_share_the_deliveries_of_one_call() -> None:
    driver = Driver()
    consumers = range(3 * CREDIT_GROUP_CONSUMERS_MAX)
    for number in consumers:
        driver.do(CreateTopic(f"t{number}"))
        driver.do(Enqueue(f"t{number}", NewMessage(b"x")))
        group = 1 + number // CREDIT_GROUP_CONSUMERS_MAX
        driver.do(Subscribe(f"t{number}", CREDIT_GROUP_CONSUMERS_MAX, group=group))
    held = [token(one) for one in driver.deliveries()]
    assert len(held) == len(consumers)
    driver.do(Nack(held))
    first = len(driver.deliveries())
    assert first <= MAX_DELIVERIES_PER_CALL
    driver.work_off(PLENTY)
    assert first + len(driver.deliveries()) == len(consumers)
