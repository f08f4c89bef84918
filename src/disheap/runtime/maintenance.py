"""The background work of a replica beside its group.

Owns when its parts begin, tick, release the storage and end. Four parts guard the log: repair from other nodes
(`repairing`), answers to their repairs (`responder`), the check of incarnations (`incarnation_check`), and scrubbing
(`scrubbing`). The others are free disk space (`disk_space`), the comparison of state hashes (`comparing`), and the
freeing of replaced states (`discarder`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from disheap.config.node_config import NodeConfig
from disheap.interfaces import Clock
from disheap.kernel.types import NodeId
from disheap.protocol.gossip import GroupReport
from disheap.protocol.repair import Answer, Ask
from disheap.runtime.disk import free_space
from disheap.runtime.membership import incarnations
from disheap.runtime.repair import repairer, responder, scrubber
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replica.recovery import Found
from disheap.runtime.state import state_hashes
from disheap.runtime.state.discarding import Discarder


class Host(
    repairer.Host, responder.Host, incarnations.Host, scrubber.Host, free_space.Host, state_hashes.Host, Protocol
):
    """What these parts ask of their replica."""

    def send_repair(self, target: NodeId, message: Ask | Answer) -> None:
        """Send a request or an answer about repair. Dropped while there is no connection."""

    def freed_memory(self) -> None:
        """Work was done that may have freed memory."""

    @property
    def group(self) -> Group:
        """The group of this replica."""


class Maintenance:
    """Made before the storage is opened; `recovered` once, `found` at each opening."""

    def __init__(
        self,
        host: Host,
        group: int,
        own: NodeId,
        config: NodeConfig,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._host = host
        raft, limits = config.raft, config.limits
        self._election_ticks = raft.election_timeout_ms // raft.tick_ms
        self.repairing = repairer.Repairer(host, group, own, loop)
        self.responder = responder.Responder(host, group, raft.append_bytes, raft.chunk_bytes)
        self.incarnation_check = incarnations.IncarnationCheck(host, loop)
        self.scrubbing = scrubber.Scrubber(host, raft.scrub_bytes_per_s, raft.scrub_interval_s, loop)
        self.disk_space = free_space.DiskSpace(host, own, limits.min_free_bytes, clock)
        self.discarder = Discarder(loop, host.freed_memory)
        self.comparing = state_hashes.StateComparison(host, own, raft.compare_interval_s, loop)

    def recovered(self, found: Found, others: Sequence[NodeId], has_peers: bool) -> None:
        """Load what the storage has recorded of the other members. `others` have to welcome a new directory."""
        self.incarnation_check.recall(others, found.met if has_peers else None)

    def found(self, found: Found) -> None:
        """A new group continues from what was found."""
        self.comparing.moved(found.applied.time_ms)

    def begin(self, found: Found) -> None:
        """Peers can be reached from now on: begin to repair, or log who is waited for."""
        self.repairing.begin(found)
        self.incarnation_check.log_waiting()

    def tick(self) -> None:
        """Run each part once. Called on every tick."""
        self.repairing.tick(self._election_ticks)
        self.incarnation_check.tick()
        self.scrubbing.tick()
        self.disk_space.tick()

    async def end(self) -> None:
        """End all parts, before the storage is closed for good."""
        self.incarnation_check.end()
        self.comparing.end()
        self.discarder.end()
        self.disk_space.end()
        self.scrubbing.release_storage()
        await self.repairing.stop()

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """Take in a request or an answer about repair."""
        if isinstance(message, Ask):
            self.responder.received(peer, message)
        else:
            self.repairing.received(peer, message)

    def received_report(self, peer: NodeId, report: GroupReport) -> None:
        """Take in what a peer reports of this group."""
        self.disk_space.heard(peer, report)
        self.comparing.heard(peer, report.hashed_index, report.state_hash)

    def repair_status(self) -> dict[str, Any]:
        """Returns what is missing and who is waited for. Empty for a node that waits for nothing."""
        match self._host.lifecycle.state:
            case State.OPENING | State.REPAIRING:
                return self.repairing.status()
            case State.WAITING:
                return self.incarnation_check.status()
            case _:
                return {}
