"""A node whose files are removed, moved or covered while it runs: it stops, and the others go on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.nodes import Cluster

from disheap.errors import DisheapError, StorageGone
from disheap.runtime.disk import free_space

NOTICED_S = free_space.CHECK_S + 4.0
"""It looks once a second; the rest is for a machine that does other things, too."""


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def move(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def remove_a_segment(directory: Path) -> None:
    max((directory / "groups" / "0").glob("log-*")).unlink()


@pytest.mark.parametrize("happens", [remove, move, remove_a_segment])
async def test_an_idle_node_notices_that_its_files_are_gone(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        assert await node.apply(b"+1") == b"1"
        happens(tmp_path / "n1")
        error = await asyncio.wait_for(node.wait_failed(), NOTICED_S)
        assert isinstance(error, StorageGone)
        assert error.exit_code == 11


async def test_nothing_is_confirmed_from_the_removal_on(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        remove(tmp_path / "n1")
        with pytest.raises((DisheapError, TimeoutError)):
            await node.apply(b"+1", timeout_s=NOTICED_S)
        assert isinstance(node.failure, StorageGone)


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_the_others_go_on_without_it(tmp_path: Path, who: str) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        leader = await cluster.wait_leader()
        await leader.apply(b"+1")
        node = leader if who == "leader" else cluster.followers()[0]
        remove(tmp_path / node.name)
        error = await asyncio.wait_for(node.wait_failed(), NOTICED_S)
        assert isinstance(error, StorageGone)
        await cluster.stop(node.name)
        assert await (await cluster.wait_leader()).apply(b"+1") == b"2"
        await cluster.wait_equal()
