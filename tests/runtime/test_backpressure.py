"""When a node stops reading from a client, and when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits
from disheap.protocol import frames
from disheap.protocol.frames import Flags, Kind, Status
from disheap.runtime.clients.connection import ClientConnection
from disheap.testing.inspected import InspectedMember as Node


def port_of(node: Node, client: WireClient) -> ClientConnection:
    """The node's end of the only client's connection."""
    (port,) = node.clients._connections
    assert port.session == client.session
    return port


async def test_a_client_of_transient_commands_is_not_read_from_while_too_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        port = port_of(node, client)
        with monkeypatch.context() as patch:
            patch.setattr(node.group, "full", lambda: True)
            client.send(b"+1", seq=0, flags=Flags.TRANSIENT)
            await wait_until(lambda: port.paused, "the client is not read from")
        await node.apply(b"+1")
        assert await client.call(b"+1", seq=1) == (Status.OK, b"3"), "it is read from again"


async def test_a_client_that_attaches_is_not_read_from_either_while_too_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says that it holds goes into the log like everything else, a frame full of it."""
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        client = await WireClient.connected(cluster.transport, node.client_address)
        (port,) = node.clients._connections
        with monkeypatch.context() as patch:
            patch.setattr(node.group, "full", lambda: True)
            client.connection.write(frames.envelope(Kind.ATTACH, 0, 4711, 1, 0, b"held"))
            await wait_until(lambda: port.paused, "the client is not read from")
        await node.apply(b"+1")
        assert not port.paused


async def test_a_client_that_does_not_read_is_not_read_from_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        port = port_of(node, client)
        with monkeypatch.context() as patch:
            patch.setattr(node.group, "full", lambda: True)
            client.send(b"+1")
            await wait_until(lambda: port.paused, "the client is not read from")
            port.writing_paused()
        await node.apply(b"+1")
        assert port.paused, "what it was sent still waits"
        port.writing_resumed()
        assert not port.paused


async def test_a_client_that_reads_again_is_not_read_from_while_too_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        port = port_of(node, client)
        with monkeypatch.context() as patch:
            patch.setattr(node.group, "full", lambda: True)
            client.send(b"+1")
            await wait_until(lambda: port.paused, "the client is not read from")
            port.writing_paused()
            port.writing_resumed()
            assert port.paused
        await node.apply(b"+1")
        assert not port.paused


async def test_a_client_that_does_not_read_for_its_whole_timeout_loses_its_session(tmp_path: Path) -> None:
    """Stopped, or gone behind a firewall: what it held must not wait for it because its pings are not read."""
    async with Cluster(tmp_path, nodes=1, limits=Limits(session_timeout_min_ms=1)) as cluster:
        client, node = await cluster.client(timeout_ms=300), cluster.nodes["n1"]
        port_of(node, client).writing_paused()
        await wait_until(lambda: client.session not in node.group.sessions.table, "the session lapses")


async def test_a_client_that_reads_slowly_keeps_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, nodes=1, limits=Limits(session_timeout_min_ms=1)) as cluster:
        client, node = await cluster.client(timeout_ms=600), cluster.nodes["n1"]
        port = port_of(node, client)
        looks: list[None] = []

        def buffered() -> int:
            looks.append(None)
            return 1_000_000 - len(looks)

        monkeypatch.setattr(port._connection, "buffered", buffered)
        port.writing_paused()
        await wait_until(lambda: len(looks) > 4, "a second of sweeps")
        assert client.session in node.group.sessions.table
