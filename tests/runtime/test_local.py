"""`Node.apply`: a session inside the node's own process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest
from tests.support.nodes import Cluster, TestRegistry, transfer
from tests.support.wire import wait_until

from disheap.config.node_config import Limits
from disheap.errors import NotLeader
from disheap.interfaces import Effects
from disheap.testing.counter import CounterMachine


async def test_callers_that_come_at_once_share_one_session(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        assert await asyncio.gather(*(node.apply(b"+1") for _ in range(3))) == [b"1", b"2", b"3"]
        assert len(node.group.sessions.table) == 1


async def test_a_caller_that_is_cancelled_is_cancelled(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        await leader.apply(b"+1")
        for name in [node.name for node in cluster.followers()]:
            await cluster.stop(name)
        waiting = asyncio.ensure_future(leader.apply(b"+1"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_session_that_leadership_took_away_leaves_no_connection_behind(tmp_path: Path) -> None:
    async with Cluster(tmp_path, limits=Limits(connections=1)) as cluster:
        for _ in range(2):
            leader = await cluster.wait_leader()
            await leader.apply(b"+1")
            await transfer(leader)
            with pytest.raises(NotLeader):
                await leader.apply(b"+1")
        for node in cluster.nodes.values():
            server = node.clients
            await wait_until(lambda server=server: not server._connections, "nobody is connected")  # type: ignore[misc]


class Talkative(CounterMachine):
    name: ClassVar[str] = "talkative"

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        return bytes(100_000), ()


async def test_a_reply_longer_than_a_clients_frame_reaches_the_caller(tmp_path: Path) -> None:
    registry = TestRegistry.load()
    registry.machines = {"counter": Talkative}  # type: ignore[attr-defined]
    limits = Limits(frame_bytes=65_536)
    async with Cluster(tmp_path, nodes=1, limits=limits, registry=registry) as cluster:
        assert await cluster.nodes["n1"].apply(b"say") == bytes(100_000)
