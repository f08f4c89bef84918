"""A session outlives a leader that is out of reach for a moment, however short its timeout is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.config.node_config import RaftConfig
from disheap.plugins.registry import Registry
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.world.rng import Rng
from tests.simulator.scripted import ScriptedCluster

RAFT = RaftConfig(tick_ms=100, heartbeat_ms=200, election_timeout_ms=1000, commit_timeout_ms=100)
BOUND_S = 30.0
SETTLED_S = 8.0
"""Longer than any session here may be silent, and than an election takes."""


class OneSession(ScriptedCluster):
    """Three nodes, and an idle client with a session."""

    def __init__(self, seed: int, timeout_ms: int) -> None:
        super().__init__(Rng(seed), Registry.load(), 3)
        for host in self.hosts:
            host.config = msgspec.structs.replace(host.config, raft=RAFT)
        self.process, self._transport = self.client_process("c1", 0)
        self._url = BrokerUrl(tuple(self.addresses()), "sim", timeout_ms, label="c1")
        self.driver: Driver

    async def begin(self) -> Host:
        """Returns the leader. The client has its session."""
        for host in self.hosts:
            self.start(host)
        await self.wait(lambda: self.leader() is not None, "nobody leads")
        opened = self.process.start(self._open())
        await self.wait(opened.done, "no session")
        await asyncio.sleep(1.0 + self.rng.seconds(0.0, 1.0))
        leader = self.leader()
        assert leader is not None
        return leader

    async def _open(self) -> None:
        self.driver = Driver(self._url, self._transport, generator=self.rng.fork().generator)
        await self.driver.open()

    async def end(self) -> None:
        closed = self.process.start(self.driver.close())
        await self.wait(closed.done, "the client does not close")

    async def wait(self, holds: Callable[[], bool], otherwise: str) -> None:
        over_at = self.loop.now + BOUND_S
        while not holds():
            if self.loop.now > over_at:
                self.fail(otherwise)
            await asyncio.sleep(0.05)

    async def cut_off(self, leader: Host, for_s: float) -> None:
        """From the other nodes and from the client."""
        others = [*(host.name for host in self.hosts if host is not leader), "c1"]
        pairs = [pair for other in others for pair in ((leader.name, other), (other, leader.name))]
        for source, target in pairs:
            self.network.cut(source, target, reset=0.0)
        await asyncio.sleep(for_s)
        for source, target in pairs:
            self.network.heal(source, target)


@pytest.mark.parametrize(
    ("timeout_ms", "cut_s"), [(1000, 0.3), (1000, 0.5), (1000, 0.7), (1000, 2.0), (2000, 0.9), (2000, 3.0)]
)
def test_a_leader_that_is_cut_off_for_a_moment_costs_no_session(timeout_ms: int, cut_s: float) -> None:
    """The client dials it meanwhile. The packet is lost, and nothing comes of that attempt."""
    cluster = OneSession(2, timeout_ms)

    async def life() -> None:
        leader = await cluster.begin()
        session = cluster.driver.session_id
        await cluster.cut_off(leader, cut_s)
        await asyncio.sleep(SETTLED_S)
        now = cluster.leader()
        assert now is not None
        assert session == cluster.driver.session_id and session in now.node.group.sessions.table
        await cluster.end()

    cluster.run(life())
