"""What an operator can see and do at a node: the answers to ADMIN frames and to `Node.status`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Protocol

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, InvalidArgument, NotLeader, Overloaded
from disheap.kernel.types import NOBODY, NodeId
from disheap.runtime.clients.session_admin import end_session, list_sessions, read_page
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.membership.directory import AddressBook, supported_by
from disheap.runtime.memory.watch import MemoryWatch
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replica.versions import own_versions
from disheap.runtime.state.machine_stats import read_stats
from disheap.version import __version__

OPS = ("status", "hash", "transfer", "snapshot", "sessions", "end-session")


class AdminHost(Protocol):
    """The node that an operator asks."""

    config: NodeConfig
    cluster_id: str
    name: str
    book: AddressBook
    memory: MemoryWatch
    replicas: tuple[Replica, ...]

    def client_address_of(self, node: NodeId) -> str:
        """Returns the address where clients reach the member; "" if it is not known."""

    def is_connected(self, node: NodeId) -> bool:
        """Whether this node has a connection to the member. True for the node itself."""

    def refusal_by(self, node: NodeId) -> str:
        """Returns why the member refuses this node; "" if it does not."""

    def wall_ms(self) -> int:
        """Returns this node's wall clock, in milliseconds since the epoch."""

    def uptime_s(self) -> float:
        """Returns the seconds since the node was started."""


async def admin(node: AdminHost, replica: Replica, request: dict[str, Any]) -> dict[str, Any]:
    """`op` is one of OPS; `target` (a name) goes with transfer. `session_admin` reads what goes with the last two.
    Raises `RequestError`."""
    match request.get("op"):
        case "status":
            return await status(node, replica)
        case "hash":
            index, digest = await replica.group.hasher.hash_state()
            return {"applied_index": index, "state_hash": digest.hex()}
        case "transfer":
            return await _transfer(node, replica, str(request.get("target", "")))
        case "snapshot":
            _need_leader(replica)
            replica.group.mark_snapshot()
            return {"index": replica.group.raft.last_index}
        case "sessions":
            _need_leader(replica)
            return await list_sessions(replica.group, replica.server, read_page(request))
        case "end-session":
            _need_leader(replica)
            return await end_session(replica.group, replica.server, request)
        case other:
            raise InvalidArgument(f"no such op: {other!r}; there are {', '.join(OPS)}")


async def status(node: AdminHost, replica: Replica) -> dict[str, Any]:
    """The keys are those of `disheap status --json`."""
    group, raft = replica.group, replica.group.raft
    usage = await replica.storage_usage()
    machine_stats, machine_stats_error = read_stats(group.sessions.machine.stats)
    members = _members(node, replica)
    supported = own_versions(group.sessions)
    return {
        "cluster_id": node.cluster_id,
        "node": node.name,
        "node_id": raft.id,
        "version": __version__,
        "role": _role(replica),
        "term": raft.term,
        "leader": node.book.label(group.leader),
        "leader_address": node.client_address_of(group.leader),
        "commit_index": raft.commit,
        "applied_index": group.applied.index,
        "first_index": raft.first_index,
        "last_index": raft.last_index,
        "repair": replica.maintenance.repair_status(),
        "scrub": replica.maintenance.scrubbing.status(),
        "members": members,
        "sessions": len(group.sessions.table),
        "machine": replica.machine_name,
        "machine_version": group.sessions.machine_version,
        "log_version": group.sessions.log_version,
        "machine_versions": list(supported.machine),
        "log_versions": list(supported.log),
        "machine_stats": machine_stats,
        "machine_stats_error": machine_stats_error,
        "log_bytes": usage.log_bytes,
        "snapshot_bytes": usage.snapshot_bytes,
        "disk": replica.maintenance.disk_space.status(),
        "memory": node.memory.status(),
        "quarantine": replica.lifecycle.reason if replica.lifecycle.state is State.QUARANTINED else "",
        "comparison": replica.maintenance.comparing.status(),
        "log_time_ms": group.now_ms(),
        "clock": {"wall_ms": node.wall_ms(), "objection": group.clock_objection},
        "uptime_s": round(node.uptime_s(), 3),
        "counters": metrics(node),
        "group": replica.number,
        "lifecycle": replica.lifecycle.state.value,
        "forwarding": replica.forwarding_status(),
        "groups": [_group_row(node, one) for one in node.replicas],
    }


def metrics(node: AdminHost) -> dict[str, int | float]:
    """Counters since the start, over all groups, and gauges."""
    totals: Counter[str] = Counter()
    for replica in node.replicas:
        totals.update(msgspec.to_builtins(replica.group.counters))
        sessions = replica.group.sessions
        totals["disheap_commands_applied_total"] += sessions.applied_commands
        totals["disheap_commands_refused_total"] += sessions.failed_commands
        totals["disheap_wrong_secrets_total"] += replica.server.wrong_secrets
    return {**totals, "raft_cluster_size": len(node.book.ids())}


def _group_row(node: AdminHost, replica: Replica) -> dict[str, Any]:
    """Of `disheap status`, for each group."""
    group, raft = replica.group, replica.group.raft
    return {
        "group": replica.number,
        "machine": replica.machine_name,
        "lifecycle": replica.lifecycle.state.value,
        "role": _role(replica),
        "term": raft.term,
        "leader": node.book.label(group.leader),
        "leader_address": node.client_address_of(group.leader),
        "commit_index": raft.commit,
        "applied_index": group.applied.index,
        "sessions": len(group.sessions.table),
        "forwarding": replica.forwarding_status(),
    }


def _role(replica: Replica) -> str:
    match replica.lifecycle.state:
        case State.RUNNING:
            return str(replica.group.raft.role.value)
        case State.WAITING:
            return "new"
        case State.OPENING:
            return "repairing"  # else there would be nobody who could ask
        case State.REPAIRING | State.QUARANTINED | State.FAILED | State.CLOSED:
            return str(replica.lifecycle.state.value)


def _members(node: AdminHost, replica: Replica) -> list[dict[str, Any]]:
    peers = {peer.id: peer for peer in replica.group.raft.peers()}
    rows: list[dict[str, Any]] = []
    for member in node.book.ids():
        peer, learned = peers.get(member), node.book.learned(member)
        supported = own_versions(replica.group.sessions) if member == replica.group.raft.id else None
        supported = supported_by(learned.groups[replica.number]) if learned else supported
        rows.append(
            {
                "id": member,
                "name": node.book.label(member),
                "peer_address": node.book.peer(member),
                "client_address": node.client_address_of(member),
                "connected": node.is_connected(member),
                "refusal": node.refusal_by(member),
                "match_index": peer.match if peer else None,
                "progress": peer.state if peer else None,
                "machine_versions": list(supported.machine) if supported else None,
                "log_versions": list(supported.log) if supported else None,
            }
        )
    return rows


async def _transfer(node: AdminHost, replica: Replica, target: str) -> dict[str, Any]:
    _need_leader(replica)
    try:
        to = node.book.find(target) if target else NOBODY
    except ConfigError as error:
        raise InvalidArgument(str(error)) from None
    if to == replica.group.raft.id:
        return {"leader": node.name}
    replica.group.transfer(to)
    try:
        async with asyncio.timeout(node.config.raft.election_timeout_ms / 1000 * 2):
            await replica.wait_for_another_leader()
    except TimeoutError:
        raise Overloaded("the transfer was given up: the target did not catch up or did not answer") from None
    return {"leader": node.book.label(replica.group.leader)}


def _need_leader(replica: Replica) -> None:
    if not replica.group.leads:
        raise NotLeader(replica.leader_address())
