"""Three whole nodes, on one of which one operation of the disk fails, and what comes of it (storage-rules 6).

Owns the script of the cluster's life, and the verdict. In the script that node does all that a node does to its files.
It starts on an empty directory, appends, takes snapshots, is stopped, is sent a snapshot, is repaired and is scrubbed.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from disheap.errors import DiskFailed
from disheap.plugins.registry import Registry
from disheap.protocol import broker
from disheap.testing.simulator.cluster.hosts import DiskFaults, Host
from tests.simulator.damage import TOPIC, DamagedCluster

END_S = 3.0
"""Virtual time within which a node whose disk has failed has ended."""
DOWN_S = 0.5
"""How long it stays so."""
ROUNDS = 3
"""How many rounds of messages there are in each stage of the life."""


class OneFailure(DiskFaults):
    """The `at`-th operation fails. Whatever the same process does to the disk afterwards is noted."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.seen = 0
        self.failed = ""
        self.after: list[str] = []
        self.removed: list[str] = []

    def happens(self, operation: str, path: str) -> None:
        self._note(f"{operation} of {path}")

    def closes(self, path: str) -> None:
        if not self.has_failed:
            self._note(f"close of {path}")

    def _note(self, what: str) -> None:
        if self.has_failed:
            self.after.append(what)
            return
        self.seen += 1
        self.removed += [what] if what.startswith("remove") else []
        if self.left == 0:
            self.has_failed, self.failed = True, what
        self.left -= 1
        if self.has_failed:
            raise OSError(errno.EIO, "Input/output error", what)


