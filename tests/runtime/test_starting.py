"""What a node has to be told before it starts, and what a start that fails leaves behind: nothing that binds its
directory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, TestRegistry

from disheap.cli.processes.local_cluster import free_ports
from disheap.config.node_config import MemberConfig, NodeConfig
from disheap.errors import AddressInUse, ConfigError, WrongDirectory
from disheap.plugins.registry import Registry
from disheap.runtime.hosted_replica import Replica
from disheap.testing.certificates import Authority
from disheap.testing.inspected import InspectedMember as Node


@pytest.fixture
def registry() -> Registry:
    return TestRegistry.load()


@pytest.fixture
def three(tmp_path: Path) -> NodeConfig:
    """The first of three nodes, on real sockets and a real directory."""
    ports = free_ports(6)
    members = tuple(
        MemberConfig(f"n{number}", f"127.0.0.1:{ports[number]}", f"127.0.0.1:{ports[number + 3]}")
        for number in range(3)
    )
    return NodeConfig(
        name="n0", members=members, data_dir=str(tmp_path / "data"), peer_listen=members[0].peer,
        client_listen=members[0].client, machine="counter", raft=FAST,
    )  # fmt: skip


def files(directory: str) -> list[Path]:
    return sorted(Path(directory).rglob("*"))


@pytest.fixture
def listener() -> Iterator[Any]:
    """Somebody else, on a port."""
    servers: list[asyncio.Server] = []

    async def listen(address: str) -> None:
        host, _, port = address.rpartition(":")
        servers.append(await asyncio.start_server(lambda reader, writer: writer.close(), host, int(port)))

    yield listen
    for server in servers:
        server.close()


def test_a_node_is_told_its_cluster_or_that_it_is_alone(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"DISHEAP_MEMBERS.*--alone"):
        Node(NodeConfig(name="n1"), registry=registry)
    Node(NodeConfig(name="n1", alone=True), registry=registry)


@pytest.mark.parametrize("port", ["client_listen", "peer_listen"])
async def test_a_start_on_a_port_in_use_binds_no_directory(
    three: NodeConfig, registry: Registry, listener: Any, port: str
) -> None:
    await listener(getattr(three, port))
    with pytest.raises(AddressInUse):
        await Node(three, registry=registry).start()
    assert files(three.data_dir) == []


MISTAKES: list[dict[str, Any]] = [
    {"storage": "tape"},
    {"codec": "rot13"},
    {"machine": "turing"},
    {"transport": "pigeon"},
    {"client_transport": "pigeon"},
    {"plugins": {"machine": {"counter": {"no such": 1}}}},
    {"plugins": {"storage": {"file": {"segment_bytes": -1}}}},
    {"transport": "tls", "plugins": {"transport": {"tls": {"cafile": "/nowhere", "certfile": "/a", "keyfile": "/b"}}}},
    {"transport": "tls"},
    {"cluster_secret": "short"},
    {"client_listen": "127.0.0.1:port"},
    {"peer_listen": "0.0.0.0:0"},
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: "-".join(map(str, mistake.values()))[:40])
async def test_a_start_with_a_mistake_binds_no_directory(
    three: NodeConfig, registry: Registry, mistake: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        await Node(msgspec.structs.replace(three, **mistake), registry=registry).start()
    assert files(three.data_dir) == []


async def test_a_broken_certificate_binds_no_directory(three: NodeConfig, registry: Registry, tmp_path: Path) -> None:
    tls = Authority(tmp_path).issue("n0")
    Path(tls["certfile"]).write_text("no certificate")
    config = msgspec.structs.replace(three, transport="tls", plugins={"transport": {"tls": tls}})
    with pytest.raises(ConfigError):
        await Node(config, registry=registry).start()
    assert files(three.data_dir) == []


async def test_after_the_mistake_the_right_command_starts(three: NodeConfig, registry: Registry, listener: Any) -> None:
    """The list was lost at the first attempt, and a port was in use."""
    await listener(three.client_listen)
    forgot = msgspec.structs.replace(three, members=(), alone=True)
    with pytest.raises(AddressInUse):
        await Node(forgot, registry=registry).start()
    right = msgspec.structs.replace(three, client_listen="127.0.0.1:0")
    async with Node(right, registry=registry) as node:
        assert node.maintenance.repair_status()["waiting_for"] == ["n1", "n2"]


async def test_a_directory_of_a_cluster_is_not_started_alone(three: NodeConfig, registry: Registry) -> None:
    async with Node(three, registry=registry):
        pass
    before = files(three.data_dir)
    with pytest.raises(WrongDirectory):
        await Node(msgspec.structs.replace(three, members=(), alone=True), registry=registry).start()
    assert files(three.data_dir) == before


async def test_who_connects_while_a_node_recovers_is_turned_away(
    three: NodeConfig, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(three, registry=registry)
    recover, answers = Replica._recover, []

    async def slowly(replica: Replica, follow: bool) -> Any:
        for address in (three.client_listen, three.peer_listen):
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                answers.append(await reader.read(1))
            except ConnectionError:
                answers.append(b"")
            writer.close()
        return await recover(replica, follow)

    monkeypatch.setattr(Replica, "_recover", slowly)
    await node.start()
    await node.stop()
    assert answers == [b"", b""]
