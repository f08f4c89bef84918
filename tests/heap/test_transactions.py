"""Two-phase commit: what is prepared, what a decision does, and that a late, repeated or early one changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import (
    CommandRefused,
    InvalidArgument,
    LeaseLost,
    TopicFull,
    TopicInUse,
    TopicNotFound,
    TransactionNotFound,
    TransactionOver,
    WrongEpoch,
)
from disheap.protocol.broker import (
    Abort,
    Ack,
    Batch,
    Bind,
    Commit,
    Committed,
    CreateExchange,
    CreateTopic,
    DeleteTopic,
    Done,
    Enqueue,
    EnqueueMany,
    Extend,
    GetStats,
    ListTransactions,
    Nack,
    NewMessage,
    Peek,
    Prepare,
    Publish,
    Purge,
    Recover,
    Subscribe,
    TopicSettings,
    TransactionInfo,
    TransactionInfos,
)
from disheap_heap.settings import MESSAGES_PER_ABORT_UNIT

from .driver import Driver, token


def with_topics(**settings: Any) -> Driver:
    driver = Driver(**settings)
    driver.do(CreateTopic("jobs"))
    driver.do(CreateTopic("done"))
    driver.do(CreateTopic("small", TopicSettings(max_messages=2)))
    return driver


def with_leases(count: int = 2) -> tuple[Driver, list[tuple[int, int]]]:
    driver = with_topics()
    driver.do(EnqueueMany("jobs", [NewMessage(b"job %d" % number) for number in range(count)]))
    driver.do(Subscribe("jobs", count, lease_ms=100))
    return driver, [token(one) for one in driver.deliveries()]


def enqueue(topic: str, payload: bytes = b"x", **fields: Any) -> Enqueue:
    return Enqueue(topic, NewMessage(payload, **fields))


def prepare(driver: Driver, *items: Any, name: str = "tx", epoch: int = 1, timeout_ms: int = 0) -> Any:
    return driver.do(Prepare(name, epoch, timeout_ms, list(items) or [enqueue("done")]))


def assert_unchanged(driver: Driver, command: Any, error: type[CommandRefused], text: str) -> None:
    before = driver.machine.state_hash()
    with pytest.raises(error, match=text):
        driver.do(command)
    assert driver.machine.state_hash() == before


# --- what is prepared ---


def test_prepared_messages_are_seen_by_nobody_before_the_commit() -> None:
    driver = with_topics()
    driver.do(Subscribe("done", 10))
    assert prepare(driver, enqueue("done", b"a"), enqueue("jobs", b"b")) == Done()
    assert (driver.taken(), driver.info("done").ready, driver.info().ready) == ([], 0, 0)
    assert driver.ask(Peek("jobs", 10, True, True)).messages == []
    assert driver.do(Commit("tx", 1)) == Committed(1, 2)
    assert driver.payloads() == [b"a"]
    assert [one.payload for one in driver.ask(Peek("jobs", 10)).messages] == [b"b"]


def test_messages_are_ordered_by_the_commit() -> None:
    driver = with_topics()
    prepare(driver, enqueue("jobs", b"prepared"))
    driver.do(enqueue("jobs", b"between"))
    driver.do(Commit("tx", 1))
    assert [one.payload for one in driver.ask(Peek("jobs", 10)).messages] == [b"between", b"prepared"]


def test_delay_and_expiry_count_from_the_commit() -> None:
    driver = with_topics()
    prepare(driver, enqueue("jobs", delay_ms=50), enqueue("done", expires_ms=50))
    driver.wait(100)
    driver.do(Commit("tx", 1))
    assert (driver.info().delayed, driver.info("done").ready) == (1, 1)
    driver.wait(50)
    assert (driver.info().ready, driver.info("done").ready) == (1, 0)


def test_prepared_messages_have_room_in_their_topics() -> None:
    driver = with_topics()
    prepare(driver, enqueue("small"))
    driver.do(enqueue("small"))
    with pytest.raises(TopicFull):
        driver.do(enqueue("small"))
    driver.do(Commit("tx", 1))
    assert driver.info("small").ready == 2
    with pytest.raises(TopicFull):
        prepare(driver, enqueue("small"), name="other")


def test_an_abort_gives_the_room_up() -> None:
    driver = with_topics()
    driver.do(CreateTopic("drops", TopicSettings(max_messages=1, overflow="drop")))
    prepare(driver, enqueue("small"), enqueue("small"), enqueue("drops", delay_ms=9))
    for full in (enqueue("small"), enqueue("drops", delay_ms=9)):
        with pytest.raises(TopicFull):
            driver.do(full)
    assert driver.do(Abort("tx", 1)) == Done()
    driver.do(Batch([enqueue("small"), enqueue("small"), enqueue("drops", delay_ms=9)]))


def test_messages_for_a_topic_that_is_deleted_meanwhile_are_dropped() -> None:
    driver = with_topics()
    prepare(driver, enqueue("done"), enqueue("jobs"))
    driver.do(DeleteTopic("done"))
    assert driver.do(Commit("tx", 1)) == Committed(1, 1)
    assert driver.info().ready == 1


def test_a_purge_leaves_prepared_messages_alone() -> None:
    driver = with_topics()
    prepare(driver, enqueue("jobs"))
    assert driver.do(Purge("jobs")).count == 0
    driver.do(Commit("tx", 1))
    assert driver.info().ready == 1


def test_a_prepared_publish_keeps_the_topics_that_it_had() -> None:
    driver = with_topics()
    driver.do(CreateExchange("all", "fanout"))
    for name in ("jobs", "done"):
        driver.do(Bind("all", name))
    prepare(driver, Publish("all", "", NewMessage(b"x" * 100)), Publish("", "nowhere", NewMessage(b"")))
    driver.do(CreateTopic("later"))
    driver.do(Bind("all", "later"))
    assert driver.do(Commit("tx", 1)) == Committed(1, 2)
    assert (driver.info("jobs").ready, driver.info("done").ready, driver.info("later").ready) == (1, 1, 0)
    assert driver.machine._state.repeated_bytes == 100


# --- frozen leases ---


def test_a_prepared_ack_freezes_its_message_until_the_decision() -> None:
    driver, tokens = with_leases()
    prepare(driver, Ack(tokens[:1]))
    driver.do(Recover([1]))
    assert [one.id for one in driver.deliveries()] == [2], "the other one"
    for command in (Ack(tokens[:1]), Nack(tokens[:1]), Extend(tokens[:1], 9)):
        assert driver.do(command).stale == tokens[:1]
    with pytest.raises(LeaseLost):
        driver.do(Batch([Ack(tokens[:1])]))
    driver.wait(1000)
    driver.expire(1)
    assert (driver.info().ready, driver.info().leased) == (1, 0)
    assert driver.do(Commit("tx", 1), session=2) == Committed(3, 0)
    assert driver.machine.stats()["message_bytes"] == len(b"job 1")


def test_an_abort_gives_a_frozen_message_back_to_its_place() -> None:
    driver, tokens = with_leases(3)
    prepare(driver, Ack(tokens[1:2]))
    assert driver.attach(1, *tokens[::2]).deliveries == [], "nothing is sent again"
    driver.do(Nack(tokens[::2], 500))
    driver.wait(500)
    driver.do(Abort("tx", 1))
    again = driver.deliveries()
    assert sorted((one.id, one.epoch) for one in again) == [(1, 2), (2, 2), (3, 2)]
    assert driver.do(Ack([(2, 1)])).stale == [(2, 1)]


def test_a_frozen_message_uses_no_credit() -> None:
    driver, tokens = with_leases()
    driver.do(enqueue("jobs", b"next"))
    prepare(driver, Ack(tokens[:1]))
    assert driver.payloads() == [b"next"]


def test_a_frozen_message_that_has_expired_is_dropped_by_the_abort() -> None:
    driver = with_topics()
    driver.do(enqueue("jobs", expires_ms=50))
    driver.do(Subscribe("jobs", 1))
    (delivery,) = driver.deliveries()
    prepare(driver, Ack([token(delivery)]))
    driver.wait(100)
    driver.do(Abort("tx", 1))
    assert (driver.info().ready, driver.machine.stats()["expired"], driver.taken()) == (0, 1, [])


def test_a_frozen_message_of_a_deleted_topic_is_dropped_by_the_abort() -> None:
    driver, tokens = with_leases()
    prepare(driver, Ack(tokens[:1]))
    driver.do(DeleteTopic("jobs"))
    driver.do(CreateTopic("jobs"))
    driver.do(Abort("tx", 1))
    assert (driver.info().ready, driver.machine.stats()["message_bytes"]) == (0, 0)


def test_a_frozen_message_takes_room_in_its_topic() -> None:
    driver = with_topics()
    driver.do(Batch([enqueue("small"), enqueue("small")]))
    driver.do(Subscribe("small", 2))
    tokens = [token(one) for one in driver.deliveries()]
    prepare(driver, Ack(tokens))
    with pytest.raises(TopicFull):
        driver.do(enqueue("small"))
    driver.do(Commit("tx", 1))
    driver.do(enqueue("small"))


# --- decisions ---


def test_a_repeated_prepare_changes_nothing() -> None:
    driver = with_topics()
    prepare(driver, enqueue("done"))
    before = driver.machine.state_hash()
    assert prepare(driver, enqueue("done"), enqueue("done")) == Done()
    assert driver.machine.state_hash() == before


def test_a_repeated_decision_is_answered_as_the_first_one_was() -> None:
    driver = with_topics()
    prepare(driver, enqueue("done"), enqueue("done"))
    first = driver.do(Commit("tx", 1))
    driver.do(enqueue("done"))
    before = driver.machine.state_hash()
    assert driver.do(Commit("tx", 1)) == first == Committed(1, 2)
    assert driver.machine.state_hash() == before
    prepare(driver, name="other")
    driver.do(Abort("other", 1))
    before = driver.machine.state_hash()
    assert driver.do(Abort("other", 1)) == Done()
    assert driver.machine.state_hash() == before


def test_a_decision_against_the_first_one_is_refused() -> None:
    driver = with_topics()
    prepare(driver, name="a")
    prepare(driver, name="b")
    driver.do(Commit("a", 1))
    driver.do(Abort("b", 1))
    assert_unchanged(driver, Abort("a", 1), TransactionOver, "'a' of epoch 1 is committed, and cannot be aborted")
    assert_unchanged(driver, Commit("b", 1), TransactionOver, "'b' of epoch 1 is aborted, and cannot be committed")
    for name in "ab":
        again = Prepare(name, 1, 0, [enqueue("done")])
        assert_unchanged(driver, again, TransactionOver, "cannot be prepared again; .* needs a higher epoch")


def test_an_abort_before_its_prepare_refuses_the_prepare() -> None:
    driver = with_topics()
    assert driver.do(Abort("tx", 2)) == Done()
    assert_unchanged(driver, Prepare("tx", 2, 0, [enqueue("done")]), TransactionOver, "is aborted")
    assert_unchanged(driver, Prepare("tx", 1, 0, [enqueue("done")]), WrongEpoch, "has epoch 2, not 1")
    assert prepare(driver, epoch=3) == Done()


def test_a_commit_of_an_unknown_transaction_is_refused() -> None:
    assert_unchanged(with_topics(), Commit("tx", 1), TransactionNotFound, "no transaction 'tx' of epoch 1")


def test_another_epoch_is_refused() -> None:
    driver = with_topics()
    prepare(driver, epoch=2)
    for epoch in (1, 3):
        for command in (Commit("tx", epoch), Abort("tx", epoch), Prepare("tx", epoch, 0, [enqueue("done")])):
            assert_unchanged(driver, command, WrongEpoch, f"'tx' has epoch 2, not {epoch}")
    driver.do(Commit("tx", 2))
    for earlier in (Commit("tx", 1), Abort("tx", 1)):
        assert_unchanged(driver, earlier, WrongEpoch, "has epoch 2, not 1")
    assert_unchanged(driver, Commit("tx", 3), TransactionNotFound, "of epoch 3")


def test_a_prepare_that_is_refused_leaves_nothing() -> None:
    driver, tokens = with_leases()
    items = [enqueue("done"), Ack(tokens), enqueue("nowhere")]
    assert_unchanged(driver, Prepare("tx", 1, 0, items), TopicNotFound, "item 3 of the batch")
    assert driver.do(Ack(tokens)).count == 2


def test_a_name_with_invisible_characters_is_refused() -> None:
    for command in (Prepare("a\u200b", 1, 0, [enqueue("done")]), Abort("a\u200b", 1)):
        assert_unchanged(with_topics(), command, InvalidArgument, "the name of a transaction")


# --- time ---


def test_a_coordinators_transaction_is_aborted_when_its_time_is_over() -> None:
    driver, tokens = with_leases()
    prepare(driver, enqueue("done"), Ack(tokens[:1]), timeout_ms=60)
    driver.wait(59)
    assert driver.ask(GetStats()).transactions == 1
    driver.wait(1)
    assert driver.ask(GetStats()).transactions == 0
    assert [one.id for one in driver.deliveries()] == [1]
    assert_unchanged(driver, Commit("tx", 1), TransactionOver, "is aborted")


def test_a_participant_never_decides_alone() -> None:
    driver, tokens = with_leases()
    prepare(driver, enqueue("done"), Ack(tokens))
    driver.expire(1)
    driver.wait(1 << 40)
    assert driver.machine.next_deadline() is None
    assert driver.ask(GetStats(), 2).transactions == 1
    assert driver.do(Commit("tx", 1), session=2) == Committed(3, 1)


def test_a_decision_in_time_stops_the_clock() -> None:
    for decision in (Commit("tx", 1), Abort("tx", 1)):
        driver = with_topics()
        prepare(driver, timeout_ms=60)
        driver.do(decision)
        assert driver.machine.next_deadline() is None


def test_a_topic_with_messages_of_an_open_transaction_is_not_empty() -> None:
    driver, (first, _) = with_leases(2)
    driver.do(Ack([(2, 1)]))
    prepare(driver, Ack([first]), enqueue("done"))
    for topic in ("jobs", "done"):
        text = f"topic '{topic}' has 1 messages of transactions that are not decided"
        assert_unchanged(driver, DeleteTopic(topic, if_empty=True), TopicInUse, text)
    driver.do(Commit("tx", 1))
    driver.do(DeleteTopic("jobs", if_empty=True))


def test_an_abort_by_time_counts_its_work() -> None:
    driver, tokens = with_leases(300)
    prepare(driver, Ack(tokens), timeout_ms=60, name="a")
    prepare(driver, timeout_ms=60, name="b")
    assert driver.wait(60, limit=100) == 100
    assert [one.transaction for one in driver.ask(ListTransactions()).transactions] == ["b"]


# --- bounds ---


def test_open_transactions_are_bounded() -> None:
    driver = with_topics(transactions=2, session_transactions=1)
    prepare(driver, name="a")
    assert_unchanged(driver, Prepare("b", 1, 0, [enqueue("done")]), InvalidArgument, "1 open transactions of session 1")
    driver.do(Prepare("b", 1, 0, [enqueue("done")]), session=2)
    with pytest.raises(
        InvalidArgument, match="there are 2 open transactions, which is the limit; raise `transactions`"
    ):
        driver.do(Prepare("c", 1, 0, [enqueue("done")]), session=3)
    driver.do(Abort("a", 1))
    prepare(driver, name="c")


def test_prepared_bytes_are_bounded() -> None:
    driver = with_topics(transaction_bytes=100)
    prepare(driver, enqueue("done", b"x" * 60), name="a")
    late = Prepare("b", 1, 0, [enqueue("done", b"x" * 41)])
    assert_unchanged(driver, late, InvalidArgument, r"have 60 bytes, and 41 more are over the limit of 100 \(`transac")
    driver.do(Commit("a", 1))
    driver.do(late)


def test_outcomes_are_remembered_within_a_bound() -> None:
    driver = with_topics(finished_transactions=2)
    for name in "abc":
        prepare(driver, name=name)
        driver.do(Commit(name, 1))
    assert_unchanged(driver, Commit("a", 1), TransactionNotFound, "its outcome is forgotten")
    assert (driver.do(Commit("b", 1)), driver.do(Commit("c", 1))) == (Committed(2, 1), Committed(3, 1))


# --- what shows and keeps it ---


def test_open_transactions_are_listed_and_counted() -> None:
    driver, tokens = with_leases()
    driver.wait(5)
    prepare(driver, enqueue("done", b"abc"), Ack(tokens), name="a", epoch=7, timeout_ms=60)
    prepare(driver, name="b")
    first = TransactionInfo("a", 7, 1, 5, 65, 1, 3, 2)
    page = driver.ask(ListTransactions("", 0, 1))
    assert page == TransactionInfos([first], 2)
    assert driver.ask(ListTransactions("", 1)).transactions[0].transaction == "b"
    assert driver.ask(ListTransactions("a")) == TransactionInfos([first], 1)
    driver.do(Abort("a", 7))
    assert driver.ask(ListTransactions("a")) == TransactionInfos([], 0, "aborted")
    driver.do(Commit("b", 1))
    assert driver.ask(ListTransactions("b")).outcome == "committed"
    assert driver.ask(ListTransactions("c")).outcome == ""
    prepare(driver, name="d")
    stats = driver.machine.stats()
    assert (stats["transactions"], stats["prepared"], stats["frozen"]) == (1, 1, 0)


@pytest.mark.parametrize("decision", [Commit("a", 7), Abort("a", 7)])
def test_a_restored_replica_decides_alike(decision: Commit | Abort) -> None:
    driver, tokens = with_leases(3)
    driver.do(CreateExchange("all", "fanout"))
    for name in ("jobs", "small"):
        driver.do(Bind("all", name))
    items = [enqueue("done", b"abc", key="k"), Ack(tokens[:2]), Publish("all", "", NewMessage(b"p", 3, 10, 90))]
    prepare(driver, *items, name="a", epoch=7, timeout_ms=600)
    prepare(driver, name="old")
    driver.do(Commit("old", 1))
    driver.taken()
    twin = driver.restored()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert twin.machine.memory_bytes() == driver.machine.memory_bytes()
    for one in (driver, twin):
        one.do(decision)
        one.wait(50)
        assert one.machine.next_deadline() == driver.machine.next_deadline()
    assert twin.taken() == driver.taken()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert twin.do(Commit("old", 1)) == driver.do(Commit("old", 1))


def test_a_restored_topic_keeps_the_room_of_open_transactions() -> None:
    driver = with_topics()
    prepare(driver, enqueue("small"))
    twin = driver.restored()
    twin.do(enqueue("small"))
    with pytest.raises(TopicFull):
        twin.do(enqueue("small"))


def test_a_view_shows_a_frozen_message_where_it_was() -> None:
    driver, tokens = with_leases()
    prepare(driver, Ack(tokens[:1]))
    expected = b"".join(driver.machine.snapshot())
    view = driver.machine.snapshot()
    driver.do(Abort("tx", 1))
    assert b"".join(view) == expected


def test_a_snapshot_after_an_abort_has_what_was_frozen_long() -> None:
    """Meanwhile the ids of the topic's messages are sorted out."""
    driver, tokens = with_leases()
    prepare(driver, Ack(tokens[:1]))
    driver.do(EnqueueMany("jobs", [NewMessage(b"x")] * 100))
    driver.do(Abort("tx", 1))
    driver.expire(1)
    assert driver.restored().info().ready == driver.info().ready == 102


def test_memory_of_a_transaction_is_given_back() -> None:
    driver = with_topics()
    before = driver.machine.memory_bytes()
    prepare(driver, enqueue("done", b"x" * 10_000))
    assert driver.machine.memory_bytes() - before > 10_000
    driver.do(Abort("tx", 1))
    assert driver.machine.memory_bytes() - before < 1_000


@pytest.mark.parametrize("ends_by", ["abort", "its time"])
def test_the_work_of_an_abort_is_counted(ends_by: str) -> None:
    driver = Driver()
    driver.do(CreateTopic("jobs"))
    driver.do(Prepare("x", 1, 5, [Enqueue("jobs", NewMessage(b"x"))] * 320))
    before = driver.machine._state.units
    if ends_by == "abort":
        driver.do(Abort("x", 1))
    else:
        driver.wait(10)
    assert driver.machine._state.units - before >= 320 // MESSAGES_PER_ABORT_UNIT