class DiskFailureScenario(DamagedCluster):
    """`cuts_power`: the machine of the node that has ended loses its power, too."""

    def __init__(self, registry: Registry, at: int, cuts_power: bool) -> None:
        super().__init__(registry, "none")
        self.cuts_power = cuts_power
        self.ends: list[BaseException] = []
        self.number = 0
        self.acknowledged: list[bytes] = []
        self.is_away = False  # stopped, and not because something failed
        self.host = self.hosts[0]
        self.faults = self.host.faults = OneFailure(at)

    @property
    def repaired(self) -> bool:
        return self.host.name in self.slept

    @property
    def installed(self) -> bool:
        """A snapshot that takes the place of the log removes all files of it, also the first one."""
        return any("/log-" in what and what.startswith("remove") for what in self.faults.removed)

    def _failed(self, host: Host, error: BaseException) -> None:
        assert host is self.host and self.faults.failed, f"{host.name} ends by itself: {error!r}"
        self.ends.append(error)
        assert isinstance(error, DiskFailed) and self.faults.failed in str(error), repr(error)
        super()._failed(host, error)

    async def restart_after_failure(self) -> None:
        """Sees the node end, and starts it again."""
        await self.wait(lambda: bool(self.faults.failed), "", 1e9)
        await self.wait(lambda: self.host.state == "down", f"{self.faults.failed} failed, and the node goes on", END_S)
        assert self.ends, f"{self.faults.failed} failed, and the node ended as if it had not"
        assert self.faults.after == [], f"{self.faults.failed} failed, and then {self.faults.after}"
        if self.cuts_power:
            self.host.disk_image.cut_power()
        await asyncio.sleep(DOWN_S)
        self.start(self.host)

    async def life(self) -> None:
        for host in self.hosts:
            self.start(host)
        restart_after_failure = self.loop.create_task(self.restart_after_failure())
        await self.work(broker.CreateTopic(TOPIC, broker.TopicSettings()))
        await self.enqueue()
        await self.snapshots(self.hosts)
        await self.enqueue()
        await self.leave()
        await self.enqueue()
        await self.begin_segments(self.hosts[1:])
        await self.snapshots(self.hosts[1:])
        await self.enqueue()
        await self.come_back()  # a snapshot is installed
        await self.enqueue()
        await self.leave()
        self.spoil()
        await self.come_back()  # what was spoilt is repaired
        await self.enqueue()
        await self.snapshots(self.hosts)
        await self.leave()
        await self.come_back()
        if self.faults.failed:
            await restart_after_failure
            await self.wait(lambda: self.up_again() and self.is_whole(), "it does not come back")
        restart_after_failure.cancel()
        content = self.content()
        assert all(body in content for body in self.acknowledged), "what was acknowledged is lost"

    async def work(self, command: Any) -> None:
        """Sends the command until it is acknowledged. It may be carried out twice if the first outcome is not known."""
        while not await self.try_to(command):
            await asyncio.sleep(DOWN_S)

    async def try_to(self, command: Any) -> bool:
        await self.wait(lambda: self.up_again() and self.is_whole(), "nobody leads, or they differ")
        leader = self.leader()
        assert leader is not None
        process, node = leader.process, leader.node
        done = process.start(node.apply(broker.encode(command)))
        await self.wait(lambda: done.done() or not process.alive, "no reply")
        error = done.exception() if done.done() else None
        if done.done() and error is None:
            return True
        assert leader is self.host and self.faults.failed, f"{error!r}, and nothing has failed"
        return False

    def up_again(self) -> bool:
        return self.is_away or (self.host.has_group and self.host.node.failure is None)

    async def enqueue(self) -> None:
        for _ in range(ROUNDS):
            self.number += 1
            body = b"<%d>" % self.number + bytes(400)
            await self.work(broker.Enqueue(TOPIC, broker.NewMessage(body, self.number)))
            self.acknowledged.append(body)
        await self.wait(lambda: self.up_again() and self.is_whole(), "they differ")

    async def snapshots(self, hosts: list[Host]) -> None:
        await self.wait(lambda: self.up_again() and self.is_whole(), "they differ")
        index = max(host.node.group.applied.index for host in hosts)
        for host in hosts:
            if host.has_group:
                host.process.run(host.node.group.snapshotter.take)

        def taken() -> bool:
            if not all(host.has_group for host in hosts):
                return False
            missing = [host for host in hosts if host.node.group.raft.snapshot_index < index]
            return not missing or (missing == [self.host] and self.faults.failed)

        await self.wait(taken, "no snapshot")

    async def begin_segments(self, hosts: list[Host]) -> None:
        """As each start does, so that the next snapshot drops the log before it."""
        for host in hosts:
            self.stop(host)
            await self.wait(lambda host=host: host.state == "down", "it does not stop")  # type: ignore[misc]
            self.start(host)
            await self.wait(lambda host=host: host.has_group and self.is_whole(), "it is not back")  # type: ignore[misc]

    async def leave(self) -> None:
        """Stopped in good order, or ended by what failed meanwhile."""
        await self.wait(self.up_again, "it does not start")
        self.is_away = True
        self.stop(self.host)
        await self.wait(lambda: self.host.state == "down", "it does not stop")

    async def come_back(self) -> None:
        await asyncio.sleep(2 * DOWN_S)
        if self.host.state == "down":
            self.start(self.host)
        self.is_away = False
        await self.wait(lambda: self.up_again() and self.is_whole(), "it does not come back")

    def spoil(self) -> None:
        """A block of its log that the others have."""
        path = max(
            path for path, inode in self.host.disk_image.names.items() if "/log-" in path and b"DHB1" in inode.now
        )
        inode = self.host.disk_image.names[path]
        inode.now[inode.now.index(b"DHB1") + 70] ^= 1
        inode.durable = bytes(inode.now)


def run_scenario(registry: Registry, at: int, cuts_power: bool = False) -> DiskFailureScenario:
    """The whole life, with the `at`-th operation failing. Raises for anything but an orderly end."""
    cluster = DiskFailureScenario(registry, at, cuts_power)
    try:
        cluster.run(cluster.life())
        return cluster
    finally:
        cluster.die()
        cluster.loop.close()
