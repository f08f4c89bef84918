"""Batches of the clients: what is gathered, when it is sent, and what an error leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from disheap.client.api.asynchronous import Batch
from disheap.client.api.receiving import Delivery
from disheap.client.api.synchronous import Batch as BlockingBatch
from disheap.errors import (
    BatchTooLarge,
    DiskFull,
    InvalidArgument,
    InvalidKey,
    LeaseLost,
    MemoryFull,
    NotSent,
    RequestTimeout,
    TopicFull,
)
from disheap.protocol import broker


class FakeDriver:
    """Answers each command with `answer`, or raises it."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.sent: list[Any] = []

    def request(self, command: Any, *, timeout_s: float | None = None) -> Any:
        self.sent.append((command, timeout_s))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeAsyncDriver(FakeDriver):
    async def request(self, command: Any, *, timeout_s: float | None = None) -> Any:
        return super().request(command, timeout_s=timeout_s)


def delivery(driver: Any, number: int = 1, epoch: int = 1) -> Delivery:
    return Delivery(driver, broker.Deliver(1, number, epoch, 0, 0, b"x"))


def batch(driver: Any, timeout_s: float | None = None) -> BlockingBatch:
    return BlockingBatch(driver, timeout_s)


def test_a_batch_is_one_command_at_the_end_of_the_block() -> None:
    driver = FakeDriver(broker.Batched([7, 2, 1, 1]))
    first, second = delivery(driver), delivery(driver, 2)
    with batch(driver, 3.0) as gathered:
        gathered.enqueue("t", b"a", 5, headers={"n": 1}, key="k")
        gathered.publish("e", "key", b"b", mandatory=True)
        gathered.ack(first)
        gathered.nack(second, delay_ms=9)
        assert driver.sent == []
    message = broker.NewMessage(b"a", 5, encoded_headers=broker.encode_headers({"n": 1}), key="k")
    items = [
        broker.Enqueue("t", message),
        broker.Publish("e", "key", broker.NewMessage(b"b"), True),
        broker.Ack([(1, 1)]),
        broker.Nack([(2, 1)], 9),
    ]
    assert driver.sent == [(broker.Batch(items), 3.0)]
    assert gathered.results == [7, 2, 1, 1]
    assert first.settled and second.settled


def test_the_asyncio_batch_sends_the_same_command() -> None:
    driver: Any = FakeAsyncDriver(broker.Batched([4]))

    async def run() -> list[int]:
        async with Batch(driver, None) as gathered:
            gathered.enqueue("t", b"a")
        return gathered.results

    assert asyncio.run(run()) == [4]
    assert driver.sent == [(broker.Batch([broker.Enqueue("t", broker.NewMessage(b"a"))]), None)]


def test_an_exception_in_the_block_discards_the_batch() -> None:
    driver = FakeDriver()
    held = delivery(driver)
    gathered = batch(driver)
    with pytest.raises(KeyError), gathered:
        gathered.enqueue("t", b"a")
        gathered.ack(held)
        assert held.settled, "its own block does not settle it a second time"
        raise KeyError
    assert driver.sent == []
    assert not held.settled
    with pytest.raises(InvalidArgument, match="without an exception"):
        _ = gathered.results


def test_an_exception_in_the_block_discards_the_asyncio_batch() -> None:
    driver: Any = FakeAsyncDriver()

    async def run() -> None:
        async with Batch(driver, None) as gathered:
            gathered.enqueue("t", b"a")
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert driver.sent == []


@pytest.mark.parametrize(
    ("error", "settled"),
    [
        (TopicFull("full"), False),
        (NotSent("no node"), False),
        (DiskFull("disk"), False),
        (MemoryFull("memory"), False),
        (RequestTimeout("late"), True),
    ],
)
def test_deliveries_stay_settled_only_if_the_batch_may_have_been_carried_out(error: Exception, settled: bool) -> None:
    driver = FakeDriver(error)
    held = delivery(driver)
    with pytest.raises(type(error)), batch(driver) as gathered:
        gathered.ack(held)
    assert held.settled is settled


def test_an_empty_batch_sends_nothing() -> None:
    driver = FakeDriver()
    with batch(driver) as gathered:
        pass
    assert (gathered.results, driver.sent) == ([], [])


def test_what_is_wrong_is_refused_where_it_is_added() -> None:
    driver = FakeDriver(broker.Batched([1]))
    settled, of_another, without_lease = delivery(driver), delivery(FakeDriver()), delivery(driver, 3, 0)
    settled.settled = True
    with batch(driver) as gathered:
        with pytest.raises(InvalidKey):
            gathered.enqueue("t", b"a", key="k" * 256)
        with pytest.raises(LeaseLost, match="message 1 is settled already"):
            gathered.ack(settled)
        with pytest.raises(LeaseLost, match="message 3 is settled already"):
            gathered.nack(without_lease)
        with pytest.raises(InvalidArgument, match="delivered to another client"):
            gathered.ack(of_another)
        gathered.enqueue("t", b"a")
    assert driver.sent == [(broker.Batch([broker.Enqueue("t", broker.NewMessage(b"a"))]), None)]
    assert not of_another.settled


def test_a_batch_takes_a_bounded_number_of_calls() -> None:
    driver = FakeDriver(broker.Batched([]))
    with batch(driver) as gathered:
        for _ in range(broker.BATCH_PARTS_MAX):
            gathered.enqueue("t", b"a")
        with pytest.raises(BatchTooLarge, match="has 1500 messages and acks"):
            gathered.enqueue("t", b"a")
    assert len(driver.sent[0][0].items) == broker.BATCH_PARTS_MAX


def test_a_batch_is_used_once_and_inside_its_block() -> None:
    driver = FakeDriver(broker.Batched([1]))
    gathered = batch(driver)
    with pytest.raises(InvalidArgument, match="inside its `with` block"):
        gathered.enqueue("t", b"a")
    with gathered:
        gathered.enqueue("t", b"a")
        with pytest.raises(InvalidArgument, match="entered once"):
            gathered.__enter__()
    for use in (gathered.__enter__, lambda: gathered.enqueue("t", b"a")):
        with pytest.raises(InvalidArgument):
            use()
    assert len(driver.sent) == 1
