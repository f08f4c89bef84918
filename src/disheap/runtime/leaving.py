"""A node leaves its cluster while it runs.

It hands over what it leads, asks the leader to remove it, and waits until no group counts on it any more. Owns the
order of these steps. Changes no membership itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from disheap.config.node_config import NodeConfig
from disheap.errors import (
    ChangeInProgress,
    ConnectionLost,
    LastVoter,
    NotLeader,
    NotSent,
    QuorumAtRisk,
    RequestTimeout,
)
from disheap.kernel.types import Index, NodeId
from disheap.runtime import tuning
from disheap.runtime.membership.steering import Changed, Op
from disheap.runtime.peers.asking import Asker
from disheap.runtime.replicas import Replicas


class LeavingNode(Protocol):
    """What is asked of the node."""

    config: NodeConfig
    name: str
    is_removed: bool
    replicas: Replicas

    def leader_peer_address(self) -> str:
        """Returns the peer address of the leader of group 0; "" if it is not known, or is this node."""

    def any_peer_address(self) -> str:
        """Returns the peer address of another member."""

    async def change(self, op: Op, target: str, force: bool = False) -> Changed:
        """Change a member, if this node leads group 0. Raises `RequestError`."""

    def removed(self, reason: str) -> None:
        """The cluster has removed this node: go quiet."""


async def leave(node: LeavingNode, own: NodeId, asker: Asker, timeout_s: float) -> Changed:
    """Returns when the removal is committed. `asker` asks the leader for it. Raises `RequestError`."""
    if node.is_removed:
        raise NotSent("nothing was done, because the cluster has removed this node before")
    if not node.config.has_peers():
        raise LastVoter("this node is alone: it has no cluster to leave. Stop it")
    try:
        async with asyncio.timeout(timeout_s):
            return await _leave(node, own, asker)
    except TimeoutError:
        raise RequestTimeout(
            f"the cluster has not removed this node within {timeout_s:g} s. It may do so later; look, and repeat"
        ) from None


async def _leave(node: LeavingNode, own: NodeId, asker: Asker) -> Changed:
    for replica in node.replicas:
        await replica.hand_over()
    loop, pause_s = asyncio.get_running_loop(), node.config.raft.heartbeat_ms / 1000
    over_at = loop.time() + 2 * tuning.contact_s(node.config)
    while True:
        if node.replicas[0].group.leads:
            await _hand_over(node, own)
        try:
            answered = (await asker.ask(node.leader_peer_address() or node.any_peer_address())).answer
        except (NotLeader, ChangeInProgress, ConnectionLost):
            await asyncio.sleep(pause_s)
            continue
        except QuorumAtRisk:  # a leader that has just been elected has heard nobody yet
            if loop.time() > over_at:
                raise
            await asyncio.sleep(pause_s)
            continue
        await _wait_left(node, pause_s)
        return Changed(own, node.name, "removed", Index(answered.index))


async def _wait_left(node: LeavingNode, pause_s: float) -> None:
    """Group 0 has removed this node. It goes quiet when no group has it any more: until then others count on it."""
    while len(node.replicas) > 1 and not node.is_removed:
        await asyncio.sleep(pause_s)
    node.removed("it has left")


async def _hand_over(node: LeavingNode, own: NodeId) -> None:
    """Raises what is wrong with the removal of this leader, and returns when another one leads."""
    with suppress(NotLeader):
        await node.change("remove", str(own))
