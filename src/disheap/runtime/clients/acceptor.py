"""Accepts the client connections of a node, for all groups: places, buffers, and slow readers. Owns each connection
until its HELLO names a group, and its place until it is closed. From the HELLO on the connection uses the `Server` of
that group. Does not know sessions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from disheap.errors import NotLeader, UnknownGroup, WrongCluster
from disheap.logs import LineLimiter, get_logger
from disheap.protocol import handshake
from disheap.protocol.handshake import SUPPORTED, Hello, Versions
from disheap.runtime.clients.buffers import Buffers
from disheap.runtime.clients.connection import ClientConnection, ConnectionOwner
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.clients.places import Places

log = get_logger(__name__)

SWEEP_S = 0.25
"""How often those that do not read are looked at, and the leader looks for sessions that lapsed. By default no session
timeout is below 1 s."""

TOLD_PER_TICK = 200
"""Clients that are told of other members on one tick. Each costs a write of some 10 us: together some milliseconds."""


class NodeFacts(Protocol):
    """What the acceptor asks of its node."""

    cluster_id: str

    @property
    def servers(self) -> Mapping[int, ConnectionOwner]:
        """By the number of the group."""


class Acceptor:
    """`accept` for each connection that comes in; `sweep` on every tick."""

    def __init__(
        self,
        node: NodeFacts,
        limits: ServerLimits,
        loop: asyncio.AbstractEventLoop,
        versions: Versions = SUPPORTED,
    ) -> None:
        self.versions = versions  # of the protocol
        self.limits = limits
        self.loop = loop
        self.lines = LineLimiter(loop)  # about connections that are refused
        self.buffers = Buffers(limits.input_bytes, limits.output_bytes)
        self.places = Places(limits.places, loop.time)
        self._node = node
        self._connections: dict[ClientConnection, None] = {}
        self._slow: dict[ClientConnection, None] = {}  # do not read what they are sent as fast as it comes
        self._swept_at = 0.0
        self._members: bytes = b""  # the MEMBERS frame of the last change
        self._told: list[str] = []  # the addresses that clients were told of
        self._untold: deque[ClientConnection] = deque()

    def accept(self) -> ClientConnection:
        """Returns the receiver of a new connection."""
        return ClientConnection(self)

    def accept_local(self) -> ClientConnection:
        """Returns the receiver of a connection from this process. It needs no place, and is never silent."""
        return ClientConnection(self, is_local=True)

    def admit(self, connection: ClientConnection) -> bool:
        """Returns whether the connection gets a place. Otherwise it is refused with the reason."""
        if not connection.is_local:
            refusal = self.places.enter(connection, connection.remote, connection.certificate_name)
            if refusal is not None:
                self.lines.write(log.warning, "a connection is refused", remote=connection.remote, reason=str(refusal))
                connection.refuse(refusal)
                return False
        self._connections[connection] = None
        return True

    def find_server(self, hello: Hello) -> ConnectionOwner:
        """Returns the server of the group that the HELLO names. Raises `WrongCluster` and `UnknownGroup`."""
        mine, servers = self._node.cluster_id, self._node.servers
        if hello.cluster_id not in ("", mine):
            raise WrongCluster(
                f"this node belongs to cluster {mine}, the client asks for {hello.cluster_id}; check the addresses in "
                "its URL"
            )
        server = servers.get(hello.group)
        if server is None:
            here = ", ".join(map(str, servers))
            raise UnknownGroup(f"this node has no group {hello.group}; it has {here}. Check `group` in the broker URL")
        return server

    def lost(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        self._connections.pop(connection, None)
        self.places.leave(connection)

    def open_connections(self) -> int:
        """How many connections have said HELLO or still may."""
        return len(self._connections)

    def members_changed(self, addresses: list[str]) -> None:
        """Tell the clients the client addresses of all members if they are others than before, `TOLD_PER_TICK` of them
        on each tick."""
        if sorted(addresses) != self._told:
            self._told = sorted(addresses)
            self._members = handshake.members(addresses)
            self._untold = deque(one for one in self._connections if one.follows_members)

    def announce_members(self) -> None:
        """Tell the next clients who the members are. Called on every tick."""
        for _ in range(min(TOLD_PER_TICK, len(self._untold))):
            self._untold.popleft().send_unasked(self._members)

    def watch(self, connection: ClientConnection) -> bool:
        """Check at each sweep whether the client reads. Returns False if the connection is watched already."""
        if connection in self._slow:
            return False
        self._slow[connection] = None
        return True

    def sweep(self) -> None:
        """Check slow readers and the bytes unsent to them. Called on every tick; works every `SWEEP_S`."""
        now = self.loop.time()
        if now - self._swept_at < SWEEP_S:
            return
        self._swept_at = now
        for connection in list(self._slow):
            if not connection.check_slow_reader(now):
                self._slow.pop(connection, None)
        self.buffers.check_output(list(self._slow), now)

    def close(self) -> None:
        """Send a GOODBYE to the connections that no server has closed."""
        for connection in list(self._connections):
            connection.refuse(NotLeader())
