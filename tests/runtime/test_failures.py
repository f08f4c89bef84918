"""What ends a node, and what its clients and its owner see of it then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster, TestRegistry

from disheap.errors import StorageError
from disheap.kernel.types import Entry, Index
from disheap.plugins import Registry

PATIENCE_S = 10.0


def registry_with_storage(storage: type[Any]) -> Registry:
    """The installed plugins, with `storage` in the place of the one of its name."""

    class Replaced(TestRegistry):
        def get(self, kind: str, name: str) -> type[Any]:
            return storage if (kind, name) == ("storage", storage.name) else super().get(kind, name)

    return Replaced.load()


async def test_a_log_that_lost_what_is_committed_ends_the_node(tmp_path: Path) -> None:
    from disheap_filelog.storage import FileStorage

    class Forgetful(FileStorage):
        def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
            return ()

    raft = msgspec.structs.replace(FAST, log_cache_bytes=4096)
    async with Cluster(tmp_path, nodes=1, storage="file", raft=raft) as cluster:
        client = await cluster.client()
        for count in range(20):
            await client.call(b"+1" + b" " * 1000, confirmed=count)
        await cluster.stop("n1")
        cluster.registry = registry_with_storage(Forgetful)
        node = await cluster.start("n1")
        error = await asyncio.wait_for(node.wait_failed(), PATIENCE_S)
        assert isinstance(error, StorageError)
        assert "lost entry" in str(error)


async def test_a_mistake_of_ours_in_a_peers_message_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path) as cluster:
        follower = cluster.followers()[0]

        def step(message: object) -> None:
            raise AssertionError("committed beyond the end of the log")

        monkeypatch.setattr(follower.group.raft, "step", step)
        error = await asyncio.wait_for(follower.wait_failed(), PATIENCE_S)
        assert isinstance(error, AssertionError)
