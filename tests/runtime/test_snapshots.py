"""What a node keeps for its snapshots, and for how long."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.support.nodes import FAST, Cluster
from tests.support.wire import wait_until

from disheap.kernel.types import ChunkRead, Entry, NodeId


async def test_the_record_of_sizes_stays_small_however_long_no_snapshot_is_due(tmp_path: Path) -> None:
    raft = msgspec.structs.replace(FAST, trailing_bytes=4096)
    async with Cluster(tmp_path, nodes=1, raft=raft) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        for count in range(400):
            await client.call(b"+1", confirmed=count)
        snapshotter = node.group.snapshotter
        assert len(snapshotter._sizes) < 100
        snapshotter.take()
        kept = snapshotter._storage.read(snapshotter._first, node.group.applied.index, 1 << 20)
        assert 4096 <= _bytes_of(kept) <= 4096 * 1.1, "and is exact enough for the margin"


def _bytes_of(entries: tuple[Entry, ...]) -> int:
    return sum(len(entry.data) for entry in entries)


async def test_a_snapshot_that_rotted_under_its_leader_is_replaced_by_a_new_one_for_whoever_waits_for_it(
    tmp_path: Path,
) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        node.group.snapshotter.take()
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "a snapshot is taken")
        (path,) = (tmp_path / "n1").glob("groups/0/snapshot-*")
        content = bytearray(path.read_bytes())
        content[-90] ^= 1
        path.write_bytes(content)
        for entries in (0, 1):  # at the same entry, and behind another
            for _ in range(entries):
                await node.apply(b"+1")
            taken = node.group.counters.raft_snapshots_total
            node.group._read_chunk(ChunkRead(NodeId(2), node.group.raft.snapshot_index, 0))
            await wait_until(lambda taken=taken: node.group.counters.raft_snapshots_total > taken, "another is taken")  # type: ignore[misc]
            newest = max((tmp_path / "n1").glob("groups/0/snapshot-*"))
            content = bytearray(newest.read_bytes())
            content[-90] ^= 1
            newest.write_bytes(content)
        await cluster.stop("n1")
