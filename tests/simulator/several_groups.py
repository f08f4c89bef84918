"""Three whole nodes with three groups, a counter and two heaps, and one client for each group.

Owns the steps of a scenario: who leads which group, and what is done to one of them. It checks that the others do not
notice. All checks of the simulator run beside it, for each group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from disheap.client.api.asynchronous import Client
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.config.node_config import RaftConfig
from disheap.errors import DisheapError
from disheap.plugins.registry import Registry
from disheap.protocol import broker
from disheap.testing.simulator.cluster.cluster import BLOCK_MAGIC
from disheap.testing.simulator.cluster.hosts import Host, group_of
from disheap.testing.simulator.world.rng import Rng
from tests.simulator.scripted import ScriptedCluster

COUNTER, FIRST_HEAP, SECOND_HEAP = GROUPS = (0, 1, 2)
MACHINES = ("counter", "heap", "heap")
TOPIC = "jobs"
BOUND_S = 60.0
"""Virtual time within which a step is done."""
NOTICED_S = 0.5
"""A command that takes longer was held up: less than the shortest election."""
PACE_S = 0.1
RAFT = RaftConfig(
    tick_ms=100, heartbeat_ms=200, election_timeout_ms=1000, commit_timeout_ms=100, snapshot_threshold=1000,
    compare_interval_s=1,
)  # fmt: skip


class GroupClient:
    """Sends one command after another to its group, and notes how long each takes."""

    def __init__(self, cluster: GroupsCluster, group: int) -> None:
        self.cluster = cluster
        self.group = group
        self.acknowledged: list[int] = []  # what each command was answered: the total, or the message's number
        self.slowest_s = 0.0
        self.is_over = False
        self._began = cluster.loop.now
        self.process, transport = cluster.client_process(f"c{group}", group)
        url = BrokerUrl(cluster.addresses(), "sim", 30_000, 2.0, BOUND_S, f"c{group}", group=group)
        self.done = self.process.start(self._live(url, transport))

    def look_again(self) -> None:
        """From here on `slowest_s` counts what comes."""
        self.slowest_s, self._began = 0.0, self.cluster.loop.now

    async def _live(self, url: BrokerUrl, transport: Any) -> None:
        is_counter = MACHINES[self.group] == "counter"
        driver = Driver(url, transport, opaque=is_counter, generator=self.cluster.rng.fork().generator)
        await driver.open()
        topic = None if is_counter else await Client(driver).create_topic(TOPIC)
        while not self.is_over:
            self._began = self.cluster.loop.now
            if topic is None:
                self.acknowledged.append(int(await driver.call_opaque(b"+1")))
            else:
                number = await topic.enqueue(b"%d" % len(self.acknowledged))
                assert number is not None
                self.acknowledged.append(number)
            self.slowest_s = max(self.slowest_s, self.cluster.loop.now - self._began)
            await asyncio.sleep(PACE_S)
        await driver.close()


class GroupsCluster(ScriptedCluster):
    """Node n1 leads group 0, n2 group 1 and n3 group 2, once `begin` is over."""

    def __init__(
        self,
        seed: int,
        raft: RaftConfig = RAFT,
        machines: tuple[str, ...] = MACHINES,
        registry: Registry | None = None,
    ) -> None:
        super().__init__(Rng(seed), registry or Registry.load(), 3, machines=machines)
        self.ends: dict[str, BaseException] = {}  # by host: what ended its node
        self.clients: list[GroupClient] = []
        for host in self.hosts:
            host.config = msgspec.structs.replace(host.config, raft=raft)

    def _failed(self, host: Host, error: BaseException) -> None:
        self.ends[host.name] = error
        super()._failed(host, error)

    # --- waiting and looking ---

    async def wait(self, holds: Callable[[], bool], otherwise: str, bound_s: float = BOUND_S) -> None:
        over_at = self.loop.now + bound_s
        while not holds():
            if self.loop.now > over_at:
                self.fail(f"{otherwise}: {self.standing()}")
            await asyncio.sleep(0.02)

    def standing(self) -> list[str]:
        return [
            f"{host.name} {host.state} "
            + " ".join(one.lifecycle.state.value for one in (host.node.replicas if host.state != "down" else ()))
            for host in self.hosts
        ]

    def serves(self, group: int) -> Host | None:
        """Who leads the group and has committed in its term."""
        leader = self.leader(group)
        if leader is None:
            return None
        found = leader.replica(group).group
        return leader if found.applied.term == found.raft.term else None

    def terms(self, group: int) -> set[tuple[int, int]]:
        """(term, leader) as the nodes that are up know them. A group that notices something elects, or loses sight of
        its leader."""
        groups = [host.replica(group).group for host in self.hosts if host.is_up and host.has_opened(group)]
        return {(int(one.raft.term), int(one.raft.leader)) for one in groups if one.is_running}

    def is_equal(self, group: int) -> bool:
        if not all(host.votes_in(group) for host in self.hosts) or self.serves(group) is None:
            return False
        groups = [host.replica(group).group for host in self.hosts]
        return len({(one.applied.index, one.raft.commit) for one in groups}) == 1

    # --- steps ---

    async def begin(self) -> None:
        """All nodes are up, each leads one group, and each group has a client."""
        for host in self.hosts:
            self.start(host)
        for group in GROUPS:
            await self.lead(self.hosts[group], group)
        self.clients = [GroupClient(self, group) for group in GROUPS]
        await self.progress(GROUPS)

    async def lead(self, host: Host, group: int) -> None:
        while self.serves(group) is not host:
            await self.wait(lambda: self.serves(group) is not None, f"nobody leads group {group}")
            leader = self.serves(group)
            if leader is not None and leader is not host:
                leader.process.run(self._transfer, leader, host, group)
            await asyncio.sleep(0.5)

    def _transfer(self, leader: Host, host: Host, group: int) -> None:
        try:
            leader.replica(group).group.transfer(self.node_id(host))
        except DisheapError as error:
            self.say(leader, f"no transfer: {type(error).__name__}")

    async def progress(self, groups: tuple[int, ...], commands: int = 10) -> None:
        """Each of these clients is answered so often, from now on."""
        goals = {group: len(self.clients[group].acknowledged) + commands for group in groups}
        await self.wait(
            lambda: all(len(self.clients[group].acknowledged) >= goal for group, goal in goals.items()),
            f"groups {groups} do not serve",
        )

    def others(self, group: int) -> Watching:
        """`async with cluster.others(group):` meanwhile the other groups notice nothing."""
        return Watching(self, tuple(other for other in GROUPS if other != group))

    def damage_block(self, host: Host, group: int) -> None:
        """Flips a bit of the newest block in the group's log, of a host that is down."""
        logs = {path: inode for path, inode in host.disk_image.names.items() if "/log-" in path}
        path = max(path for path, inode in logs.items() if group_of(path) == group and BLOCK_MAGIC in inode.now)
        inode = logs[path]
        inode.now[inode.now.rindex(BLOCK_MAGIC) + 70] ^= 1
        inode.durable = bytes(inode.now)
        self._spoilt(host, path)
        self.say(host, f"damaged: {path}")

    async def end(self) -> None:
        """All is well again: every group's replicas are equal, and all that was acknowledged is there."""
        for client in self.clients:
            client.is_over = True
        await self.wait(lambda: all(client.done.done() for client in self.clients), "a client does not end")
        for client in self.clients:
            client.done.result()
        await self.wait(lambda: all(map(self.is_equal, GROUPS)), "the replicas of a group differ, or nobody leads it")
        for group in GROUPS:
            machines = [host.replica(group).group.sessions for host in self.hosts]
            assert len({one.state_hash() for one in machines}) == 1, f"group {group}: one index, and two states"
            self._check_kept(group)

    def _check_kept(self, group: int) -> None:
        leader, acknowledged = self.leader(group), self.clients[group].acknowledged
        assert leader is not None
        machine: Any = leader.replica(group).group.sessions.machine
        assert len(set(acknowledged)) == len(acknowledged), "two commands had one outcome"
        if group == COUNTER:
            assert acknowledged == list(range(1, machine.total + 1)), "a command was lost, or carried out twice"
        else:
            assert sorted(acknowledged) == _messages(machine), "a message was lost, or is there twice"


def _messages(machine: Any) -> list[int]:
    """The numbers of the messages in the topic, as a query says."""
    answer = machine.query(0, 0, broker.encode(broker.Peek(TOPIC, 1000)))
    return sorted(message.id for message in broker.decode_reply.decode(answer).messages)


class Watching:
    """What the groups that nothing happens to do meanwhile."""

    def __init__(self, cluster: GroupsCluster, groups: tuple[int, ...]) -> None:
        self.cluster = cluster
        self.groups = groups
        self.before: dict[int, set[tuple[int, int]]] = {}

    async def __aenter__(self) -> None:
        for group in self.groups:
            self.cluster.clients[group].look_again()
            self.before[group] = self.cluster.terms(group)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        await self.cluster.progress(self.groups)
        for group in self.groups:
            slowest_s = self.cluster.clients[group].slowest_s
            assert slowest_s < NOTICED_S, f"a command of group {group} took {slowest_s:.1f} s"
            assert self.cluster.terms(group) == self.before[group], f"group {group} has elected"
