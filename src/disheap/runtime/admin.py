"""What an operator can see and do at a node: the answers to ADMIN frames and to `Node.status`."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, InvalidArgument, NotLeader, Overloaded
from disheap.interfaces import StorageUsage
from disheap.kernel.types import NOBODY, NodeId
from disheap.runtime.clients.server import Server
from disheap.runtime.clients.session_admin import end_session, list_sessions, read_page
from disheap.runtime.maintenance import Maintenance
from disheap.runtime.membership.directory import AddressBook, supported_by
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.lifecycle import Lifecycle, State
from disheap.runtime.replica.versions import own_versions
from disheap.runtime.state.machine_stats import read_stats
from disheap.version import __version__

OPS = ("status", "hash", "transfer", "snapshot", "sessions", "end-session")


class AdminHost(Protocol):
    """The node that an operator asks."""

    config: NodeConfig
    cluster_id: str
    name: str
    machine_name: str
    book: AddressBook
    maintenance: Maintenance
    lifecycle: Lifecycle

    @property
    def group(self) -> Group: ...
    @property
    def clients(self) -> Server: ...
    async def storage_usage(self) -> StorageUsage: ...
    async def wait_for_another_leader(self) -> None: ...
    def leader_address(self) -> str: ...
    def client_address_of(self, node: NodeId) -> str: ...
    def is_connected(self, node: NodeId) -> bool: ...
    def refusal_by(self, node: NodeId) -> str: ...
    def wall_ms(self) -> int: ...
    def uptime_s(self) -> float: ...


async def admin(node: AdminHost, request: dict[str, Any]) -> dict[str, Any]:
    """`op` is one of OPS; `target` (a name) goes with transfer. `session_admin` reads what goes with the last two.
    Raises `RequestError`."""
    match request.get("op"):
        case "status":
            return await status(node)
        case "hash":
            index, digest = await node.group.hasher.hash_state()
            return {"applied_index": index, "state_hash": digest.hex()}
        case "transfer":
            return await _transfer(node, str(request.get("target", "")))
        case "snapshot":
            _need_leader(node)
            node.group.mark_snapshot()
            return {"index": node.group.raft.last_index}
        case "sessions":
            _need_leader(node)
            return await list_sessions(node.group, node.clients, read_page(request))
        case "end-session":
            _need_leader(node)
            return await end_session(node.group, node.clients, request)
        case other:
            raise InvalidArgument(f"no such op: {other!r}; there are {', '.join(OPS)}")


async def status(node: AdminHost) -> dict[str, Any]:
    """The keys are those of `disheap status --json`."""
    group, raft = node.group, node.group.raft
    usage = await node.storage_usage()
    machine_stats, machine_stats_error = read_stats(group.sessions.machine.stats)
    members = _members(node)
    supported = own_versions(group.sessions)
    return {
        "cluster_id": node.cluster_id,
        "node": node.name,
        "node_id": raft.id,
        "version": __version__,
        "role": _role(node),
        "term": raft.term,
        "leader": node.book.label(group.leader),
        "leader_address": node.client_address_of(group.leader),
        "commit_index": raft.commit,
        "applied_index": group.applied.index,
        "first_index": raft.first_index,
        "last_index": raft.last_index,
        "repair": node.maintenance.repair_status(),
        "scrub": node.maintenance.scrubbing.status(),
        "members": members,
        "sessions": len(group.sessions.table),
        "machine": node.machine_name,
        "machine_version": group.sessions.machine_version,
        "log_version": group.sessions.log_version,
        "machine_versions": list(supported.machine),
        "log_versions": list(supported.log),
        "machine_stats": machine_stats,
        "machine_stats_error": machine_stats_error,
        "log_bytes": usage.log_bytes,
        "snapshot_bytes": usage.snapshot_bytes,
        "disk": node.maintenance.disk_space.status(),
        "memory": node.maintenance.memory.status(),
        "quarantine": node.lifecycle.reason if node.lifecycle.state is State.QUARANTINED else "",
        "comparison": node.maintenance.comparing.status(),
        "log_time_ms": group.now_ms(),
        "clock": {"wall_ms": node.wall_ms(), "objection": group.clock_objection},
        "uptime_s": round(node.uptime_s(), 3),
        "counters": metrics(node),
    }


def metrics(node: AdminHost) -> dict[str, int | float]:
    """Counters since the start, and gauges."""
    group = node.group
    return {
        **msgspec.to_builtins(group.counters),
        "raft_cluster_size": len(node.book.ids()),
        "disheap_commands_applied_total": group.sessions.applied_commands,
        "disheap_commands_refused_total": group.sessions.failed_commands,
        "disheap_wrong_secrets_total": node.clients.wrong_secrets,
    }


def _role(node: AdminHost) -> str:
    match node.lifecycle.state:
        case State.RUNNING:
            return str(node.group.raft.role.value)
        case State.WAITING:
            return "new"
        case State.OPENING:
            return "repairing"  # else there would be nobody who could ask
        case State.REPAIRING | State.QUARANTINED | State.FAILED | State.CLOSED:
            return str(node.lifecycle.state.value)


def _members(node: AdminHost) -> list[dict[str, Any]]:
    peers = {peer.id: peer for peer in node.group.raft.peers()}
    rows: list[dict[str, Any]] = []
    for member in node.book.ids():
        peer, learned = peers.get(member), node.book.learned(member)
        supported = own_versions(node.group.sessions) if member == node.group.raft.id else None
        supported = supported_by(learned) if learned else supported
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


async def _transfer(node: AdminHost, target: str) -> dict[str, Any]:
    _need_leader(node)
    try:
        to = node.book.find(target) if target else NOBODY
    except ConfigError as error:
        raise InvalidArgument(str(error)) from None
    if to == node.group.raft.id:
        return {"leader": node.name}
    node.group.transfer(to)
    try:
        async with asyncio.timeout(node.config.raft.election_timeout_ms / 1000 * 2):
            await node.wait_for_another_leader()
    except TimeoutError:
        raise Overloaded("the transfer was given up: the target did not catch up or did not answer") from None
    return {"leader": node.book.label(node.group.leader)}


def _need_leader(node: AdminHost) -> None:
    if not node.group.leads:
        raise NotLeader(node.leader_address())
