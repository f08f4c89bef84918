"""Waiting for a leader: whoever is told that this node leads may send it commands at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from disheap.errors import RequestTimeout
from disheap.kernel.types import NOBODY, NodeId
from disheap.runtime.replica.leader_watch import LeaderWatch


def watched(leader: int, leads: bool, is_leader: bool) -> tuple[Any, LeaderWatch]:
    """`is_leader`: what the kernel says. `leads`: what the server and the machine were told."""
    group = SimpleNamespace(leader=NodeId(leader), leads=leads, raft=SimpleNamespace(is_leader=is_leader))
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
