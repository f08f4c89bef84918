"""What an operator can see and do at a node: the answers to ADMIN frames and to `Node.status`."""

from __future__ import annotations

from typing import Any, Protocol

from disheap.config.node_config import NodeConfig
from disheap.errors import InvalidArgument, NotLeader, Overloaded
from disheap.kernel.membership import last_id_of
from disheap.kernel.raft import PeerStatus
from disheap.kernel.types import NOBODY, NodeId
from disheap.protocol.peers import PeerHello
from disheap.runtime.clients.acceptor import Acceptor
from disheap.runtime.clients.backup_admin import begin_backup, end_backup
from disheap.runtime.clients.backup_admin import read_page as read_backup
from disheap.runtime.clients.session_admin import end_session, list_sessions, read_page
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.membership.directory import AddressBook, MemberRecord, record_of, role_of, supported_by
from disheap.runtime.membership.steering import Changed
from disheap.runtime.memory.watch import MemoryWatch
from disheap.runtime.metrics import totals
from disheap.runtime.node_membership import NodeMembership
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replica.versions import own_versions
from disheap.runtime.replicas import Replicas
from disheap.runtime.state.machine_stats import read_stats
from disheap.version import __version__

OPS = (
    "status", "members", "hash", "transfer", "snapshot", "sessions", "end-session", "backup", "backup-read",
    "backup-end", "promote", "demote", "remove", "replace", "move", "leave",
)  # fmt: skip


MAX_ADDRESS_CHARACTERS = 255


class AdminHost(Protocol):
    """The node that an operator asks."""

    config: NodeConfig
    cluster_id: str
    name: str
    book: AddressBook
    memory: MemoryWatch
    membership: NodeMembership
    replicas: Replicas

    @property
    def acceptor(self) -> Acceptor:
        """Where clients connect."""

    def is_connected(self, node: NodeId) -> bool:
        """Whether this node has a connection to the member. True for the node itself."""

    def refusal_by(self, node: NodeId) -> str:
        """Returns why the member refuses this node; "" if it does not."""

    def wall_ms(self) -> int:
        """Returns this node's wall clock, in milliseconds since the epoch."""

    def uptime_s(self) -> float:
        """Returns the seconds since the node was started."""


async def admin(node: AdminHost, replica: Replica, request: dict[str, Any]) -> dict[str, Any]:
    """`op` is one of OPS; `target` (a name) goes with transfer and with the changes of members. `session_admin` and
    `backup_admin` read what goes with sessions and backups. Raises `RequestError`."""
    match request.get("op"):
        case "status":
            return await status(node, replica)
        case "members":
            return members(node, replica)
        case "promote" | "demote" | "remove" | "replace" as op:
            return _changed(await node.membership.change(op, _target(request), request.get("force") is True))
        case "move":
            return await _move(node, request)
        case "leave":
            return _changed(await node.membership.leave())
        case "hash":
            index, digest = await replica.group.hasher.hash_state()
            return {"applied_index": index, "state_hash": digest.hex()}
        case "transfer":
            return await _transfer(node, replica, str(request.get("target", "")))
        case "snapshot":
            _need_leader(replica)
            replica.group.proposals.mark_snapshot()
            return {"index": replica.group.raft.last_index}
        case "sessions":
            _need_leader(replica)
            return await list_sessions(replica.group, replica.server, read_page(request))
        case "end-session":
            _need_leader(replica)
            return await end_session(replica.group, replica.server, request)
        case "backup":
            _need_leader(replica)
            return await _begin_backup(node, replica)
        case "backup-read":
            return await read_backup(replica.group, request)
        case "backup-end":
            return end_backup(replica.group, request)
        case other:
            raise InvalidArgument(f"no such op: {other!r}; there are {', '.join(OPS)}")


async def status(node: AdminHost, replica: Replica) -> dict[str, Any]:
    """The keys are those of `disheap status --json`."""
    group, raft = replica.group, replica.group.raft
    usage = await replica.directory.usage()
    machine_stats, machine_stats_error = read_stats(group.sessions.machine.stats)
    rows = _members(node, replica)
    supported = own_versions(group.sessions)
    return {
        "cluster_id": node.cluster_id,
        "node": node.name,
        "node_id": raft.id,
        "version": __version__,
        "role": _role(replica),
        "term": raft.term,
        "leader": node.book.label(group.leader),
        "leader_address": node.book.client(group.leader),
        "commit_index": raft.commit,
        "applied_index": group.applied.index,
        "first_index": raft.first_index,
        "last_index": raft.last_index,
        "repair": replica.maintenance.repair_status(),
        "scrub": replica.maintenance.scrubbing.status(),
        "members": rows,
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
        "removed": replica.lifecycle.reason if replica.lifecycle.state is State.REMOVED else "",
        "quarantine": replica.lifecycle.reason if replica.lifecycle.state is State.QUARANTINED else "",
        "comparison": replica.maintenance.comparing.status(),
        "log_time_ms": group.now_ms(),
        "clock": {"wall_ms": node.wall_ms(), "objection": group.clock_objection},
        "uptime_s": round(node.uptime_s(), 3),
        "counters": totals(node),
        "group": replica.number,
        "lifecycle": replica.lifecycle.state.value,
        "forwarding": replica.forwarder.status(),
        "groups": [_group_row(node, one) for one in node.replicas],
    }


