"""The life of a simulated client: a process that connects, does one thing after another, and starts anew.

Owns the connection and the bookkeeping. What a client does to its group's machine belongs to `workload` (the heap) and
`counter_workload`. A client takes every refusal that the product may give, and no other error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from disheap.client.core.route import LastNodes
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import (
    CommandRefused,
    DisheapError,
    InternalError,
    InvalidArgument,
    ProtocolError,
    RequestError,
    UnknownCommand,
    VersionTooOld,
)
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.rng import Rng

Operation = Callable[[], Awaitable[Any]]
LOGGED = frozenset({"pop", "create_topic", "bind", "exchange", "enqueue", "publish", "add"})
"""What is answered from the log: who gets such an answer is served."""
NEVER = (InvalidArgument, UnknownCommand, VersionTooOld, InternalError)
"""Refusals that a correct client never gets from a correct node."""


class Tally:
    """How much the clients of a group have done."""

    def __init__(self) -> None:
        self.operations = 0
        self.failed = 0
        self.by_kind: dict[str, int] = {}


class SimulatedClient:
    """One client process of one group."""

    opaque: ClassVar[bool] = False
    """Whether the group's machine is no broker."""
    operations: list[tuple[Operation, int]]
    """What it does, each with its weight."""

    def __init__(self, cluster: Cluster, tally: Tally, name: str, rng: Rng, pace_s: float, group: int) -> None:
        self.name = name
        self.cluster = cluster
        self.group = group
        self.rng = rng
        self.process: Process
        self.stopped = False
        self.served_at = 0.0
        self.addresses: tuple[str, ...] = ()
        self._tally = tally
        self._pace_s = pace_s
        self._lanes = 1  # so many things at a time
        self._driver: Driver | None = None
        self._last_nodes = LastNodes()  # of its process
        self._lives = 0

    @property
    def session_id(self) -> int:
        """The session that it holds and means to keep; 0 without one."""
        driver = self._driver
        return 0 if driver is None or driver.is_over else driver.session_id

    def start(self) -> None:
        """Starts the client in a new process, with nothing left of its last life."""
        self._lives += 1
        self._driver, self._last_nodes = None, LastNodes()
        self.process, transport = self.cluster.client_process(self.name, self.group)
        timeout_ms = self.rng.pick((1000, 2000, 5000, 15000))
        addresses = self.addresses = tuple(self.rng.shuffled(self.cluster.addresses()))
        timeout_s = self.rng.pick((3.0, 8.0, 30.0))
        url = BrokerUrl(addresses, "sim", timeout_ms, 2.0, timeout_s, self.name, group=self.group)
        self._forget()
        self.process.start(self._live(url, transport, self.rng.fork()))

    def kill(self) -> None:
        """Kills the client's process."""
        self.cluster.end_client(self.process)

    @property
    def known_addresses(self) -> list[str]:
        """Where it looks for nodes: what it was told when it started, and what it has learned of nodes since."""
        return list(self.addresses) if self._driver is None else self._driver.addresses

    def follow_members(self) -> None:
        """Starts anew, as its operator would have it, if no node that serves is left where it looks. It had no
        connection when the members changed. A node that lost its data serves nobody."""
        members = {host.config.client_listen for host in self.cluster.members() if not host.wiped}
        if not self.stopped and self.process.alive and not members & set(self.known_addresses):
            self.kill()
            self.start()

    def knows_members(self) -> bool:
        """Whether it has learned where all members are, and no others. True of a client that has no session."""
        if not self.session_id or not self.process.alive:
            return True
        leader = self.cluster.leader()
        if leader is None:
            return False
        members = self.cluster.known_addresses(leader)
        return set(self.known_addresses) - set(self.addresses) == members - set(self.addresses)

    def stop(self) -> None:
        """Finish what it is at, and close."""
        self.stopped = True

    # --- what a client of some machine adds ---

    def _forget(self) -> None:
        """A new process knows nothing."""

    async def _session(self) -> None:
        """One client's whole life, of some operations."""
        raise NotImplementedError

    def _may_do(self, operation: Operation) -> bool:
        """Whether this operation is allowed now."""
        return True

    def _look(self) -> None:
        """After each operation."""

    async def _end(self) -> None:
        """Before the connection is closed."""

    # --- its life ---

    async def _live(self, url: BrokerUrl, transport: Any, rng: Rng) -> None:
        try:
            await self._work(url, transport, rng)
        except Exception as error:
            self.cluster.trace.note(self.name, repr(error))
            self.cluster.fail(f"client {self.name} fails: {type(error).__name__}: {error}")

    async def _work(self, url: BrokerUrl, transport: Any, rng: Rng) -> None:
        while not self.stopped:
            driver = self._driver = Driver(
                url,
                transport,
                client="simulated",
                opaque=self.opaque,
                generator=rng.generator,
                last_nodes=self._last_nodes,
            )
            self._connected_by(driver)
            try:
                await driver.open(timeout_s=20.0)
            except RequestError as error:
                self._say("cannot connect", error)
                await driver.close(end_session=False)
                continue
            await self._session()
            await self._end()
            await driver.close(end_session=self.rng.chance(0.7))

    def _connected_by(self, driver: Driver) -> None:
        """A driver is about to connect."""

    async def _lane(self, count: int) -> None:
        """One thing after another."""
        for _ in range(count):
            if self.stopped:
                return
            await asyncio.sleep(max(1, self._lanes // 2) * self._pace_s * self.rng.seconds(0.1, 2.0))
            operation = self.rng.weighted(self.operations)
            if not self._may_do(operation):
                continue
            kind = operation.__name__.strip("_")
            await self._try(kind, operation)
            self._look()

    async def _try(self, kind: str, operation: Operation) -> None:
        tally = self._tally
        tally.operations += 1
        tally.by_kind[kind] = tally.by_kind.get(kind, 0) + 1
        try:
            await operation()
            self._served(kind)
        except NEVER as error:
            self.cluster.fail(f"client {self.name}: {kind} is refused: {type(error).__name__}: {error}")
        except ProtocolError as error:
            self.cluster.fail(f"client {self.name}: {kind}: {type(error).__name__}: {error}")
        except DisheapError as error:
            tally.failed += 1
            self._say(kind, error)
            if isinstance(error, CommandRefused):
                self._served(kind)

    def _served(self, kind: str) -> None:
        if kind in LOGGED:
            self.served_at = self.cluster.loop.now

    def _say(self, what: str, error: DisheapError) -> None:
        self.cluster.trace.add(self.name, f"{what}: {type(error).__name__}")
        self.cluster.trace.note(self.name, str(error))
