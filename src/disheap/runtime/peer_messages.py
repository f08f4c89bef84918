"""What arrives from peers goes to the replica, or to the part of the node, that it concerns.

Owns that way, and what this node reports of itself once a second. Does not know connections: `peers.peering` calls it.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.interfaces import Clock
from disheap.kernel.membership import last_id_of
from disheap.kernel.types import Index, Message, NodeId, SnapshotMeta, Term
from disheap.protocol.forwarding import Forwarded
from disheap.protocol.gossip import Gossip
from disheap.protocol.repair import Answer, Ask
from disheap.runtime.clocks.member_clocks import MemberClocks
from disheap.runtime.membership.origin import NOBODY_YET
from disheap.runtime.memory.watch import MemoryWatch
from disheap.runtime.node_membership import NodeMembership
from disheap.runtime.peers.forwarding import ForwardingRouter
from disheap.runtime.replicas import Replicas


class PeerMessages:
    """`is_open` says whether the node runs: the replicas are open then."""

    def __init__(
        self,
        replicas: Replicas,
        membership: NodeMembership,
        memory: MemoryWatch,
        forwarding: ForwardingRouter,
        clock: Clock,
        member_clocks: MemberClocks,
        is_open: Callable[[], bool],
    ) -> None:
        self.has_group = replicas.has
        self._replicas = replicas
        self._membership = membership
        self._memory = memory
        self._forwarding = forwarding
        self._clock = clock
        self._member_clocks = member_clocks
        self._is_open = is_open

    def received(self, group: int, message: Message) -> None:
        """A Raft message of a peer. Raises `ProtocolError` if it cannot be read."""
        self._replicas[group].group.step(message)

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """A request or an answer about repair."""
        self._replicas[message.group].maintenance.received_repair(peer, message)

    def received_gossip(self, peer: NodeId, gossip: Gossip) -> None:
        """A peer's report about itself and its replicas."""
        self.heard_clock(peer, gossip.wall_ms)
        self._memory.heard(peer, gossip)
        for report in gossip.groups:
            self._replicas[report.group].received_report(peer, report)
        self._membership.heard(gossip)

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        """A message of one group for another, or the answer to one."""
        self._forwarding.received(peer, message)

    def heard_clock(self, peer: NodeId, wall_ms: int) -> None:
        """A peer's wall clock, in milliseconds since the epoch."""
        self._member_clocks.heard(peer, wall_ms)

    def unreachable(self, peer: NodeId) -> None:
        """The connection to a peer was lost: messages on it may be lost too."""
        self._member_clocks.lost(peer)
        if self._is_open():
            for replica in self._replicas:
                replica.group.unreachable(peer)
            self._forwarding.peer_lost(peer)

    def report(self) -> Gossip:
        """Returns what this node tells its peers of itself now."""
        memory, first = self._memory, self._replicas[0]
        applied = first.group.applied if first.lifecycle.is_running else SnapshotMeta(Index(0), Term(0), 0, NOBODY_YET)
        return Gossip(
            tuple(replica.report() for replica in self._replicas),
            memory.is_short,
            memory.is_exhausted,
            self._clock.wall_ms(),
            applied.index,
            tuple(int(one.id) for one in applied.membership.members),
            last_id_of(applied.membership),
        )
