"""What a node keeps for its snapshots, and for how long."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.support.nodes import FAST, Cluster

from disheap.kernel.types import Entry


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
