"""What a node refuses at the handshake: both clients raise the error of its code, at once, and nothing else ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import disheap
from disheap import sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.errors import CredentialsRefused, ProtocolError, UnknownGroup, UnknownMechanism, WrongVersion
from disheap.protocol.handshake import Versions
from tests.support.nodes import Cluster

REFUSED = [
    ("group=7", UnknownGroup, "this node has no group 7; it has 0. Check `group` in the broker URL"),
    ("mechanism=scram", UnknownMechanism, "no mechanism 'scram' to authenticate with; this node has anonymous, ext"),
    ("mechanism=external", CredentialsRefused, "this connection has none; connect with TLS and a certificate"),
]


async def one_node(tmp_path: Path, versions: Versions) -> AsyncIterator[Cluster]:
    peer, client = free_ports(2)
    addresses = [(f"127.0.0.1:{peer}", f"127.0.0.1:{client}")]
    async with Cluster(
        tmp_path, 1, transport="tcp", machine="heap", addresses=addresses, versions={"n1": versions}
    ) as cluster:
        yield cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async for cluster in one_node(tmp_path, Versions(2, 2)):
        yield cluster


@pytest.fixture
async def later_release(tmp_path: Path) -> AsyncIterator[Cluster]:
    async for cluster in one_node(tmp_path / "later", Versions(3, 4)):
        yield cluster


def url_of(cluster: Cluster, parameters: str = "") -> str:
    return f"disheap://{cluster.nodes['n1'].client_address}?{parameters}"


async def refusals(url: str) -> list[ProtocolError]:
    """What the asyncio client raises, and what the blocking one does."""

    def connect() -> None:
        sync.connect(url).close()

    found: list[ProtocolError] = []
    with pytest.raises(ProtocolError) as caught:
        await disheap.connect(url)
    found.append(caught.value)
    with pytest.raises(ProtocolError) as caught:
        await asyncio.to_thread(connect)
    return [*found, caught.value]


@pytest.mark.parametrize(("parameters", "kind", "says"), REFUSED)
async def test_both_clients_raise_what_the_node_refuses(
    cluster: Cluster, parameters: str, kind: type[ProtocolError], says: str
) -> None:
    async with disheap.connect(url_of(cluster)) as bystander:
        topic = await bystander.create_topic("jobs")
        for error in await refusals(url_of(cluster, parameters)):
            assert type(error) is kind and says in str(error)
        assert await topic.enqueue(b"x")
    assert cluster.nodes["n1"].failure is None


async def test_both_clients_raise_that_a_node_speaks_later_versions_alone(later_release: Cluster) -> None:
    for error in await refusals(url_of(later_release)):
        assert type(error) is WrongVersion
        assert "speaks protocol version 2, this one versions 3 to 4; use releases" in str(error)
    assert await later_release.nodes["n1"].query(b"\x91\xcc\x83")
