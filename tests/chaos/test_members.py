"""Members are replaced under load, each node a process: a cluster grows from one to five, loses members for good, and
shrinks back. What clients see is judged."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import disheap
from disheap.cli.processes.children import Child
from disheap.cli.processes.local_cluster import OURS, OURS_TOO, free_ports
from disheap.errors import ConnectionLost, DisheapError, MemberAlive, NotLeader, Overloaded
from tests.chaos.history import judge
from tests.chaos.nodes import HOST, SETTINGS
from tests.chaos.workload import Workload

pytestmark = pytest.mark.timeout(0)
PATIENCE_S = 60.0
LOAD_S = 0.5
"""Between two changes: the load goes on."""


class Processes:
    """Nodes by name. The first founds the cluster, the others join where it is told."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        self.directory = directory
        ports = free_ports(2 * len(names))
        self.peers = {name: f"{HOST}:{ports[2 * number]}" for number, name in enumerate(names)}
        self.clients = {name: f"{HOST}:{ports[2 * number + 1]}" for number, name in enumerate(names)}
        self.children: dict[str, Child] = {}
        file = directory / "disheap.toml"
        file.write_text(SETTINGS)
        self._command = (sys.executable, "-m", "disheap", "serve", "--config", str(file))

    def start(self, name: str, *join: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS) and key not in OURS_TOO}
        environ = {
            **kept,
            "NODE_ID": name,
            "RAFT_BIND": self.peers[name],
            "BOOTSTRAP": "" if join else "true",
            "RAFT_JOIN_ADDRESSES": ",".join(self.peers[one] for one in join),
            "DISHEAP_CLIENT_LISTEN": self.clients[name],
            "DISHEAP_DATA_DIR": str(self.directory / name),
        }
        self.children[name] = Child(name, self._command, self.directory / f"{name}.log", environ)
        self.children[name].start()

    def end(self, name: str) -> None:
        self.children.pop(name).kill()

    def said(self) -> str:
        return "\n".join(f"--- {name}\n{child.tail(8)}" for name, child in self.children.items())

    @property
    def url(self) -> str:
        return "disheap://" + ",".join(self.clients.values())

    async def ask(self, name: str, **request: Any) -> dict[str, Any]:
        async with disheap.connect(f"disheap://{self.clients[name]}", observer=True, timeout_s=5) as client:
            answer: dict[str, Any] = await client.driver.admin(request)
            return answer

    async def members(self) -> dict[str, dict[str, Any]]:
        """As the leader knows them; nothing while there is none."""
        for name in list(self.children):
            try:
                found = await self.ask(name, op="members")
            except DisheapError:
                continue
            if found["leader"] == name:
                return {row["name"]: row for row in found["members"]}
        return {}

    async def leader(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for name, row in (await self.members()).items():
                    if row["is_self"]:
                        return name
                await asyncio.sleep(0.05)

    async def wait_voters(self, *names: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while {name for name, row in (await self.members()).items() if row["role"] == "voter"} != set(names):
                await asyncio.sleep(0.05)

    async def change(self, op: str, target: str) -> dict[str, Any]:
        """At whoever leads. A member that was killed counts as in touch for a moment."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await self.ask(await self.leader(), op=op, target=target)
                except (NotLeader, Overloaded, ConnectionLost, MemberAlive):
                    await asyncio.sleep(0.05)


@contextmanager
def processes(*names: str) -> Iterator[Processes]:
    directory = Path(tempfile.mkdtemp(prefix="disheap-chaos-"))
    cluster = Processes(directory, list(names))
    try:
        yield cluster
    except Exception:
        print(cluster.said(), file=sys.stderr)
        raise
    finally:
        for child in cluster.children.values():
            child.kill()
        shutil.rmtree(directory, ignore_errors=True)


def test_members_come_and_go_under_load_and_nothing_is_lost() -> None:
    with processes("n1", "n2", "n3", "n4", "n5") as cluster:
        asyncio.run(grow_replace_and_shrink(cluster))


async def grow_replace_and_shrink(cluster: Processes) -> None:
    cluster.start("n1")
    load = Workload(cluster.url, random.Random(1))
    await load.start()
    for count in (2, 3, 4, 5):
        cluster.start(f"n{count}", "n1")
        if count % 2:
            await cluster.wait_voters(*(f"n{number}" for number in range(1, count + 1)))
    await lose_and_replace(cluster, load)
    await the_leader_leaves(cluster, load)
    left = await shrink(cluster, load)
    await load.stop()
    await load.drain()
    verdict = judge(load.history)
    assert not verdict.complaints()
    assert load.history.operations > 100
    assert await cluster.leader() == left


async def lose_and_replace(cluster: Processes, load: Workload) -> None:
    """A member is lost with its disk. It asks to join, is refused, and comes back when it was replaced."""
    leader = await cluster.leader()
    lost = next(name for name in cluster.children if name != leader)
    before = (await cluster.members())[lost]["id"]
    cluster.end(lost)
    shutil.rmtree(cluster.directory / lost)
    cluster.start(lost, *(name for name in cluster.children if name != lost))
    await load.wait_service(PATIENCE_S)
    assert (await cluster.members())[lost]["id"] == before
    await cluster.change("replace", lost)
    await cluster.wait_voters("n1", "n2", "n3", "n4", "n5")
    assert (await cluster.members())[lost]["id"] > before
    await load.wait_service(PATIENCE_S)


async def the_leader_leaves(cluster: Processes, load: Workload) -> None:
    leader = await cluster.leader()
    answer = await cluster.ask(leader, op="leave")
    assert answer["role"] == "removed"
    await cluster.leader()
    await load.wait_service(PATIENCE_S)
    status = await cluster.ask(leader, op="status")
    assert (status["role"], bool(status["removed"])) == ("removed", True)
    os.kill(cluster.children[leader].pid, signal.SIGTERM)
    assert "was removed from the cluster" in cluster.children[leader].log.read_text()
    cluster.end(leader)


async def shrink(cluster: Processes, load: Workload) -> str:
    while len(cluster.children) > 1:
        gone = next(name for name in cluster.children)
        await cluster.change("remove", gone)
        await load.wait_service(PATIENCE_S)
        await asyncio.sleep(LOAD_S)
        cluster.end(gone)
    return next(iter(cluster.children))
