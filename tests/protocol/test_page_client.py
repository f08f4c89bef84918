"""The page on the wire protocol is enough to write a client: one that was written from it alone does its work."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import page_client
import pytest
from page_client import PageClient, Refused
from tests.support.nodes import Cluster

from disheap.cli.processes.local_cluster import free_ports

SOURCE = Path(page_client.__file__).read_text()
MAY_IMPORT = {"__future__", "collections.abc", "typing", "socket", "struct", "time", "msgpack"}
MESSAGES = 40


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    ports = free_ports(6)
    addresses = [
        (f"127.0.0.1:{peer}", f"127.0.0.1:{client}") for peer, client in zip(ports[:3], ports[3:], strict=True)
    ]
    async with Cluster(tmp_path, transport="tcp", machine="heap", addresses=addresses) as cluster:
        yield cluster


def test_the_client_is_short_and_imports_nothing_of_disheap() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            imported |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported <= MAY_IMPORT
    assert len(SOURCE.splitlines()) < 200


async def test_a_client_from_the_page_survives_a_redirect_and_lost_connections(cluster: Cluster) -> None:
    leader = await cluster.wait_leader()
    follower = cluster.followers()[0]
    client = Unlucky([follower.client_address])
    await asyncio.to_thread(client.connect)
    assert client.visited == [follower.client_address, leader.client_address], "the redirect was not followed"
    client.visited.clear()

    await asyncio.to_thread(client.command, 11, "jobs")
    client.loses_a_reply = True
    ids = [await enqueue(client, number) for number in range(MESSAGES)]
    assert ids == sorted(set(ids)) and not client.loses_a_reply
    await asyncio.to_thread(client.subscribe, "jobs", 3)
    taken = await asyncio.to_thread(client.take)
    assert (await asyncio.to_thread(client.query, 129, "jobs"))[5] == 3, "credit bounds the leases"

    drop_connections(leader.clients)
    assert await asyncio.to_thread(client.ack, taken), "a lease outlives its connection"
    assert client.visited[-1:] == [leader.client_address], "the session was not attached again"
    payloads = [taken[6]]
    while len(payloads) < MESSAGES // 2:
        payloads.append(await settle(client))

    await cluster.stop(leader.name)
    while len(payloads) < MESSAGES:
        payloads.append(await settle(client))
    assert payloads == [b"%d" % number for number in range(MESSAGES)], "each once, in order"
    assert len(client.visited) > 2, "the next leader was not found"
    assert (await asyncio.to_thread(client.query, 129, "jobs"))[3:6] == [0, 0, 0]
    with pytest.raises(Refused, match="topic-not-found"):
        await asyncio.to_thread(client.command, 13, "nothing")
    await asyncio.to_thread(client.close)
    assert not (await cluster.wait_leader()).group.sessions.table


class Unlucky(PageClient):
    """Loses its connection once between a command and its reply."""

    loses_a_reply = False

    def read(self) -> tuple[int, int, bytes]:
        if self.loses_a_reply:
            self.loses_a_reply = False
            raise ConnectionError("lost")
        return super().read()


async def enqueue(client: PageClient, number: int) -> int:
    reply = await asyncio.to_thread(client.command, 1, "jobs", [b"%d" % number])
    return int(reply[1])


async def settle(client: PageClient) -> bytes:
    delivery = await asyncio.to_thread(client.take)
    assert delivery[3] == 1, "delivered for the first time"
    assert await asyncio.to_thread(client.ack, delivery)
    return bytes(delivery[6])


def drop_connections(server: object) -> None:
    """As a firewall or a proxy does: without a word to the client."""
    connections = list(server._connections)  # type: ignore[attr-defined]
    assert connections
    for connection in connections:
        connection._connection.abort()
