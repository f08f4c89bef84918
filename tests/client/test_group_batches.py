"""Batches over several groups of real nodes, with both clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import disheap
from disheap import sync
from disheap.client.api.asynchronous import Client
from disheap.client.core.url import BrokerUrl
from disheap.errors import GroupNotFound, TopicNotFound, TransactionNotFound
from disheap.protocol import broker
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from .test_real_nodes import free_addresses


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    addresses = free_addresses(3)
    cluster = Cluster(tmp_path, machine="heap", storage="file", transport="tcp", addresses=addresses)
    for name, config in cluster.configs.items():
        cluster.configs[name] = msgspec.structs.replace(config, groups=3)
    async with cluster:
        yield cluster


def url(cluster: Cluster, group: int) -> BrokerUrl:
    addresses = tuple(config.client_listen for config in cluster.configs.values())
    return BrokerUrl(addresses, "tcp", timeout_s=20.0, group=group)


async def decided(*clients: Client) -> None:
    """Nothing is open, and nothing waits for another group."""
    for client in clients:
        stats = await client.stats()
        while stats.transactions or stats.forwarding:
            await asyncio.sleep(0.01)
            stats = await client.stats()


async def test_a_batch_over_three_groups_is_all_or_nothing(cluster: Cluster) -> None:
    async with (
        disheap.connect(url(cluster, 0)) as first,
        disheap.connect(url(cluster, 1)) as second,
        disheap.connect(url(cluster, 2)) as third,
    ):
        for client in (first, second, third):
            await client.create_topic("jobs")
        await second.topic("jobs").enqueue(b"order")
        (order,) = await second.topic("jobs").pop()
        async with first.batch() as batch:
            batch.enqueue("jobs", b"in 0")
            batch.on(second).ack(order)
            batch.on(third).enqueue("jobs", b"in 2", 5)
        assert batch.results == [1, 1, 1]
        assert await first.transaction_outcome(batch.transaction) == "committed"
        await decided(first, second, third)
        depths = [await client.topic("jobs").stats() for client in (first, second, third)]
        assert [(one.ready, one.leased) for one in depths] == [(1, 0), (0, 0), (1, 0)]

        with pytest.raises(TopicNotFound, match=r"^group 2: item 1 of the batch, Enqueue"):
            async with first.batch() as batch:
                batch.enqueue("jobs", b"never seen")
                batch.on(third).enqueue("nowhere", b"never seen")
        assert await first.transaction_outcome(batch.transaction) == "aborted"
        with pytest.raises(TransactionNotFound):
            await third.transaction_outcome("never begun")
        await decided(first, second, third)
        assert (await first.topic("jobs").stats()).ready == 1


async def test_a_transaction_with_a_group_that_takes_no_messages_is_refused(tmp_path: Path) -> None:
    """Group 1 has a machine that would never take the decision, and there is no group 3."""
    addresses = free_addresses(1)
    cluster = Cluster(tmp_path, nodes=1, machine="heap", storage="file", transport="tcp", addresses=addresses)
    (name,) = cluster.configs
    cluster.configs[name] = msgspec.structs.replace(
        cluster.configs[name], groups=3, group_machines=("heap", "counter", "heap")
    )
    async with cluster, disheap.connect(url(cluster, 0)) as first:
        await first.create_topic("jobs")
        items = [broker.Enqueue("jobs", broker.NewMessage(b"x"))]
        for participants in ([1], [2, 3]):
            with pytest.raises(GroupNotFound, match=r"those that take part in transactions are \[0, 2\]"):
                await first.driver.request(broker.Prepare("tx", 1, 1000, items, participants))
        await first.driver.request(broker.Prepare("tx", 1, 1000, items, [2]))
        await first.driver.request(broker.Abort("tx", 1))


async def test_a_blocking_batch_over_groups_whose_client_dies_is_aborted(cluster: Cluster) -> None:
    def work() -> None:
        with sync.connect(url(cluster, 0)) as first, sync.connect(url(cluster, 1)) as second:
            for client in (first, second):
                client.create_topic("jobs")
            with first.batch() as batch:
                batch.on(second).enqueue("jobs", b"whole")
                batch.enqueue("jobs", b"whole")
            assert batch.results == [1, 1]
            assert first.transaction_outcome(batch.transaction) == "committed"
            items = [broker.Enqueue("jobs", broker.NewMessage(b"half"))]
            first.driver.request(broker.Prepare("left", 1, 300, items, [1]))
            second.driver.request(broker.Prepare("left", 1, 0, items, coordinator=0))

    await asyncio.to_thread(work)
    async with disheap.connect(url(cluster, 0)) as first, disheap.connect(url(cluster, 1)) as second:
        await asyncio.wait_for(decided(first, second), 20)
        assert await first.transaction_outcome("left") == "aborted"
        assert await second.transaction_outcome("left") == "aborted"
        assert [(await client.topic("jobs").stats()).ready for client in (first, second)] == [1, 1]


async def test_a_decision_reaches_a_group_that_had_no_leader(cluster: Cluster) -> None:
    """Two of three nodes are down when the last step is due, and come back."""
    async with disheap.connect(url(cluster, 0)) as first, disheap.connect(url(cluster, 2)) as third:
        for client in (first, third):
            await client.create_topic("jobs")
        items = [broker.Enqueue("jobs", broker.NewMessage(b"x"))]
        await first.driver.request(broker.Prepare("tx", 1, 60_000, items, [2]))
        await third.driver.request(broker.Prepare("tx", 1, 0, items, coordinator=0))
        deciding = first.driver.send(broker.Commit("tx", 1))
        await deciding
        await cluster.stop("n2")
        await cluster.stop("n3")
        await cluster.start("n2")
        await cluster.start("n3")
        await asyncio.wait_for(decided(first, third), 30)
        assert await third.transaction_outcome("tx") == "committed"
        assert (await third.topic("jobs").stats()).ready == 1
        node = cluster.nodes["n1"]
        await wait_until(lambda: not any(one.forwarder.status() for one in node.replicas), "nothing is left")
