"""Converts the settings of a node into the bounds of each part. Pure functions, so every default is applied in one
place."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.interfaces import FixedConstants, StateMachine
from disheap.kernel.types import KernelConfig, NodeId
from disheap.protocol.frames import ENVELOPE, FRAME_BYTES
from disheap.runtime.clients.admission import AdmissionLimits
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.clients.places import PlaceLimits
from disheap.runtime.clients.redirecting import REDIRECT_S
from disheap.runtime.disk import free_space
from disheap.runtime.replica.contact import HEARTBEATS
from disheap.runtime.replica.snapshots import SnapshotPolicy
from disheap.runtime.replica.wiring import GroupLimits
from disheap.runtime.state import sessions
from disheap.runtime.state.session_table import SessionLimits

APPLY_BYTES = 1 << 20
"""Entries applied between two looks at the sockets: some 3,000 messages of 256 bytes, 15 ms."""
CHUNK_TIMEOUT_MS = 3000
"""A snapshot's chunk unanswered for so long is sent again: the last one is answered when it is durable and restored."""
PEER_FRAME_MIN_BYTES = 64 << 20
"""A frame between nodes may be as large, whatever the limits say: entries outlive the limits they were taken under."""
PEER_FRAME_SHARE = 4
"""It may be so many times a client's largest frame: the limits of another node may be wider while they are raised."""
PEER_FRAME_ROOM_BYTES = 2 << 20
"""In a frame between nodes besides one entry: headers, and what one read from a client's socket adds to the entry."""
SEND_BUFFER_BYTES = 32 << 20
"""Queued for one peer, at least; beyond it messages are dropped. The kernel's window keeps a live peer well below."""
FRAMES_AT_ONCE = 4
"""At least this many of the largest frames may be on their way at once, over all connections."""
SEARCH_S = 1.0
"""Time for a redirected client: the search for the leader, and an ATTACH in the log."""
RESERVE_PARTS = 10
"""Where few sessions are allowed at all, at most a tenth of them is reserved."""
STAGGER_NODES, STAGGER_SHARE = 5, 0.1
"""Nodes snapshot at thresholds a tenth apart, so that not all of them write at once."""


def fitted(config: NodeConfig, max_command_bytes: int) -> NodeConfig:
    """The limits that follow from the machine's largest command, so that one setting is enough to raise it."""
    limits = config.limits
    frame_bytes = limits.frame_bytes or max(FRAME_BYTES, max_command_bytes + ENVELOPE.size)
    gather_bytes = max(limits.gather_bytes, frame_bytes)
    input_bytes = max(limits.input_bytes, FRAMES_AT_ONCE * frame_bytes)
    own_bytes = max(frame_bytes, limits.entry_bytes, config.raft.append_bytes) + PEER_FRAME_ROOM_BYTES
    wanted_bytes = limits.max_peer_frame_bytes or max(PEER_FRAME_MIN_BYTES, PEER_FRAME_SHARE * frame_bytes)
    fitting = msgspec.structs.replace(
        limits,
        frame_bytes=frame_bytes,
        gather_bytes=gather_bytes,
        input_bytes=input_bytes,
        max_peer_frame_bytes=max(own_bytes, wanted_bytes),
    )
    return msgspec.structs.replace(config, limits=fitting)


