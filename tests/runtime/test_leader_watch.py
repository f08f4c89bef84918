"""Waiting for a leader: whoever is told that this node leads may send it commands at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from disheap.errors import RequestTimeout
from disheap.kernel.types import NOBODY, NodeId
from disheap.runtime.replica.leader_watch import LeaderWatch

ELECTION_TICKS = 5


def watched(leader: int, leads: bool, is_leader: bool) -> tuple[Any, LeaderWatch]:
    """`is_leader`: what the kernel says. `leads`: what the server and the machine were told."""
    raft = SimpleNamespace(is_leader=is_leader, transferee=NOBODY)
    group = SimpleNamespace(leader=NodeId(leader), leads=leads, is_running=True, raft=raft)
    return group, LeaderWatch(0, lambda: group, lambda node: f"n{node}")


async def test_a_node_that_leads_is_named_when_it_takes_commands() -> None:
    group, watch = watched(leader=1, leads=False, is_leader=True)
    waiting = asyncio.ensure_future(watch.wait_for_leader(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    group.leads = True
    watch.note_change()
    assert await waiting == "n1"


async def test_another_node_is_named_as_soon_as_it_is_known() -> None:
    _, watch = watched(leader=2, leads=False, is_leader=False)
    assert await watch.wait_for_leader(10) == "n2"


@pytest.mark.parametrize("leader", [NOBODY, 1])
async def test_without_a_leader_that_takes_commands_the_wait_ends(leader: int) -> None:
    _, watch = watched(leader, leads=False, is_leader=leader == 1)
    with pytest.raises(RequestTimeout, match="is a majority of the members running"):
        await watch.wait_for_leader(0.01)


async def handing_over() -> tuple[Any, LeaderWatch, asyncio.Task[bool]]:
    group, watch = watched(leader=1, leads=True, is_leader=True)
    group.raft.transferee = NodeId(2)
    waiting = asyncio.create_task(watch.wait_for_transfer(ELECTION_TICKS))
    for _ in range(3 * ELECTION_TICKS):
        await tick(watch)
    assert not waiting.done(), "the kernel has not given it up"
    return group, watch, waiting


async def tick(watch: LeaderWatch) -> None:
    watch.tick()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def step_down(group: Any) -> None:
    group.leader, group.leads, group.raft.is_leader, group.raft.transferee = NOBODY, False, False, NOBODY


async def test_a_transfer_is_waited_for_until_another_node_leads() -> None:
    group, watch, waiting = await handing_over()
    step_down(group)
    await tick(watch)
    assert not waiting.done(), "nobody is known to lead yet"
    group.leader = NodeId(2)
    watch.note_change()
    assert await waiting is True


async def test_a_transfer_is_over_when_the_kernel_gives_it_up() -> None:
    group, watch, waiting = await handing_over()
    group.raft.transferee = NOBODY
    await tick(watch)
    assert await waiting is False


async def test_a_transfer_after_which_nobody_leads_is_not_waited_for_long() -> None:
    group, watch, waiting = await handing_over()
    step_down(group)
    for _ in range(ELECTION_TICKS):
        assert not waiting.done()
        await tick(watch)
    assert await waiting is False


async def test_a_transfer_of_a_replica_that_ends_is_not_waited_for() -> None:
    group, watch, waiting = await handing_over()
    group.is_running = False
    watch.note_change()
    assert await waiting is False
