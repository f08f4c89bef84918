"""A cluster all of whose addresses change at once finds itself again: each node's settings have the new ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from disheap.config.node_config import MemberConfig
from disheap.runtime.membership.directory import record_of


def move_all(cluster: Cluster) -> None:
    members = tuple(MemberConfig(name, f"{name}-moved:8300", f"{name}-moved:8400") for name in cluster.configs)
    for one in members:
        cluster.configs[one.name] = msgspec.structs.replace(
            cluster.configs[one.name], members=members, peer_listen=one.peer, client_listen=one.client
        )


@pytest.mark.parametrize("has_changed", [False, True], ids=["members have never changed", "members have changed"])
async def test_a_static_cluster_whose_addresses_all_change_finds_itself_again(
    has_changed: bool, tmp_path: Path
) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        leader = await cluster.wait_leader()
        assert await leader.apply(b"+1") == b"1"
        cluster_id = leader.cluster_id
        if has_changed:
            follower = cluster.followers()[0].name
            for op in ("demote", "promote"):
                await (await cluster.wait_leader()).membership.change(op, follower)  # type: ignore[arg-type]
            await cluster.wait_equal()
        for name in list(cluster.nodes):
            await cluster.stop(name)
        move_all(cluster)
        await asyncio.gather(*(cluster.start(name) for name in cluster.configs))
        leader = await cluster.wait_leader()
        assert await leader.apply(b"+1") == b"2"
        assert leader.cluster_id == cluster_id
        peers = [f"{name}-moved:8300" for name in cluster.configs]

        def known() -> list[list[str]]:
            return [[node.book.peer(one) for one in node.book.ids()] for node in cluster.nodes.values()]

        await wait_until(lambda: known() == [peers] * 3, "all know the new addresses")
        if has_changed:

            def logged() -> list[str]:
                members = cluster.nodes["n1"].group.applied.membership.members
                return [record_of(one).peer for one in members]

            await wait_until(lambda: logged() == peers, "the log has the new addresses")