def kernel_config(config: NodeConfig, node: NodeId) -> KernelConfig:
    """Returns the kernel's configuration, with times in ticks."""
    raft = config.raft
    return KernelConfig(
        id=node,
        election_ticks=max(2, raft.election_timeout_ms // raft.tick_ms),
        heartbeat_ticks=max(1, raft.heartbeat_ms // raft.tick_ms),
        commit_ticks=max(1, raft.commit_timeout_ms // raft.tick_ms),
        append_bytes=raft.append_bytes,
        inflight_messages=raft.inflight_messages,
        inflight_bytes=raft.inflight_bytes,
        uncommitted_bytes=config.limits.uncommitted_bytes,
        log_cache_bytes=raft.log_cache_bytes,
        apply_bytes=APPLY_BYTES,
        chunk_timeout_ticks=max(2, CHUNK_TIMEOUT_MS // raft.tick_ms),
    )


def group_limits(config: NodeConfig, node: NodeId) -> GroupLimits:
    """The bounds of a group on this node."""
    limits = config.limits
    return GroupLimits(
        snapshots=_snapshot_policy(config, node),
        entry_bytes=limits.entry_bytes,
        gather_bytes=limits.gather_bytes,
        max_clock_jump_ms=limits.max_clock_jump_ms,
        chunk_bytes=config.raft.chunk_bytes,
        contact_s=contact_s(config),
    )


def _snapshot_policy(config: NodeConfig, node: NodeId) -> SnapshotPolicy:
    """When this node takes snapshots. Nodes are staggered, so that they do not all take one at once."""
    raft = config.raft
    return SnapshotPolicy(
        log_bytes=raft.snapshot_log_bytes,
        entries=raft.snapshot_threshold,
        trailing_entries=raft.trailing_entries,
        trailing_bytes=raft.trailing_bytes,
        reserve_bytes=free_space.reserve_bytes(config.limits.min_free_bytes),
        stagger=(node - 1) % STAGGER_NODES * STAGGER_SHARE,
    )


def session_limits(config: NodeConfig) -> SessionLimits:
    """The bounds of sessions. They decide what replicas do, so all nodes have the same."""
    limits = config.limits
    return SessionLimits(
        window=limits.session_window,
        reply_bytes=limits.session_reply_bytes,
        max_reply_bytes=limits.max_reply_bytes,
        sessions=limits.sessions,
        timeout_min_ms=limits.session_timeout_min_ms,
        timeout_max_ms=limits.session_timeout_max_ms,
        reattach_timeout_ms=limits.reattach_timeout_ms,
        work=limits.apply_work_limit,
    )


def shared_settings_digest(config: NodeConfig, machine_settings: msgspec.Struct) -> str:
    """Returns 16 hex digits. Bounds decide the reply to a command, so replicas with different bounds would differ. The
    constants of the session layer are part of it."""
    limits, bounds = msgspec.to_builtins(session_limits(config)), msgspec.to_builtins(machine_settings)
    shared = [limits, bounds, sessions.DECIDES_REPLIES]
    return _digest(shared)


def _digest(value: Any) -> str:
    return blake2b(msgspec.json.encode(value, order="sorted"), digest_size=8).hexdigest()


def constants_digests(machine: type[StateMachine]) -> dict[int, str]:
    """Returns 16 hex digits for each machine_version. Empty for a machine that does not name its constants."""
    if not issubclass(machine, FixedConstants):
        return {}
    lowest, highest = machine.versions
    return {version: _digest(dict(machine.constants(version))) for version in range(lowest, highest + 1)}


def takeover_s(config: NodeConfig) -> float:
    """How long a client may stay with a former leader that is cut off and answers its pings. It steps down after two
    election timeouts at most, and sends its clients away later. They search, and attach to the new leader."""
    return 2 * config.raft.election_timeout_ms / 1000 + REDIRECT_S + SEARCH_S


def server_limits(config: NodeConfig) -> ServerLimits:
    """The bounds of client connections."""
    limits = config.limits
    return ServerLimits(
        frame_bytes=limits.frame_bytes,
        session_window=limits.session_window,
        handshake_timeout_s=limits.handshake_timeout_s,
        idle_timeout_s=limits.idle_timeout_s,
        write_buffer_bytes=limits.write_buffer_bytes,
        queries=limits.queries,
        admission=AdmissionLimits(
            sessions=limits.sessions,
            max_sessions_per_address=limits.max_sessions_per_address,
            max_sessions_per_principal=limits.max_sessions_per_principal,
            reserved_sessions=min(limits.reserved_sessions, limits.sessions // RESERVE_PARTS),
        ),
        queries_per_connection=limits.queries_per_connection,
        input_bytes=limits.input_bytes,
        output_bytes=limits.output_bytes,
        session_timeout_min_ms=limits.session_timeout_min_ms,
        session_timeout_max_ms=limits.session_timeout_max_ms,
        reattach_timeout_ms=limits.reattach_timeout_ms,
        places=PlaceLimits(
            connections=limits.connections,
            max_connections_per_address=limits.max_connections_per_address,
            max_connections_per_principal=limits.max_connections_per_principal,
            reserved_connections=limits.reserved_connections,
            operator_names=limits.operator_names,
        ),
        contact_s=contact_s(config),
        takeover_s=takeover_s(config),
    )


def contact_s(config: NodeConfig) -> float:
    """A leader that has not heard of a member for so long is out of touch with it."""
    return HEARTBEATS * config.raft.heartbeat_ms / 1000


def settle_ticks(config: NodeConfig) -> int:
    """Ticks after which every member that still answers has answered anew."""
    return HEARTBEATS * config.raft.heartbeat_ms // config.raft.tick_ms + 1


def send_buffer_bytes(config: NodeConfig) -> int:
    """How much may wait for one peer. It holds twice the largest thing that is sent."""
    raft, limits = config.raft, config.limits
    return max(SEND_BUFFER_BYTES, 2 * max(raft.inflight_bytes, raft.append_bytes, limits.frame_bytes))
