"""What a healthy group must be able to do, tried when everything is healed and quiet.

Faults alone never show that something stopped working for good, as long as the next fault starts it again. So each run
ends with some of these, drawn at random. Leadership is handed over when that is asked, and not held back by a node that
does not take it. A leader whose disk hangs hands over. Time passes though nobody sends anything. A former leader keeps
no client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from disheap.client.api.asynchronous import Client
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import RequestError
from disheap.runtime.replica.group import Group
from disheap.testing.simulator.cluster.cluster import WRONG_CLOCK_S, Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.world.rng import Rng

BOUND_S = 20.0
"""Virtual time for each step."""
CLIENT_TIMEOUT_S = 60.0
"""The timeout of the client of these checks. It is longer than any step, so that the check decides and not a
timeout."""
DELAY_MS = 700
HUNG_SLOWNESS = 1e9
"""A job of such a disk ends after the simulation does."""
TRANSFER_RETRY_S = 2.0
"""Between two requests to hand over; each is given up after an election timeout."""
CLOCKS_TOLD_S = 2.0
"""Within which members have told each other their clocks."""
SERVICE_BOUND_S = 9.0
"""Service is back so soon after the leader fell silent. That is two elections of at most 3 s each, should the first one
split the votes. It includes the last pause of a client, two commands, and the clocks that drift."""
IDLE_TIMEOUT_MS = 5000
"""The session timeout of a client that pings and asks nothing."""
CLIENTS_LEAVE_S = 3.0
"""Within which a former leader has sent its clients away."""


class LivenessChecks:
    """What a healed cluster must be able to do, asked by a client at the end of a run."""

    def __init__(self, cluster: Cluster, rng: Rng, group: int) -> None:
        self.cluster = cluster
        self._group = group  # of heaps
        self._rng = rng
        self._client: Client
        self._transport: Any
        self._made = 0

    async def run(self, transport: Any) -> None:
        """As a client's process."""
        self._transport = transport
        url = BrokerUrl(self.cluster.addresses(), "sim", 30_000, 2.0, CLIENT_TIMEOUT_S, "check", group=self._group)
        driver = Driver(url, transport, client="check", generator=self._rng.fork().generator)
        self._client = Client(driver)
        await driver.open()
        await self._client.create_topic("check")
        checks = [
            self._time_passes,
            self._hand_over,
            self._hand_over_to_nobody,
            self._disk_hangs,
            self._clock_is_wrong,
            self._leader_is_silent,
        ]
        for check in self._rng.shuffled(checks):
            if self._rng.chance(0.4):
                self.cluster.trace.add("LIVENESS", check.__name__.strip("_"))
                await check()
        await driver.close()

    # --- the checks ---

    async def _time_passes(self) -> None:
        """A delayed message becomes ready, and is delivered to who waits, without another command."""
        topic = self._client.topic("check")
        await topic.enqueue(self._payload(), delay_ms=DELAY_MS)

        async def arrives() -> None:
            for delivery in await topic.pop(1, int(BOUND_S * 2000)):
                await delivery.ack()

        await self._within(arrives, "a delayed message does not come although time passes")

    async def _hand_over(self) -> None:
        """To a voter that has everything; and the old leader's clients are told."""
        old, target = self._leader(), self._another()
        if old is None or target is None:
            return
        over_at = self.cluster.loop.now + BOUND_S
        while self.cluster.leader(self._group) is not target:
            if self.cluster.loop.now > over_at:
                self.cluster.fail(f"{target.name} does not lead, as it was asked to")
            self._transfer(self.cluster.leader(self._group) or old, target)
            await asyncio.sleep(TRANSFER_RETRY_S)  # it may have to catch up first, and then it is asked once more
        await asyncio.sleep(CLIENTS_LEAVE_S)
        if self.cluster.leader(self._group) is target and self._clients_of(old):
            self.cluster.fail(f"{old.name} leads no more, and keeps {self._clients_of(old)} clients")
        await self._command("no command is carried out after leadership was handed over")

    async def _hand_over_to_nobody(self) -> None:
        """The one that is to lead stands still. The old leader goes on, or another one does. Whoever leads by then is
        not deposed when the target reads that it was to lead."""
        leader, target = self._leader(), self._another()
        if leader is None or target is None or not self._can_lead_without([target]):
            return
        self.cluster.freeze(target)
        self._transfer(leader, target)
        try:
            await self._command("no command is carried out although only the one that was to lead stands still")
            leads = self._leader()
            term = self._group_of(leads).raft.term if leads is not None else 0
        finally:
            self.cluster.thaw(target)
        await asyncio.sleep(CLIENTS_LEAVE_S)
        if leads is not None and not (self._group_of(leads).leads and self._group_of(leads).raft.term == term):
            self.cluster.fail(f"{leads.name} led term {term}, until {target.name} read that it was once to lead")

    async def _disk_hangs(self) -> None:
        """Without an error. Another node leads, and carries out what is sent."""
        leader = self._leader()
        if leader is None or not self._can_lead_without([leader]):
            return
        if any(self.cluster.leader(one.number) is None for one in self.cluster.groups):
            return  # another group still elects, for a reason of its own
        terms = self._other_terms()
        leader.set_slowness(HUNG_SLOWNESS, self._group)
        await self._command("no command is carried out since the leader's disk hangs")
        if self._other_terms() != terms:
            self.cluster.fail("another group has elected because the disk hangs for one group")
        self.cluster.kill(leader)
        self.cluster.start(leader)

    async def _clock_is_wrong(self) -> None:
        """By ten years, of a node that is to lead. The safety checker looks at log time. Here the other nodes go on."""
        leader, target = self._leader(), self._another()
        if leader is None or target is None or not self._can_lead_without([target]):
            return
        self.cluster.set_clock(target, WRONG_CLOCK_S)
        await asyncio.sleep(CLOCKS_TOLD_S)  # what others say of their clocks is compared with it
        self._transfer(leader, target)
        await self._command("no command is carried out although only the one that was to lead has a wrong clock")
        self.cluster.set_clock(target, 0.0)

    async def _leader_is_silent(self) -> None:
        """The leader stands still, and as many others as a majority can do without. Service is back within
        `SERVICE_BOUND_S`, and no session lapses: not that of a client that asks, nor that of one that is idle."""
        leader = self._leader()
        if leader is None:
            return
        voters = self.cluster.voters(self._group)
        spare = len(voters) - self.cluster.majority(self._group)
        silent = [leader, *(host for host in voters if host is not leader)][:spare]
        if not silent or not self._can_lead_without(silent):
            return
        idle = await self._idle_client()
        sessions = self._client.driver.session_id, idle.session_id
        for host in silent:
            self.cluster.freeze(host)
        began = self.cluster.loop.now
        try:
            await self._command("no command is carried out since the leader is silent")
            took_s = self.cluster.loop.now - began
            if took_s > SERVICE_BOUND_S:
                self.cluster.fail(f"service is back {took_s:.1f} s after the leader fell silent")
            await asyncio.sleep(IDLE_TIMEOUT_MS / 1000 * 2)
            if (self._client.driver.session_id, idle.session_id) != sessions:
                self.cluster.fail("a session lapsed while a majority was up")
        finally:
            for host in silent:
                self.cluster.thaw(host)
            await idle.close()

    async def _idle_client(self) -> Driver:
        """Holds something, so that it would miss its session, and says nothing."""
        url = BrokerUrl(
            self.cluster.addresses(), "sim", IDLE_TIMEOUT_MS, 2.0, CLIENT_TIMEOUT_S, "idle", group=self._group
        )
        driver = Driver(url, self._transport, client="idle", generator=self._rng.fork().generator)
        await driver.open()
        await Client(driver).create_topic("check-idle", exclusive=True)
        return driver

    def _can_lead_without(self, silent: list[Host]) -> bool:
        """The others are voters by the log as well, and a majority of it."""
        leader = self._leader()
        assert leader is not None
        voters = [int(member.id) for member in self._group_of(leader).raft.membership.members if member.voter]
        left = [host for host in self.cluster.voters(self._group) if host not in silent and host.id in voters]
        return len(left) > len(voters) // 2

    # --- what they need ---

    async def _command(self, otherwise: str) -> None:
        async def done() -> None:
            await self._client.topic("check").enqueue(self._payload())
            for delivery in await self._client.topic("check").pop(10):
                await delivery.ack()

        await self._within(done, otherwise)

    async def _within(self, work: Callable[[], Awaitable[None]], otherwise: str) -> None:
        try:
            await asyncio.wait_for(work(), BOUND_S)
        except TimeoutError:
            self.cluster.fail(otherwise)
        except RequestError as error:
            self.cluster.fail(f"{otherwise}: {type(error).__name__}: {error}")

    def _transfer(self, leader: Host, target: Host) -> None:
        def ask() -> None:
            with contextlib.suppress(RequestError):  # another one leads by now
                self._group_of(leader).transfer(self.cluster.node_id(target))

        leader.process.soon(ask)

    def _group_of(self, host: Host) -> Group:
        return host.replica(self._group).group

    def _leader(self) -> Host | None:
        return self.cluster.leader(self._group)

    def _other_terms(self) -> list[int]:
        """The newest term of each of the other groups, on any node."""
        others = [one.number for one in self.cluster.groups if one.number != self._group]
        hosts = [host for host in self.cluster.hosts if host.has_group]
        return [max(int(host.replica(one).group.raft.term) for host in hosts) for one in others]

    def _another(self) -> Host | None:
        """A voter that could lead."""
        leader = self.cluster.leader(self._group)
        if leader is None:
            return None
        members = self._group_of(leader).raft.membership.members
        voters = [int(member.id) for member in members if member.voter]
        able = [host for host in self.cluster.voters(self._group) if host is not leader and host.id in voters]
        return self._rng.pick(able) if able else None

    def _clients_of(self, host: Host) -> int:
        """Whom a node that does not lead still carries, as if it did."""
        return sum(
            connection.session != 0 or connection.draining
            for connection in host.replica(self._group).server._connections
        )

    def _payload(self) -> bytes:
        self._made += 1
        return f"check.{self._made}".encode()
