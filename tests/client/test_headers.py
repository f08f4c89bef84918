"""Headers and keys through both clients: as they were given, decoded when asked for, bad ones not sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import disheap
from disheap import sync
from disheap.client.api import delivered
from disheap.errors import InvalidHeaders, InvalidKey
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage, encode_headers

from .fake_node import FakeCluster, SocketNode
from .test_asynchronous import url as asynchronous_url
from .test_asynchronous import wax
from .test_blocking import dial
from .test_blocking import url as blocking_url

HEADERS: dict[str, Any] = {"tenant": "blue", "retries": 3, "share": 0.5, "paid": True, "raw": b"\xff"}
SENT = broker.Enqueue("jobs", NewMessage(b"x", 1, encoded_headers=encode_headers(HEADERS), key="k"))
BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"headers": {"n": [1]}}, InvalidHeaders),
    ({"headers": {1: "n"}}, InvalidHeaders),
    ({"headers": {"n": "x" * 20_000}}, InvalidHeaders),
    ({"headers": {str(number): number for number in range(300)}}, InvalidHeaders),
    ({"headers": b"\x82\xa1n\x01\xa1n\x02"}, InvalidHeaders),
    ({"key": "k" * 300}, InvalidKey),
    ({"headers": HEADERS, "key": 7}, InvalidKey),
]
BATCHES: list[tuple[list[NewMessage], type[Exception]]] = [
    ([NewMessage(b"x"), NewMessage(b"y", encoded_headers=b"\x82\xa1n\x01\xa1n\x02")], InvalidHeaders),
    ([NewMessage(b"x"), NewMessage(b"y", key="k" * 256)], InvalidKey),
    ([NewMessage(b"", encoded_headers=encode_headers({str(n): n for n in range(250)}))] * 201, InvalidHeaders),
]


async def test_the_asyncio_client_sends_and_delivers_headers_and_key(counted: Callable[[], int]) -> None:
    node = await wax()
    async with disheap.connect(asynchronous_url(node.address)) as client:
        jobs = client.topic("jobs")
        await jobs.enqueue(b"x", 1, headers=HEADERS, key="k")
        await jobs.enqueue_nowait(b"x", 1, headers=encode_headers(HEADERS), key="k")
        await client.publish("e", "r", b"x", priority=1, headers=HEADERS, key="k", mandatory=True)
        await jobs.enqueue_many([SENT.message, b"bare"])
        (peeked,) = await jobs.peek()
        first, *_, bare = await jobs.pop(4)
        check_sent([command for _, _, command in node.cluster.applied if not isinstance(command, broker.Pop)])
        check_delivered(first, bare, peeked, counted)
        await first.nack()
        (again,) = await jobs.pop()
        assert (again.attempts, again.redelivered, again.headers, again.key) == (2, True, HEADERS, "k")
        before = len(node.cluster.applied)
        for bad, error in BAD:
            with pytest.raises(error):
                jobs.enqueue(b"x", **bad)  # no await: it raises where it is called
            with pytest.raises(error):
                jobs.enqueue_nowait(b"x", **bad)
            with pytest.raises(error):
                await client.publish("e", "r", b"x", **bad)
        for batch, error in BATCHES:
            with pytest.raises(error):
                await jobs.enqueue_many(batch)
        await jobs.enqueue(b"after")
        assert len(node.cluster.applied) == before + 1, "nothing was sent"
    node.drop_all()
    await node.listener.close()


def test_the_blocking_client_sends_and_delivers_headers_and_key(counted: Callable[[], int]) -> None:
    cluster = FakeCluster()
    node = SocketNode(cluster)
    with sync.connect(blocking_url(node.address), dial=dial) as client:
        jobs = client.topic("jobs")
        jobs.enqueue(b"x", 1, headers=HEADERS, key="k")
        jobs.enqueue_nowait(b"x", 1, headers=encode_headers(HEADERS), key="k").result()
        client.publish("e", "r", b"x", priority=1, headers=HEADERS, key="k", mandatory=True)
        jobs.enqueue_many([SENT.message, b"bare"])
        (peeked,) = jobs.peek()
        first, *_, bare = jobs.pop(4)
        check_sent([command for _, _, command in cluster.applied if not isinstance(command, broker.Pop)])
        check_delivered(first, bare, peeked, counted)
        first.nack()
        (again,) = jobs.pop()
        assert (again.attempts, again.redelivered, again.headers, again.key) == (2, True, HEADERS, "k")
        before = len(cluster.applied)
        for bad, error in BAD:
            with pytest.raises(error):
                jobs.enqueue(b"x", **bad)
            with pytest.raises(error):
                jobs.enqueue_nowait(b"x", **bad)
            with pytest.raises(error):
                client.publish("e", "r", b"x", **bad)
        for batch, error in BATCHES:
            with pytest.raises(error):
                jobs.enqueue_many(batch)
        jobs.enqueue(b"after")
        assert len(cluster.applied) == before + 1, "nothing was sent"
    node.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often headers of a delivery were decoded."""
    calls: list[bytes] = []

    def decode(encoded: bytes) -> dict[str, Any]:
        calls.append(encoded)
        return broker.decode_headers(encoded)

    monkeypatch.setattr(delivered, "decode_headers", decode)
    return lambda: len(calls)


def check_sent(commands: list[Any]) -> None:
    alone, nowait, published, many = commands
    assert alone == nowait == SENT
    assert published == broker.Publish("e", "r", SENT.message, True)
    assert many == broker.EnqueueMany("jobs", [SENT.message, NewMessage(b"bare")])


def check_delivered(first: Any, bare: Any, peeked: broker.PeekedMessage, counted: Callable[[], int]) -> None:
    assert counted() == 0, "decoded before anybody asked"
    assert first.headers == peeked.headers == HEADERS
    assert first.headers is first.headers
    assert counted() == 1, "decoded once"
    assert (first.key, peeked.key, first.redelivered, first.enqueued_ms) == ("k", "k", False, 5)
    assert (bare.payload, bare.headers, bare.key) == (b"bare", {}, "")
