"""What comes and goes within a client is freed by its reference counts, in both drivers. So a worker without a garbage
collector does not grow in months."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import disheap.sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.cli.processes.loops import free_closed_transports
from disheap.client.api.asynchronous import Client, connect
from disheap.client.core.url import BrokerUrl
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import ConnectionLost, ProtocolError, RequestTimeout, TopicNotFound
from disheap.protocol import broker
from tests.support.leftovers import grown_by, grown_by_blocking
from tests.support.nodes import Cluster

pytestmark = pytest.mark.proof

ROUNDS = 200


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """pytest keeps every record."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Rounds:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.topic = client.topic("jobs")

    async def message(self) -> None:
        await self.topic.enqueue(b"job")
        async with self.topic.consume(credit=1) as consumer:
            async for delivery in consumer:
                await delivery.ack()
                break

    async def query(self) -> None:
        await self.topic.stats()

    async def refusal(self) -> None:
        with pytest.raises(TopicNotFound):
            await self.client.topic("nowhere").stats()

    async def reconnection(self) -> None:
        driver = self.client.driver
        link = driver._channel
        assert link is not None
        driver.lose(link, "the test wants it")
        await self.topic.stats()


@pytest.mark.parametrize("transport", ["inproc", "tcp"])
@pytest.mark.parametrize("thing", ["message", "query", "refusal", "reconnection"])
async def test_what_an_asyncio_client_has_done_leaves_nothing(tmp_path: Path, transport: str, thing: str) -> None:
    free_closed_transports()
    ports = free_ports(2)
    addresses = None if transport == "inproc" else [(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")]
    async with Cluster(tmp_path, nodes=1, machine="heap", transport=transport, addresses=addresses) as cluster:
        url = BrokerUrl((cluster.nodes["n1"].client_address,), transport)
        async with connect(url) as client:
            await client.create_topic("jobs")
            assert await grown_by(ROUNDS, getattr(Rounds(client), thing)) == {}


class Clients:
    """Whole clients that come and go."""

    def __init__(self, url: BrokerUrl) -> None:
        self.url = url

    async def closed(self) -> None:
        async with connect(self.url) as client:
            await client.topic("jobs").stats()

    async def closed_with_a_consumer(self) -> None:
        async with connect(self.url) as client, client.topic("jobs").consume() as consumer:
            assert consumer

    async def closed_with_a_command_under_way(self) -> None:
        async with connect(self.url) as client:
            client.topic("nowhere").enqueue_nowait(b"job").add_done_callback(lambda future: future.exception())

    async def used_when_closed(self) -> None:
        async with connect(self.url) as client:
            pass
        with pytest.raises(ConnectionLost):
            await client.topic("jobs").stats()

    async def no_node_of_ours(self) -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProtocolError):
            await connect(BrokerUrl((f"127.0.0.1:{port}",), "tcp"))
        server.close()


CLIENTS = ["closed", "closed_with_a_consumer", "closed_with_a_command_under_way", "used_when_closed", "no_node_of_ours"]


@pytest.mark.parametrize("thing", CLIENTS)
async def test_an_asyncio_client_that_ended_frees_itself(tmp_path: Path, thing: str) -> None:
    """A program that makes a client for each piece of work grew by all of its objects."""
    free_closed_transports()
    ports = free_ports(2)
    addresses = [(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")]
    async with Cluster(tmp_path, nodes=1, machine="heap", transport="tcp", addresses=addresses) as cluster:
        url = BrokerUrl((cluster.nodes["n1"].client_address,), "tcp")
        async with connect(url) as client:
            await client.create_topic("jobs")
        assert await grown_by(ROUNDS, getattr(Clients(url), thing)) == {}


class BlockingClients:
    def __init__(self, url: BrokerUrl) -> None:
        self.url = url
        self.client = disheap.sync.connect(url)

    def closed(self) -> None:
        with disheap.sync.connect(self.url) as client:
            client.topic("jobs").stats()

    def used_when_closed(self) -> None:
        with disheap.sync.connect(self.url) as client:
            pass
        with pytest.raises(ConnectionLost):
            client.topic("jobs").stats()

    def refused_pending(self) -> None:
        pending = self.client.topic("nowhere").enqueue_nowait(b"job")
        for _ in range(2):
            with pytest.raises(TopicNotFound):
                pending.result()

    def late_pending(self) -> None:
        pending = self.client.send(broker.Enqueue("jobs", broker.NewMessage(b"")), timeout_s=0.0)
        with pytest.raises(RequestTimeout):
            pending.result()
        self.client.topic("jobs").purge()


@pytest.mark.parametrize("thing", ["closed", "used_when_closed", "refused_pending", "late_pending"])
def test_a_blocking_client_and_what_it_waited_for_free_themselves(address: str, thing: str) -> None:
    rounds = BlockingClients(BrokerUrl((address,), "tcp"))
    rounds.client.create_topic("jobs")
    assert grown_by_blocking(ROUNDS, getattr(rounds, thing)) == {}
    rounds.client.close()


class BlockingRounds:
    def __init__(self, client: BlockingClient) -> None:
        self.client = client

    def message(self) -> None:
        client = self.client
        client.request(broker.Enqueue("jobs", broker.NewMessage(b"job")))
        consumer = client.request(broker.Subscribe("jobs", 1)).consumer
        pushes: list[Any] = client.take_pushes()
        while not pushes:
            pushes = client.poll(1.0)
        client.request(broker.Ack([(pushes[0].id, pushes[0].epoch)]))
        client.request(broker.Cancel(consumer, give_back=True))

    def query(self) -> None:
        self.client.query(broker.DescribeTopic("jobs"))

    def refusal(self) -> None:
        with pytest.raises(TopicNotFound):
            self.client.query(broker.DescribeTopic("nowhere"))

    def reconnection(self) -> None:
        self.client._drop("the test wants it")
        self.client.query(broker.DescribeTopic("jobs"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a node in a thread of its own."""
    free_closed_transports()
    peer, port = free_ports(2)
    addresses = [(f"127.0.0.1:{peer}", f"127.0.0.1:{port}")]
    loop = asyncio.new_event_loop()
    is_up, stopping = threading.Event(), asyncio.Event()

    async def serve() -> None:
        directory = tmp_path_factory.mktemp("node")
        async with Cluster(directory, nodes=1, machine="heap", transport="tcp", addresses=addresses):
            is_up.set()
            await stopping.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert is_up.wait(10)
    yield f"127.0.0.1:{port}"
    loop.call_soon_threadsafe(stopping.set)
    thread.join()
    loop.close()


@pytest.mark.parametrize("thing", ["message", "query", "refusal", "reconnection"])
def test_what_a_blocking_client_has_done_leaves_nothing(address: str, thing: str) -> None:
    client = BlockingClient(BrokerUrl((address,), "tcp"))
    client.request(broker.CreateTopic("jobs", broker.TopicSettings()))
    assert grown_by_blocking(ROUNDS, getattr(BlockingRounds(client), thing)) == {}
    client.close()