def _group_row(node: AdminHost, replica: Replica) -> dict[str, Any]:
    """One group's row in `disheap status`."""
    group, raft = replica.group, replica.group.raft
    return {
        "group": replica.number,
        "machine": replica.machine_name,
        "lifecycle": replica.lifecycle.state.value,
        "role": _role(replica),
        "term": raft.term,
        "leader": node.book.label(group.leader),
        "leader_address": node.book.client(group.leader),
        "commit_index": raft.commit,
        "applied_index": group.applied.index,
        "sessions": len(group.sessions.table),
        "forwarding": replica.forwarder.status(),
    }


def _role(replica: Replica) -> str:
    match replica.lifecycle.state:
        case State.RUNNING:
            return str(replica.group.raft.role.value)
        case State.WAITING:
            return "new"
        case State.OPENING:
            return "repairing"  # else there would be nobody who could ask
        case State.REPAIRING | State.QUARANTINED | State.REMOVED | State.FAILED | State.CLOSED:
            return str(replica.lifecycle.state.value)


def members(node: AdminHost, replica: Replica) -> dict[str, Any]:
    """The members, as this node knows them. The keys are those of `disheap node ls --json`."""
    raft = replica.group.raft
    return {
        "node": node.name,
        "leader": node.book.label(replica.group.leader),
        "index": raft.membership_index,
        "last_id": last_id_of(raft.membership),
        "is_committed": raft.membership_index <= raft.commit,
        "members": _members(node, replica),
    }


def _members(node: AdminHost, replica: Replica) -> list[dict[str, Any]]:
    group = replica.group
    peers = {peer.id: peer for peer in group.raft.peers()}
    disks = replica.maintenance.disk_space.disks()
    rows: list[dict[str, Any]] = []
    for member in node.book.members():
        one, record, peer, learned = member.id, record_of(member), peers.get(member.id), node.book.learned(member.id)
        is_self = one == group.raft.id
        supported = own_versions(group.sessions) if is_self else None
        supported = supported_by(learned.groups[replica.number]) if learned else supported
        rows.append(
            {
                "id": one,
                "name": node.book.label(one),
                "role": role_of(member),
                "groups": [_role_in(other, one) for other in node.replicas],
                "is_self": is_self,
                "peer_address": node.book.peer(one),
                "client_address": node.book.client(one),
                "connected": node.is_connected(one),
                "refusal": node.refusal_by(one),
                "match_index": peer.match if peer else None,
                "lag": _lag(group, peer, is_self),
                "progress": peer.state if peer else None,
                "last_contact_s": 0.0 if is_self else _last_contact_s(group, one),
                "incarnations": _incarnations(node, record, learned, is_self),
                "release": __version__ if is_self else (learned.release if learned else record.release),
                "machine_versions": list(supported.machine) if supported else None,
                "log_versions": list(supported.log) if supported else None,
                "disk": disks.get(one),
            }
        )
    return rows


async def _begin_backup(node: AdminHost, replica: Replica) -> dict[str, Any]:
    """What a backup says of the group and its cluster, beside the snapshot."""
    number = replica.draw()
    has_begun = await begin_backup(replica.group, replica.server, number)
    return {
        "backup": number,
        "begun": has_begun,
        "cluster_id": node.cluster_id,
        "node": node.name,
        "group": replica.number,
        "groups": len(node.replicas),
        "machine": replica.machine_name,
        "members": [node.book.label(member) for member in node.book.ids()],
    }


def _lag(group: Group, peer: PeerStatus | None, is_self: bool) -> int | None:
    """How many entries the member lacks; None if this node does not know, because it does not lead."""
    if is_self:
        return 0 if group.leads else None
    return group.raft.last_index - peer.match if peer is not None else None


def _last_contact_s(group: Group, member: NodeId) -> float | None:
    """None if this node does not lead, or has not heard the member in this term."""
    seconds = group.contact.since_s(member) if group.leads else None
    return None if seconds is None else round(seconds, 3)


def _role_in(replica: Replica, node: NodeId) -> str:
    """What the member is in a group; "" if that does not have it."""
    return next((role_of(one) for one in replica.group.raft.membership.members if one.id == node), "")


def _incarnations(node: AdminHost, record: MemberRecord, learned: PeerHello | None, is_self: bool) -> list[int]:
    """The incarnations of the member's directories, by group; empty if they are not known."""
    if is_self:
        return [one.incarnation for one in node.replicas]
    return [one.incarnation for one in learned.groups] if learned else list(record.incarnations)


def _target(request: dict[str, Any]) -> str:
    target = request.get("target")
    if not target or not isinstance(target, str | int):
        raise InvalidArgument("name the member: `target` is its name or its id")
    return str(target)


async def _move(node: AdminHost, request: dict[str, Any]) -> dict[str, Any]:
    peer, client = (str(request.get(key, "")) for key in ("peer_address", "client_address"))
    if not (peer or client) or max(len(peer), len(client)) > MAX_ADDRESS_CHARACTERS:
        raise InvalidArgument("give peer_address, client_address or both, as HOST:PORT")
    return _changed(await node.membership.move(_target(request), peer, client))


def _changed(changed: Changed) -> dict[str, Any]:
    return {"id": changed.node, "name": changed.name, "role": changed.role, "index": changed.at}


async def _transfer(node: AdminHost, replica: Replica, target: str) -> dict[str, Any]:
    _need_leader(replica)
    to = node.book.find(target) if target else NOBODY
    if to == replica.group.raft.id:
        return {"leader": node.name}
    replica.group.transfer(to)
    if not await replica.wait_for_transfer():
        raise Overloaded("the transfer was given up: the target did not catch up or did not answer")
    return {"leader": node.book.label(replica.group.leader)}


def _need_leader(replica: Replica) -> None:
    if not replica.group.leads:
        raise NotLeader(replica.leader_address())
