"""A byte that rots under a running node is found by its scrub and repaired from the others, without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster
from tests.support.wire import wait_until

from disheap.interfaces import Scrubbed
from disheap.testing.inspected import InspectedMember as Node

SCRUBBED = msgspec.structs.replace(FAST, scrub_interval_s=0.2, snapshot_threshold=1000)


def place(node: Node, name: str) -> Path:
    return min(Path(node.config.data_dir).glob(f"groups/0/{name}-*"))


def spoil(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data[offset : offset + 1])


async def written(cluster: Cluster) -> None:
    """Each entry is in a block of its own on each node. A follower that lags puts several into one."""
    leader = await cluster.wait_leader()
    for number in range(1, 6):
        await leader.apply(b"+%d" % number)
        await cluster.wait_equal()


def damaged(node: Node) -> int:
    return int(node.maintenance.scrubbing.status()["damaged"])


async def test_a_block_that_rots_while_the_node_runs_is_repaired(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file", raft=SCRUBBED) as cluster:
        await written(cluster)
        victim = cluster.followers()[0]
        held = victim.storage()._log.index.backwards()  # type: ignore[attr-defined]
        located = [located for located, _ in held][2]
        spoil(Path(located.segment.path), located.block.end - 3)
        await wait_until(lambda: damaged(victim) > 0, "it is found")
        await wait_until(lambda: victim.group.is_running, "it takes part again")
        await (await cluster.wait_leader()).apply(b"+0")
        await cluster.wait_equal()
        assert victim.failure is None
        passes, found = victim.maintenance.scrubbing.status()["passes"], damaged(victim)
        await wait_until(lambda: victim.maintenance.scrubbing.status()["passes"] > passes + 1, "whole passes")
        assert damaged(victim) == found, "what is on the disk is good again"


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_snapshot_that_rots_while_the_node_runs_is_made_up_for(tmp_path: Path, compacted: bool) -> None:
    trailing = {"trailing_entries": 0, "trailing_bytes": 0} if compacted else {}
    raft = msgspec.structs.replace(SCRUBBED, **trailing)
    async with Cluster(tmp_path, storage="file", raft=raft) as cluster:
        await written(cluster)
        for node in cluster.nodes.values():
            node.group.snapshotter.take()
        await wait_until(lambda: all(n.group.raft.snapshot_index > 0 for n in cluster.nodes.values()), "snapshots")
        victim = cluster.followers()[0]
        spoil(place(victim, "snapshot"), 90)
        await wait_until(lambda: damaged(victim) > 0, "it is found")
        await wait_until(lambda: victim.group.is_running, "it takes part again")
        await (await cluster.wait_leader()).apply(b"+0")
        await cluster.wait_equal()
        assert victim.failure is None


async def test_a_node_that_is_alone_goes_on_with_the_state_that_it_has_in_memory(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file", raft=SCRUBBED) as cluster:
        await written(cluster)
        node = cluster.nodes["n1"]
        held = node.storage()._log.index.backwards()  # type: ignore[attr-defined]
        located = [located for located, _ in held][2]
        spoil(Path(located.segment.path), located.block.end - 3)
        await wait_until(lambda: damaged(node) > 0 and node.group.raft.snapshot_index > 0, "a snapshot is taken")
        assert await node.apply(b"+1") == b"16"
        assert node.failure is None


async def test_a_node_that_stops_in_the_middle_of_a_piece_stops(tmp_path: Path) -> None:
    """What comes back from the disk afterwards asks for nothing (found by the simulator, seed 5202)."""
    async with Cluster(tmp_path, nodes=1, storage="file", raft=SCRUBBED) as cluster:
        node = cluster.nodes["n1"]
        jobs: list[Any] = []
        node.maintenance.scrubbing._host = Held(node, jobs)  # type: ignore[assignment]
        await wait_until(lambda: bool(jobs), "a piece is asked for")
        await cluster.stop("n1")
        for _, done in jobs:
            done(Scrubbed((), 1), None)
        assert node.maintenance.scrubbing.status()["passes"] == 0


class Held:
    """A node whose disk keeps a scrub's piece for itself."""

    def __init__(self, node: Node, jobs: list[Any]) -> None:
        self._node, self._jobs = node, jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def disk(self) -> Held:
        return self

    def submit(self, work: Any, done: Any) -> None:
        self._jobs.append((work, done))


async def test_a_rate_of_zero_reads_nothing(tmp_path: Path) -> None:
    raft = msgspec.structs.replace(SCRUBBED, scrub_bytes_per_s=0)
    async with Cluster(tmp_path, nodes=1, storage="file", raft=raft) as cluster:
        await written(cluster)
        node = cluster.nodes["n1"]
        node.maintenance.scrubbing._next_at = 0.0
        for _ in range(3):
            node.maintenance.scrubbing.tick()
            await node.apply(b"+1")
        assert node.maintenance.scrubbing.status() == {"passes": 0, "bytes": 0, "damaged": 0}
