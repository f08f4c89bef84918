"""A cluster over the plugins under test: `--disheap-transport`, `--disheap-storage`, `--disheap-codec`; all by
default."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.support.nodes import Cluster, Tables

from disheap.cli.processes.local_cluster import free_ports
from disheap.client.core.url import BrokerUrl
from disheap.config.node_config import RaftConfig
from disheap.testing.certificates import Authority

TEMPO = RaftConfig(
    tick_ms=10,
    heartbeat_ms=30,
    election_timeout_ms=200,
    commit_timeout_ms=10,
    snapshot_threshold=200,
    trailing_entries=20,
    trailing_bytes=16_384,
    log_cache_bytes=65_536,
)

MakeCluster = Callable[[int], Cluster]


@pytest.fixture
def make_cluster(
    tmp_path: Path,
    disheap_tables: Tables,
    transport_name: str,
    storage_name: str,
    codec_name: str,
) -> MakeCluster:
    authority = Authority(tmp_path)

    def tables(name: str) -> Tables:
        """Each node has a certificate of its own: a peer's name is checked against it."""
        return {**disheap_tables, "transport": {**disheap_tables["transport"], "tls": {**authority.issue(name)}}}

    def make(nodes: int) -> Cluster:
        addresses = None
        if transport_name != "inproc":
            ports = free_ports(2 * nodes)
            pairs = zip(ports[:nodes], ports[nodes:], strict=True)
            addresses = [(f"localhost:{peer}", f"localhost:{client}") for peer, client in pairs]
        return Cluster(
            tmp_path,
            nodes,
            transport=transport_name,
            storage=storage_name,
            codec=codec_name,
            machine="heap",
            raft=TEMPO,
            tables=tables,
            addresses=addresses,
        )

    return make


@pytest.fixture
async def cluster(make_cluster: MakeCluster) -> AsyncIterator[Cluster]:
    async with make_cluster(3) as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> BrokerUrl:
    """All members, over the transport under test."""
    config = next(iter(cluster.configs.values()))
    table = {key: str(value) for key, value in config.table("transport").get(config.transport, {}).items()}
    addresses = tuple(member.client for member in config.members)
    return BrokerUrl(addresses, transport=config.transport, transport_table=table, session_timeout_ms=5000)
