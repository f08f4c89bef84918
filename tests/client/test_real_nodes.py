"""Both clients against clusters of real nodes: what a failover looks like from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import disheap
from disheap import sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.client.api.asynchronous import Client
from disheap.client.core.url import BrokerUrl
from disheap.errors import ConfigError, LeaseLost, SessionExpired, TopicNotFound, UnknownCommand
from disheap.protocol import broker
from disheap.runtime.clients.connection import ClientConnection
from disheap.testing.certificates import Authority
from tests.cli.command_line import run
from tests.support.nodes import Cluster, repeated
from tests.support.wire import wait_until


def free_addresses(nodes: int) -> list[tuple[str, str]]:
    names = [f"127.0.0.1:{port}" for port in free_ports(2 * nodes)]
    return list(zip(names[::2], names[1::2], strict=True))


def url(cluster: Cluster, transport: str = "inproc", **changes: Any) -> BrokerUrl:
    addresses = tuple(config.client_listen for config in cluster.configs.values())
    return BrokerUrl(addresses, transport, timeout_s=20.0, **changes)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, machine="heap", storage="file") as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with disheap.connect(url(cluster)) as client:
        yield client


async def fail_over(cluster: Cluster, hand_over: bool = False) -> None:
    """The leader goes, another leads, and the old one comes back."""
    old = (await cluster.wait_leader()).name
    await cluster.stop(old, hand_over)
    await cluster.wait_leader()
    await cluster.start(old)


@pytest.mark.parametrize("hand_over", [False, True])
async def test_pipelined_enqueues_over_a_failover_are_each_there_once(
    cluster: Cluster, client: Client, hand_over: bool
) -> None:
    topic = await client.create_topic("jobs")
    ids = await asyncio.gather(*(topic.enqueue(b"%d" % n) for n in range(50)))
    moving = asyncio.ensure_future(fail_over(cluster, hand_over))
    while not moving.done():
        ids += await asyncio.gather(*(topic.enqueue(b"%d" % (len(ids) + n)) for n in range(50)))
    await moving
    assert len(set(ids)) == len(ids) > 50
    assert (await topic.stats()).ready == len(ids)
    await cluster.wait_equal()


async def test_a_consumer_over_a_failover_sees_every_message_once_and_in_order(
    cluster: Cluster, client: Client
) -> None:
    topic = await client.create_topic("jobs")
    await topic.enqueue_many([b"%d" % n for n in range(600)])
    got: list[bytes] = []
    moving: asyncio.Future[None] | None = None
    async with topic.consume(credit=16) as consumer:
        async for delivery in consumer:
            got.append(delivery.payload)
            assert delivery.attempts == 1
            delivery.ack_nowait()
            if len(got) == 100:
                moving = asyncio.ensure_future(fail_over(cluster))
            if len(got) == 600:
                break
    assert got == [b"%d" % n for n in range(600)]
    assert moving is not None
    await moving
    stats = await topic.stats()
    assert (stats.ready, stats.leased) == (0, 0)


async def test_a_lease_taken_before_a_failover_is_acked_after_it(cluster: Cluster, client: Client) -> None:
    topic = await client.create_topic("jobs")
    await topic.enqueue(b"x")
    (delivery,) = await topic.pop()
    await fail_over(cluster)
    await delivery.ack()
    with pytest.raises(LeaseLost):
        await delivery.ack()
    assert (await topic.stats()).leased == 0


async def test_a_pop_waits_through_a_failover(cluster: Cluster, client: Client) -> None:
    topic = await client.create_topic("jobs")
    popping = asyncio.ensure_future(topic.pop(1, 15_000))
    await asyncio.sleep(0)
    await fail_over(cluster)
    await topic.enqueue(b"x")
    (delivery,) = await popping
    assert delivery.payload == b"x"


async def test_refusals_come_as_their_own_errors(client: Client) -> None:
    with pytest.raises(TopicNotFound, match="missing"):
        await client.topic("missing").enqueue(b"x")


async def test_a_transfer_moves_the_leader_and_the_client_with_it(cluster: Cluster, client: Client) -> None:
    topic = await client.create_topic("jobs")
    target = cluster.followers()[0]
    assert await repeated(lambda: client.transfer(target.name)) == {"leader": target.name}
    assert await topic.enqueue(b"x") == 1
    assert target.group.leads


async def test_a_machine_of_ones_own_is_called_in_bytes_over_a_failover(tmp_path: Path) -> None:
    async with Cluster(tmp_path, machine="counter") as cluster, disheap.connect(url(cluster), opaque=True) as client:
        pushed: list[bytes] = []
        client.driver.on_push = pushed.append
        assert await client.call(b"+2") == b"2"
        await fail_over(cluster)
        assert await client.call(b"+3") == b"5"
        assert pushed == [b"2", b"5"]


async def test_certificates_that_cannot_be_read_are_the_urls_fault() -> None:
    broken = "disheaps://localhost?cafile=/no&certfile=/no&keyfile=/no"
    with pytest.raises(ConfigError, match=r"^the broker URL: cafile = /no cannot be used: no such file"):
        await disheap.connect(broken)
    with pytest.raises(ConfigError, match=r"^the broker URL: cafile = /no cannot be used: no such file"):
        disheap.sync.connect(broken)


async def test_both_clients_speak_tls_by_a_disheaps_url(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("node")
    addresses = free_addresses(1)
    async with Cluster(
        tmp_path, 1, machine="heap", transport="tls", addresses=addresses, tables={"transport": {"tls": dict(files)}}
    ):
        text = f"disheaps://{addresses[0][1]}?" + "&".join(f"{key}={value}" for key, value in files.items())
        async with disheap.connect(text) as client:
            assert await (await client.create_topic("jobs")).enqueue(b"x" * 100_000) == 1

        def work() -> bytes:
            with sync.connect(text) as client:
                (delivery,) = client.topic("jobs").pop()
                delivery.ack()
                return delivery.payload

        assert await asyncio.to_thread(work) == b"x" * 100_000


async def test_settings_of_a_transport_come_typed_from_the_url(tmp_path: Path) -> None:
    addresses = free_addresses(1)
    async with Cluster(tmp_path, 1, machine="heap", transport="tcp", addresses=addresses):
        async with disheap.connect(f"disheap://{addresses[0][1]}?transport.keepalive_probes=2") as client:
            assert (await client.stats()).topics == 0
        with pytest.raises(ConfigError, match="keepalive_probes"):
            await disheap.connect(f"disheap://{addresses[0][1]}?transport.keepalive_probes=some")


async def test_both_clients_query_a_custom_machine_and_status_shows_its_counts(tmp_path: Path) -> None:
    addresses = free_addresses(1)
    async with Cluster(tmp_path, 1, transport="tcp", addresses=addresses) as cluster:
        text = f"disheap://{addresses[0][1]}"
        async with disheap.connect(text, opaque=True) as client:
            await client.call(b"+5")
            logged = cluster.nodes["n1"].group.raft.last_index
            assert await client.query(b"total") == b"5"
            with pytest.raises(UnknownCommand, match="is no query of a counter"):
                await client.query(b"nonsense")
            assert cluster.nodes["n1"].group.raft.last_index == logged, "a read is not logged"

        def ask() -> bytes:
            with sync.connect(text, opaque=True) as client:
                with pytest.raises(UnknownCommand, match="is no query of a counter"):
                    client.query(b"nonsense")
                return client.query(b"total")

        assert await asyncio.to_thread(ask) == b"5"
        shown = await asyncio.to_thread(run, "status", "--url", text)
        lines = [line.split() for line in shown.text.splitlines()]
        assert lines[0] == ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "SESSIONS", "DISK", "CLIENTS"]
        assert lines[lines.index(["MACHINE_STAT", "n1"]) + 1] == ["total", "5"]


async def test_the_blocking_client_goes_through_a_failover(tmp_path: Path) -> None:
    addresses = free_addresses(3)
    async with Cluster(tmp_path, machine="heap", storage="file", transport="tcp", addresses=addresses) as cluster:
        enqueued = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> list[bytes]:
            got = []
            with sync.connect(url(cluster, "tcp")) as client:
                topic = client.create_topic("jobs")
                for number in range(300):
                    topic.enqueue(b"%d" % number)
                    if number == 50:
                        loop.call_soon_threadsafe(enqueued.set)
                with topic.consume(credit=8) as consumer:
                    for delivery in consumer:
                        got.append(delivery.payload)
                        delivery.ack_nowait()
                        if len(got) == 300:
                            break
                stats = topic.stats()
                assert (stats.ready, stats.leased) == (0, 0)
            return got

        working = asyncio.ensure_future(asyncio.to_thread(work))
        await enqueued.wait()
        await fail_over(cluster)
        assert await working == [b"%d" % number for number in range(300)]


async def test_who_only_listens_hears_that_its_session_is_over(cluster: Cluster) -> None:
    """The node let it lapse while the connection stood (a machine whose clock stood still): a ping is not answered as
    if nothing had happened."""
    async with disheap.connect(url(cluster, session_timeout_ms=1500)) as client:
        consumer = (await client.create_topic("jobs")).consume()
        waiting = asyncio.ensure_future(consumer.__anext__())
        server = (await cluster.wait_leader()).clients
        assert server is not None
        connection = server._attached[client.driver._session.id]
        async with asyncio.timeout(10):
            while connection.session:
                connection.heard -= 100
                await asyncio.sleep(0.02)
            with pytest.raises(SessionExpired):
                await waiting


async def test_a_transient_publish_that_would_be_refused_costs_nobody_the_connection(
    cluster: Cluster, client: Client
) -> None:
    await client.create_exchange("e")
    await client.create_topic("jobs")
    link = client.driver._channel
    client.driver.send_transient(broker.Publish("e", "k" * 300, broker.NewMessage(b"x")))
    await client.stats()
    assert client.driver._channel is link


async def test_a_transient_message_passes_without_the_log(cluster: Cluster, client: Client) -> None:
    await client.create_exchange("e", kind="fanout")
    await client.create_topic("ears", exclusive=True)
    await client.bind("e", "ears")
    async with client.topic("ears").consume(no_ack=True) as listening:
        leader = await cluster.wait_leader()
        before = leader.group.applied.index
        for number in range(3):
            client.driver.send_transient(broker.Publish("e", "", broker.NewMessage(b"%d" % number)))
        heard = [await anext(listening) for _ in range(3)]
        assert [one.payload for one in heard] == [b"0", b"1", b"2"]
        assert {one.id for one in heard} == {0}
        assert leader.group.applied.index == before
        await client.topic("ears").enqueue(b"last")
        assert (await anext(listening)).payload == b"last", "nothing came twice"


async def test_a_message_of_the_log_does_not_overtake_a_transient_one(cluster: Cluster, client: Client) -> None:
    await client.create_exchange("e", kind="fanout")
    await client.create_topic("ears", exclusive=True)
    await client.bind("e", "ears")
    async with client.topic("ears").consume(no_ack=True) as listening:
        for number in range(3):
            client.driver.send_transient(broker.Publish("e", "", broker.NewMessage(b"%d" % number)))
        await client.publish("e", "", b"last")
        assert [(await anext(listening)).payload for _ in range(4)] == [b"0", b"1", b"2", b"last"]


async def test_a_client_that_leaves_a_node_says_so_over_tcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written just before a connection ends must not be dropped with it."""
    lost: list[bool] = []
    connection_lost = ClientConnection.connection_lost

    def note(connection: ClientConnection, error: Exception | None) -> None:
        lost.append(connection.was_dropped)
        connection_lost(connection, error)

    monkeypatch.setattr(ClientConnection, "connection_lost", note)
    addresses = free_addresses(1)
    async with (
        Cluster(tmp_path, 1, machine="heap", transport="tcp", addresses=addresses),
        disheap.connect(f"disheap://{addresses[0][1]}") as client,
    ):
        link = client.driver._channel
        assert link is not None
        client.driver.lose(link, "the test wants it")
        await client.create_topic("jobs")
        await wait_until(lambda: bool(lost), "the node has seen the end of the first connection")
        assert lost == [False]
