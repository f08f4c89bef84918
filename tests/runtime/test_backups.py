"""Backups of a running group: which state they hold, and when they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.support.nodes import Cluster, transfer
from tests.support.wire import wait_until

from disheap.errors import BackupLost, InvalidArgument, NotLeader, Overloaded
from disheap.interfaces import MachineContext
from disheap.runtime.replica import backups
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap.testing.counter import CounterMachine, CounterSettings
from disheap.testing.inspected import InspectedMember


async def read_all(node: InspectedMember, number: int) -> tuple[dict[str, Any], bytes]:
    """The last page, and all bytes."""
    data = b""
    while True:
        page = await node.admin({"op": "backup-read", "backup": number, "offset": len(data)})
        if page["ready"]:
            data += page["data"]
            if page["is_last"]:
                assert await node.admin({"op": "backup-read", "backup": number, "offset": len(data) - 1})
                await node.admin({"op": "backup-end", "backup": number})
                return page, data


async def begun(node: InspectedMember) -> int:
    return int((await node.admin({"op": "backup"}))["backup"])


def count_in(data: bytes) -> int:
    machine = CounterMachine(CounterSettings(), MachineContext())
    Sessions(machine, SessionLimits(), ReplySink()).restore(iter([data]))
    return machine.total


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_a_backup_holds_everything_that_was_confirmed_before(tmp_path: Path, storage: str) -> None:
    async with Cluster(tmp_path, nodes=1, storage=storage) as cluster:
        node = cluster.nodes["n1"]
        for number in range(1, 4):
            await node.apply(b"+1")
            node.group.snapshotter.take()  # of this moment: it holds the command before, and none after
            await node.apply(b"+1")
            page, data = await read_all(node, await begun(node))
            assert count_in(data) == 2 * number and page["size_bytes"] == len(data)
        assert page["index"] == node.group.applied.index


async def test_a_backup_of_a_quiet_group_takes_no_second_snapshot(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        first = await read_all(node, await begun(node))
        assert await read_all(node, await begun(node)) == first
        assert node.group.counters.raft_snapshots_total == 1


async def test_a_backup_goes_on_when_another_node_leads_and_takes_snapshots(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        node = await cluster.wait_leader()
        await node.apply(b"+1")
        number = await begun(node)
        page = await node.admin({"op": "backup-read", "backup": number, "offset": 0})
        while not page["ready"]:
            page = await node.admin({"op": "backup-read", "backup": number, "offset": 0})
        await transfer(node)
        with pytest.raises(NotLeader):
            await begun(node)
        for _ in range(3):
            await (await cluster.wait_leader()).apply(b"+1")
            taken = node.group.counters.raft_snapshots_total
            node.group.snapshotter.take()
            await wait_until(lambda taken=taken: node.group.counters.raft_snapshots_total > taken, "a snapshot")  # type: ignore[misc]
        last, data = await read_all(node, number)
        assert count_in(data) == 1 and last["index"] == page["index"]


async def test_what_nobody_reads_ends_and_frees_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        numbers = [await begun(node) for _ in range(backups.BACKUPS_MAX)]
        with pytest.raises(Overloaded, match="2 backups of the group under way"):
            await begun(node)
        await node.admin({"op": "backup-end", "backup": numbers[0]})
        await begun(node)
        monkeypatch.setattr(backups, "IDLE_S", 0.0)
        await wait_until(lambda: not len(node.group.backups), "they have ended")
        with pytest.raises(BackupLost, match="Take the backup again"):
            await node.admin({"op": "backup-read", "backup": numbers[1], "offset": 0})


async def test_a_backup_of_a_snapshot_that_is_given_up_ends_with_the_reason(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        waiting = asyncio.create_task(read_all(node, await begun(node)))
        node.group.snapshotter.installed(node.group.applied)
        with pytest.raises(BackupLost, match="a leader's snapshot has replaced the state"):
            await waiting
        assert not len(node.group.backups)


async def test_bad_requests_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        number = await begun(node)
        await node.admin({"op": "backup-read", "backup": number, "offset": 0})
        for wrong in ({}, {"backup": "1", "offset": 0}, {"backup": number, "offset": "x"}, {"backup": number}):
            with pytest.raises(InvalidArgument):
                await node.admin({"op": "backup-read", **wrong})
        for offset in (-1, 1 << 40):
            with pytest.raises(InvalidArgument):
                await node.admin({"op": "backup-read", "backup": number, "offset": offset})
        with pytest.raises(BackupLost):
            await node.admin({"op": "backup-read", "backup": number + 1, "offset": 0})
        assert (await read_all(node, number))[0]["is_last"]
