"""The broker whole, over each combination of transport, storage and codec: three nodes, the real client, the heap."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.nodes import Cluster

import disheap
from disheap.client.core.url import BrokerUrl
from disheap.errors import LeaseLost, PayloadTooLarge, PriorityOutOfRange, TopicNotFound, UnknownCommand


async def test_messages_come_out_by_priority_then_in_order(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        topic = client.topic("jobs")
        await client.create_topic("jobs")
        for number, priority in enumerate([0, 5, -(2**63), 5, 2**63 - 1]):
            await topic.enqueue(b"%d" % number, priority=priority)
        popped = await topic.pop(count=5)
        assert [delivery.payload for delivery in popped] == [b"4", b"1", b"3", b"0", b"2"]
        for delivery in popped:
            await delivery.ack()
    await cluster.wait_equal()


async def test_a_thousand_pipelined_messages_are_each_delivered_once(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        topic = client.topic("jobs")
        sent = await asyncio.gather(*(topic.enqueue(b"%d" % number) for number in range(1000)))
        assert len(set(sent)) == 1000
        received = []
        async with topic.consume(credit=64) as consumer:
            async for delivery in consumer:
                async with delivery:
                    received.append(int(delivery.payload))
                if len(received) == 1000:
                    break
        assert received == list(range(1000))
        assert (await topic.stats()).ready == 0
    await cluster.wait_equal()


async def test_nothing_acknowledged_is_lost_or_doubled_when_the_leader_leaves(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        topic = client.topic("jobs")
        publishing = [asyncio.ensure_future(topic.enqueue(b"%d" % number)) for number in range(300)]
        received: list[int] = []
        async with topic.consume(credit=8) as consumer:
            async for delivery in consumer:
                async with delivery:
                    received.append(int(delivery.payload))
                if len(received) == 50:
                    await cluster.stop((await cluster.wait_leader()).name)
                if len(received) == 300:
                    break
        await asyncio.gather(*publishing)
        assert sorted(received) == list(range(300))
        assert (await topic.stats()).leased == 0


async def test_a_node_that_comes_back_holds_the_same_state(cluster: Cluster, url: BrokerUrl, storage_name: str) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        topic = client.topic("jobs")
        for number in range(250):  # past a snapshot
            await topic.enqueue(b"%d" % number, priority=number % 7)
        if storage_name != "memory":  # which forgets: such a node may not vote under its old identity
            await cluster.restart(cluster.followers()[0].name)
        await topic.enqueue(b"last")
        await cluster.wait_equal()


async def test_a_consumer_that_fails_gives_its_message_back_to_its_place(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        topic = client.topic("jobs")
        await topic.enqueue(b"first", priority=1)
        await topic.enqueue(b"second")
        with pytest.raises(RuntimeError, match="on the way"):
            async with (await topic.pop())[0]:
                raise RuntimeError("something on the way")
        again = (await topic.pop())[0]
        assert (again.payload, again.attempts) == (b"first", 2)
        await again.ack()
        with pytest.raises(LeaseLost):
            await again.ack()


async def test_a_session_that_ends_gives_back_what_it_held(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        await client.topic("jobs").enqueue(b"x")
        async with disheap.connect(url) as other:
            assert len(await other.topic("jobs").pop()) == 1
            assert await client.topic("jobs").pop() == []
        assert [delivery.attempts for delivery in await client.topic("jobs").pop()] == [2]


async def test_refusals_are_typed_and_the_session_goes_on(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        topic = client.topic("jobs")
        with pytest.raises(TopicNotFound, match="nowhere"):
            await client.topic("nowhere").enqueue(b"x")
        with pytest.raises(PriorityOutOfRange, match=str(2**63)):
            await topic.enqueue(b"x", priority=2**63)
        with pytest.raises(PayloadTooLarge, match="8388609"):
            await topic.enqueue(bytes((8 << 20) + 1))
        with pytest.raises(UnknownCommand):
            await client.call(b"\xc1")
        assert await topic.enqueue(b"x") > 0
        assert (await topic.stats()).ready == 1


async def test_a_delayed_message_waits_in_the_broker(cluster: Cluster, url: BrokerUrl) -> None:
    async with disheap.connect(url) as client:
        await client.create_topic("jobs")
        topic = client.topic("jobs")
        await topic.enqueue(b"later", delay_ms=200, priority=9)
        await topic.enqueue(b"now")
        first = await topic.pop(count=2)
        assert [delivery.payload for delivery in first] == [b"now"]
        second = await topic.pop(wait_ms=5000)
        assert [delivery.payload for delivery in second] == [b"later"]
