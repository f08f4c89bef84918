"""Clients of a counter: they add, ask for the total, and let timers ring."""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar

from disheap.client.io.asyncio_driver import Driver
from disheap.errors import InvalidArgument
from disheap.testing.simulator.clients.client import SimulatedClient, Tally
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.world.rng import Rng


class CounterWorker(SimulatedClient):
    """One client process. What it is answered and pushed is judged by the group's history."""

    opaque: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, tally: Tally, name: str, rng: Rng, pace_s: float, group: int) -> None:
        super().__init__(cluster, tally, name, rng, pace_s, group)
        self._lanes = rng.pick((1, 1, 3))
        self._wire: Driver
        self.operations = [
            (self._add, 20),
            (self._subtract, 5),
            (self._set_timer, 5),
            (self._ask_total, 6),
            (self._transfer, 1),
            (self._snapshot, 1),
        ]

    def _connected_by(self, driver: Driver) -> None:
        self._wire = driver
        driver.on_push = lambda push: None  # the tap has seen it

    async def _session(self) -> None:
        count = self.rng.between(20, 120)
        await asyncio.gather(*(self._lane(count) for _ in range(self._lanes)))

    async def _add(self) -> None:
        await self._wire.call_opaque(b"+%d" % self.rng.between(1, 9))

    async def _subtract(self) -> None:
        await self._wire.call_opaque(b"-%d" % self.rng.between(1, 9))

    async def _set_timer(self) -> None:
        await self._wire.call_opaque(b"@%d" % self.rng.between(1, 3000))

    async def _ask_total(self) -> None:
        await self._wire.query_opaque(b"total")

    async def _transfer(self) -> None:
        with contextlib.suppress(InvalidArgument):  # one without a vote cannot lead
            await self._wire.admin({"op": "transfer", "target": self.rng.pick(self.cluster.hosts).name})

    async def _snapshot(self) -> None:
        await self._wire.admin({"op": "snapshot"})
