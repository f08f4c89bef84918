"""Where a node tells others that its clients go."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient

from disheap.config.node_config import MemberConfig


@pytest.mark.parametrize(
    ("listen", "told"),
    [("0.0.0.0:{}", "{name}:{}"), (":{}", "{name}:{}"), ("{name}:{}", "{name}:{}"), ("any:0", "any:49152")],
)
async def test_clients_are_sent_to_an_address_that_reaches_the_leader(tmp_path: Path, listen: str, told: str) -> None:
    """The members' list says nothing of clients' addresses; they are learned when the nodes meet."""
    cluster = Cluster(tmp_path)
    members = tuple(MemberConfig(name, f"{name}:8300") for name in cluster.configs)
    ports = {name: 8400 + number for number, name in enumerate(cluster.configs)}
    cluster.configs = {
        name: msgspec.structs.replace(config, members=members, client_listen=listen.format(ports[name], name=name))
        for name, config in cluster.configs.items()
    }
    async with cluster:
        leader, follower = await cluster.wait_leader(), cluster.followers()[0]
        client = await WireClient.connected(cluster.transport, follower.client_address)
        expected = told.format(ports[leader.name], name=leader.name)
        assert client.welcome.leader[:-1] == expected[:-1]
        assert len(set(client.welcome.members)) == 3
