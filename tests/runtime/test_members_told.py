"""Clients learn where the members are, when the members change and not only when they connect."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.runtime.test_membership import SECRET, Growing, growing
from tests.support.wire import WireClient, wait_until

import disheap
import disheap.sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.client.core.route import LastNodes
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.interfaces import TransportContext
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.handshake import Hello, Welcome
from disheap.runtime.clients import acceptor

PATIENCE_S = 5.0


def transport(cluster: Growing) -> Any:
    context = TransportContext(asyncio.get_running_loop())
    return cluster.registry.build("transport", "inproc", {}, context)


async def connected(cluster: Growing, address: str, follows: bool) -> WireClient:
    client = WireClient()
    await transport(cluster).connect(address, client, PATIENCE_S)
    client.connection.write(handshake.hello(Kind.HELLO, Hello(client="test", follows_members=follows)))
    _, client.welcome = handshake.open_welcome(frames.open_plain(await client.frame(Kind.WELCOME)), Welcome)
    return client


def told(client: WireClient) -> list[list[str]]:
    found = [frame for kind, frame in client.inbox if kind == Kind.MEMBERS]
    return [handshake.open_members(frames.open_plain(frame)) for frame in found]


async def test_a_node_tells_its_clients_who_joins_and_who_goes(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        asks, silent = [await connected(cluster, "n1:8400", follows) for follows in (True, False)]
        assert asks.welcome.members == silent.welcome.members == ["n1:8400"]
        await cluster.grow("n2")
        await wait_until(lambda: told(asks)[-1:] == [["n1:8400", "n2:8400"]], "it is told of the new member")
        await (await cluster.wait_leader()).membership.change("remove", "n2")
        await wait_until(lambda: told(asks)[-1:] == [["n1:8400"]], "it is told that the member has gone")
        assert told(silent) == [], "a client that does not know MEMBERS is sent one"


async def test_a_node_tells_its_clients_that_a_member_has_moved(tmp_path: Path) -> None:
    async with growing(tmp_path, cluster_secret=SECRET) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        client = await connected(cluster, "n1:8400", True)
        await cluster.stop("n3", hand_over=True)
        await cluster.start("n3", client_listen="n3:8499")
        await wait_until(lambda: told(client)[-1:] == [["n1:8400", "n2:8400", "n3:8499"]], "it is told the address")


async def test_a_tick_tells_a_bounded_number_of_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of clients at once would stop the loop."""
    monkeypatch.setattr(acceptor, "TOLD_PER_TICK", 2)
    async with growing(tmp_path) as cluster:
        node = cluster.nodes["n1"]
        clients = [await connected(cluster, "n1:8400", True) for _ in range(5)]
        node.acceptor.members_changed(["n1:8400", "n9:8400"])
        node.acceptor.announce_members()
        for client in clients[:2]:
            await client.frame(Kind.MEMBERS)
        assert len(node.acceptor._untold) == 3
        for client in clients[2:]:
            await client.frame(Kind.MEMBERS)


async def test_a_client_goes_on_when_all_nodes_that_it_was_told_have_been_removed(tmp_path: Path) -> None:
    """A new client of the same process goes on, too, with the old URL."""
    async with growing(tmp_path, machine="heap") as cluster:
        await cluster.wait_leader()
        last_nodes = LastNodes()
        url = BrokerUrl(("n1:8400",), "inproc", 5000, 2.0, 10.0)
        first = Driver(url, transport(cluster), client="test", last_nodes=last_nodes)
        await first.open()
        client = disheap.Client(first)
        topic = await client.create_topic("jobs")
        await topic.enqueue(b"1")
        await cluster.grow("n2", "n3")
        await wait_until(lambda: set(first.addresses) == {"n1:8400", "n2:8400", "n3:8400"}, "it has learned them")
        await cluster.nodes["n1"].membership.leave(20)
        await cluster.stop("n1")
        await topic.enqueue(b"2")
        second = Driver(url, transport(cluster), client="test", last_nodes=last_nodes)
        await second.open()
        (found,) = await disheap.Client(second).topics()
        assert found.ready == 2
        await first.close()
        await second.close()


async def test_a_blocking_client_goes_on_when_its_only_node_was_removed(tmp_path: Path) -> None:
    ports = free_ports(4)
    listen = {
        name: {"peer_listen": f"127.0.0.1:{peer}", "client_listen": f"127.0.0.1:{client}"}
        for name, peer, client in (("n1", *ports[:2]), ("n2", *ports[2:]))
    }
    cluster = Growing(tmp_path, machine="heap")
    cluster.base = msgspec.structs.replace(cluster.base, transport="tcp")
    try:
        await cluster.start("n1", **listen["n1"])
        client = await asyncio.to_thread(disheap.sync.connect, f"disheap://127.0.0.1:{ports[1]}")
        topic = await asyncio.to_thread(client.create_topic, "jobs")
        await asyncio.to_thread(topic.enqueue, b"1")
        await cluster.start("n2", join_addresses=(listen["n1"]["peer_listen"],), **listen["n2"])
        await cluster.wait_voters("n1", "n2")
        await asyncio.to_thread(topic.enqueue, b"2")  # it reads what has come meanwhile
        await cluster.nodes["n1"].membership.leave(20)
        await cluster.stop("n1")
        await asyncio.to_thread(topic.enqueue, b"3")
        assert [topic.ready for topic in await asyncio.to_thread(client.topics)] == [3]
        await asyncio.to_thread(client.close)
    finally:
        await asyncio.gather(*(node.stop(hand_over=False) for node in cluster.nodes.values()))
