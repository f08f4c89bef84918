"""When a node tells the others about itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from disheap.kernel.types import NodeId
from disheap.protocol.gossip import Gossip
from disheap.runtime.peers.gossip import GOSSIP_S, GossipTimer
from disheap.testing.simulator.world.loop import SimLoop


def test_a_node_reports_at_once_and_then_in_every_interval_until_it_ends() -> None:
    loop = SimLoop()  # type: ignore[abstract]
    sent: list[float] = []

    async def life() -> None:
        began = loop.time()
        timer = GossipTimer(loop, lambda: sent.append(loop.time() - began))
        timer.begin()
        await asyncio.sleep(2.5 * GOSSIP_S)
        timer.end()
        await asyncio.sleep(5 * GOSSIP_S)
        timer.end()

    loop.run_until_complete(life())
    assert sent == pytest.approx([0, GOSSIP_S, 2 * GOSSIP_S])


async def test_a_node_whose_disk_hangs_is_still_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others need its wall clock, and whether it has memory, while its disk says nothing."""
    async with Cluster(tmp_path) as cluster:
        leader, follower = await cluster.wait_leader(), cluster.followers()[0]
        heard: list[int] = []

        def received_gossip(peer: NodeId, gossip: Gossip) -> None:
            if peer == follower.group.raft.id:
                heard.append(gossip.wall_ms)

        with monkeypatch.context() as hanging:
            hanging.setattr(follower.disk(), "submit", lambda work, done: None)
            hanging.setattr(leader.messages, "received_gossip", received_gossip)
            await wait_until(lambda: len(heard) > 1, "the node whose disk hangs reports again")
        assert heard == sorted(heard) and heard[0] > 0
