"""Whether a node should get traffic: what `/ready` answers.

Owns the reasons against it. Decides by what the node knows already, so that the answer is cheap and never waits.
"""

from __future__ import annotations

from typing import Protocol

from disheap.kernel.types import NOBODY
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replicas import Replicas

ENTRIES_BEHIND_MAX = 1000
"""A follower that is further behind than that still catches up. An entry has many commands under load, so a follower in
step is a few entries behind."""


class Host(Protocol):
    """The node that is asked."""

    replicas: Replicas
    is_stopping: bool


def find_reasons(node: Host) -> list[str]:
    """A sentence for each reason. Empty if the node takes part in every group."""
    if node.is_stopping:
        return ["the node is stopping"]
    return [f"group {replica.number}: {reason}" for replica in node.replicas for reason in _find(replica)]


def _find(replica: Replica) -> list[str]:
    lifecycle = replica.lifecycle
    if lifecycle.state is not State.RUNNING:
        return [f"the replica is {lifecycle.state.value}: {lifecycle.reason}"]
    reasons = []
    if replica.group.leader == NOBODY:
        reasons.append("no leader is known")
    elif lag := _lag(replica):
        reasons.append(lag)
    if replica.maintenance.disk_space.is_short:
        reasons.append("the disk is short of room")
    return reasons


def _lag(replica: Replica) -> str:
    """What the replica has not caught up with, or ""."""
    raft, applied = replica.group.raft, replica.group.applied.index
    if not raft.knows_commit:
        return "it is not known yet what is committed"
    behind = max(raft.commit, 0 if raft.is_leader else raft.commit_heard) - applied
    return f"the replica is {behind} entries behind" if behind > ENTRIES_BEHIND_MAX else ""
