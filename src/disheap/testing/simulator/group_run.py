"""One group's part of a run: its clients, the watch over their sessions, the drain, and the judgement.

`run` owns the cluster, the faults and the order of events. A cluster with one group has one of these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from disheap.client.api.asynchronous import Client
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import RequestError
from disheap.protocol import broker
from disheap.testing.simulator.clients.client import SimulatedClient
from disheap.testing.simulator.clients.counter_workload import CounterWorker
from disheap.testing.simulator.clients.judgement import judge
from disheap.testing.simulator.clients.promises import Promises
from disheap.testing.simulator.clients.session_liveness import SessionLiveness
from disheap.testing.simulator.clients.workload import Worker
from disheap.testing.simulator.cluster.cluster import Cluster, GroupChecks
from disheap.testing.simulator.world.rng import Rng

DRAIN_BOUND_S = 120.0
"""Virtual time within which every topic is empty."""


class GroupRun:
    """The clients of one group. `names` are theirs."""

    def __init__(self, cluster: Cluster, checks: GroupChecks, names: Sequence[str], rng: Rng, pace_s: float) -> None:
        self.cluster = cluster
        self.checks = checks
        self.promises = Promises()
        kind = CounterWorker if checks.machine == "counter" else Worker
        self.workers: list[SimulatedClient] = [
            kind(cluster, self.promises, name, rng.fork(), pace_s, checks.number) for name in names
        ]
        self.session_liveness: SessionLiveness

    def watch_sessions(self) -> None:
        """From now on."""
        self.session_liveness = SessionLiveness(self.cluster, self.checks, self.workers)
        self.checks.safety.on_commit = self.session_liveness.committed

    @property
    def number(self) -> int:
        """The number of the group."""
        return self.checks.number

    def is_led(self) -> bool:
        """Whether somebody leads who has committed in its own term."""
        leader = self.cluster.leader(self.number)
        if leader is None:
            return False
        group = leader.replica(self.number).group
        return group.applied.term == group.raft.term

    def is_equal(self) -> bool:
        """Whether all replicas that take part have applied the same."""
        hosts = [host for host in self.cluster.members() if host.state == "up" and not host.wiped]
        if not all(host.has_opened(self.number) for host in hosts):
            return False
        return len({host.replica(self.number).group.applied.index for host in hosts}) == 1

    def judge(self) -> dict[str, int]:
        """See `judgement.judge`."""
        return judge(self.cluster, self.checks, self.promises, self.session_liveness.objections)

    # --- draining ---

    @property
    def can_be_drained(self) -> bool:
        """Whether its machine has topics."""
        return self.checks.machine == "heap"

    async def drain(self, transport: Any, rng: Rng) -> None:
        """A client of its own takes everything out of every topic."""
        url = BrokerUrl(self.cluster.addresses(), "sim", 5000, 2.0, DRAIN_BOUND_S, "drain", group=self.number)
        driver = Driver(url, transport, client="drain", generator=rng.fork().generator)
        client = Client(driver)
        await driver.open()
        while True:
            infos = await client.topics()
            left = [info for info in infos if info.ready or info.delayed or info.leased]
            if not left:
                break
            for info in left:
                await self._empty(client, info)
            await asyncio.sleep(0.5)
        self.cluster.trace.add("drain", self.cluster.in_group(self.number, "all topics are empty"))
        await driver.close()

    async def _empty(self, client: Client, info: broker.TopicInfo) -> None:
        try:
            if info.deliveries_paused:
                await client.set_paused(info.topic, deliveries=False)
            for delivery in await client.topic(info.topic).pop(50):
                await delivery.ack()
        except RequestError as error:  # another session's own, or deleted meanwhile
            self.cluster.trace.add("drain", f"{info.topic}: {type(error).__name__}")
