"""Somebody in the network who is no member, and says to nodes that it is one.

Connects to the port for peers, with a hello that says all that the member would. It does not know the cluster's secret.
In a cluster without one it does not know the member's incarnation, because there the incarnation is all that a node can
check. No node may welcome it, and no frame of it may count. One that says it is a removed member may be welcomed, for
it has to be told of its removal. No frame of it may count either.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from disheap.errors import ConnectionLost
from disheap.interfaces import Connection
from disheap.kernel.types import Heartbeat, Index, NodeId, Term
from disheap.protocol import frames, handshake, peers
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.peers import PeerHello
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.network import SimTransport
from disheap.testing.simulator.world.rng import Rng

NAME = "stranger"
CONNECT_S = 2.0
MAX_TERMS_AHEAD = 50
MANY_TERMS = 10
"""More than a group has in `HEARD_S`: whose term goes up so far has heard a stranger."""
HEARD_S = 0.5
"""Within which all has arrived that a stranger has said."""


class Stranger:
    """One process that connects to nodes again and again, `pace_s` apart."""

    def __init__(self, cluster: Cluster, rng: Rng, pace_s: float) -> None:
        self._cluster = cluster
        self._rng = rng
        self._pace_s = pace_s
        self._process = Process(cluster.loop, NAME)
        self._transport = SimTransport(cluster.network, self._process, NAME)

    def start(self) -> asyncio.Task[None]:
        """Returns the task that connects, until it is cancelled."""
        return self._process.start(self._connect_to_nodes())

    def end(self) -> None:
        """Ends its process. Its connections are reset."""
        self._process.kill()
        self._cluster.network.killed(self._process, NAME, silently=False)

    async def _connect_to_nodes(self) -> None:
        while True:
            await asyncio.sleep(self._pace_s * self._rng.seconds(0.1, 2.0))
            running = [host for host in self._cluster.hosts if host.is_up and host.has_group]
            if len(running) > 1:
                target, member = self._rng.shuffled(running)[:2]
                await self._forge(target, member)

    async def _forge(self, target: Host, member: Host) -> None:
        """Says a hello, a proof that proves nothing or none at all, and a message that would move the node's term."""
        self._cluster.trace.fault("forged hello", target.name, f"as {member.name}")
        hello = member.node._peering.hello_to(NodeId(target.id))
        group = self._rng.below(len(hello.groups)) if len(hello.groups) > 1 else 0
        if not member.config.cluster_secret:
            said = hello.groups[group]
            said = msgspec.structs.replace(said, incarnation=said.incarnation ^ (1 + self._rng.bits(32)))
            groups = (*hello.groups[:group], said, *hello.groups[group + 1 :])
            hello = msgspec.structs.replace(hello, groups=groups)
        proof = self._rng.pick((frames.plain(Kind.PEER_PROOF), frames.plain(Kind.PEER_PROOF, bytes(32)), b""))
        ahead = self._rng.between(1, MAX_TERMS_AHEAD)
        term = Term(target.replica(group).group.raft.term + ahead)
        heartbeat = Heartbeat(NodeId(member.id), NodeId(target.id), term, Index(0), 0)
        script = handshake.hello(Kind.PEER_HELLO, hello) + proof + peers.encode(group, heartbeat)
        forged = _Forged(self._cluster, target, hello, script)
        open_at = [host for host in self._cluster.hosts if host.has_opened(group)]
        in_use = max((host.replica(group).group.raft.term for host in open_at), default=term)
        if term - in_use > MANY_TERMS:
            loop = self._cluster.loop
            loop.at(loop.now + CONNECT_S + HEARD_S, self._check_term, (target, target.process, group, term))
        with contextlib.suppress(ConnectionLost):
            await self._transport.connect(target.config.peer_listen, forged, CONNECT_S)

    def _check_term(self, target: Host, process: Process, group: int, term: Term) -> None:
        if target.process is process and target.has_opened(group):
            known = target.replica(group).group.raft.term
            self._cluster.groups[group].safety.require(
                known < term, f"{target.name} is in term {known}, and a stranger named term {term} to it"
            )


class _Forged:
    """The receiver of one connection."""

    def __init__(self, cluster: Cluster, target: Host, hello: PeerHello, script: bytes) -> None:
        self._cluster = cluster
        self._target = target
        self._hello = hello
        self._script = script
        self._reader = FrameReader(frames.HANDSHAKE_FRAME_BYTES)

    def connection_made(self, connection: Connection) -> None:
        """Says all at once."""
        connection.write(self._script)

    def data_received(self, data: bytes) -> None:
        """Fails the run if it is welcomed."""
        for kind, _ in self._reader.frames(data):
            is_removed = any(self._hello.node_id in one.safety.changes.removed for one in self._cluster.groups)
            if kind == Kind.PEER_WELCOME and not is_removed:
                self._cluster.fail(f"{self._target.name} welcomes a stranger that says it is {self._hello.name}")

    def writing_paused(self) -> None:
        """Does nothing."""

    def writing_resumed(self) -> None:
        """Does nothing."""

    def connection_lost(self, error: Exception | None) -> None:
        """Does nothing."""
