"""One member of a cluster: transports, replicas and services wired together (docs/explanation/architecture.md).

Owns starting and stopping, and the tick of the process. It passes what arrives to the replica that it concerns. All
sources of nondeterminism are constructor arguments: the loop, the clock, the random generator, the disk, the plugins.
Programs that use disheap as a library see `node.Node`, which shows a small part of this. The command line, the
simulator and the tests use the member.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from disheap.config.cluster_secret import read_secrets
from disheap.config.node_config import NodeConfig, check_cluster, check_listening, reachable
from disheap.errors import DisheapError, RequestError, UnknownGroup
from disheap.interfaces import Clock, Transport
from disheap.kernel.types import Message, NodeId
from disheap.logs import get_logger
from disheap.plugins.registry import Registry
from disheap.protocol.forwarding import Forwarded
from disheap.protocol.frames import ENVELOPE
from disheap.protocol.gossip import Gossip
from disheap.protocol.handshake import SUPPORTED, Versions
from disheap.protocol.peers import PeerGroup
from disheap.protocol.repair import Answer, Ask
from disheap.runtime import admin, tuning
from disheap.runtime.clients.acceptor import Acceptor
from disheap.runtime.clients.server import Server
from disheap.runtime.clocks.log_clock import SystemClock
from disheap.runtime.clocks.member_clocks import MemberClocks
from disheap.runtime.disk.thread import Disk, DiskThread
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.listeners import Listeners
from disheap.runtime.membership.directory import AddressBook, first_membership, own_id
from disheap.runtime.membership.incarnation_checks import IncarnationChecks
from disheap.runtime.memory.process import MemorySource, ProcessMemory
from disheap.runtime.memory.watch import Estimate, MemoryWatch, mark_bytes
from disheap.runtime.observers import Observers
from disheap.runtime.parts import Parts
from disheap.runtime.peers.forwarding import ForwardingRouter
from disheap.runtime.peers.gossip import GossipTimer
from disheap.runtime.peers.peering import Peering
from disheap.runtime.services import Services
from disheap.runtime.shared import Shared

log = get_logger(__name__)


class Member:
    """`start` it and `stop` it, or use `async with`."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        registry: Registry | None = None,
        clock: Clock | None = None,
        random_generator: random.Random | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        disk: Callable[[asyncio.AbstractEventLoop], Disk] = DiskThread,
        memory: MemorySource | None = None,
        protocol_versions: Versions = SUPPORTED,
    ) -> None:
        check_cluster(config)
        self.config = config
        self.cluster_id = config.cluster_id()
        self.name = config.name
        self.replicas: tuple[Replica, ...] = ()
        """In the order of the groups' numbers; there once the node starts."""
        self._clock = clock or SystemClock()
        self._random = random_generator or random.Random(os.urandom(16))
        self._entropy = entropy
        registry = registry or Registry.load()
        self._parts = Parts(config, registry, self._clock, self._random)
        self._services = Services(self, registry)
        self._observers = Observers(config.name, registry.observers(), self._clock.monotonic)
        self._make_disk = disk
        self._protocol_versions = protocol_versions  # fewer than this release speaks, in tests
        self._memory_source = memory or ProcessMemory()
        self._members = config.member_list()
        self._id = own_id(self._members, config.name, config.advertised_peer())
        self.book = AddressBook(first_membership(self._members), self._id, self.name)
        self._clocks = MemberClocks(self._clock, self.book.label)
        self.incarnation_checks = IncarnationChecks(
            lambda: [one.maintenance.incarnation_check for one in self.replicas]
        )
        self._loop: asyncio.AbstractEventLoop
        self._acceptor: Acceptor
        self._peering: Peering
        self._forwarding: ForwardingRouter
        self._gossip: GossipTimer | None = None  # made last of the four
        self.memory: MemoryWatch
        self._listeners = Listeners(lambda: self._is_started)
        self._ticker: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._failed: asyncio.Event = asyncio.Event()
        self._client_address = ""

    # --- what `Node` shows -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """See `Node.start`."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self, hand_over: bool = True) -> None:
        """See `Node.stop`. Does not raise what `failure` said before."""
        failed_before = self.failure is not None
        if self._is_started and hand_over and not failed_before:
            await asyncio.gather(*(replica.hand_over() for replica in self.replicas))
        await self._services.stop()
        was_started, self._ticker = self._ticker, None
        if was_started is not None:
            was_started.cancel()
        await self._listeners.close()
        for replica in self.replicas:
            replica.end()
        if self._gossip is not None:
            self._acceptor.close()
            self._gossip.end()
            await self._peering.close()
        await asyncio.gather(*(replica.close() for replica in self.replicas))
        if not failed_before and self.failure is not None:
            raise self.failure

    def reload(self) -> None:
        """See `Node.reload`."""
        self._listeners.reload()

    async def apply(self, command: bytes, timeout_s: float = 10.0, *, group: int = 0) -> bytes:
        """See `Node.apply`. The command goes in a session of this node's own."""
        return await self.replica(group).apply(command, timeout_s)

    async def query(self, request: bytes, timeout_s: float = 10.0, *, group: int = 0) -> bytes:
        """See `Node.query`."""
        return await self.replica(group).query(request, timeout_s)

    async def wait_for_leader(self, timeout_s: float = 10.0, *, group: int = 0) -> str:
        """See `Node.wait_for_leader`."""
        return await self.replica(group).wait_for_leader(timeout_s)

    async def wait_failed(self) -> BaseException:
        """See `Node.wait_failed`."""
        await self._failed.wait()
        assert self.failure is not None
        return self.failure

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the node, if one did."""
        return next((one.lifecycle.error for one in self.replicas if one.lifecycle.error is not None), None)

    @property
    def client_address(self) -> str:
        """See `Node.client_address`."""
        return self._client_address

    async def status(self, *, group: int = 0) -> dict[str, Any]:
        """See `Node.status`."""
        return await admin.status(self, self.replica(group))

    def metrics(self) -> dict[str, int | float]:
        """Counters since the node started, over all groups, and gauges, by the names that `disheap status --json`
        shows."""
        return admin.metrics(self)

    def replica(self, group: int) -> Replica:
        """This node's part of a group. Raises `UnknownGroup`."""
        if not self.has_group(group):
            raise UnknownGroup(f"this node has no group {group}; it has 0 to {len(self.replicas) - 1}")
        return self.replicas[group]

    def has_group(self, group: int) -> bool:
        """Whether this node hosts the group."""
        return 0 <= group < len(self.replicas)

    @property
    def servers(self) -> dict[int, Server]:
        """The server of each group, by the group's number."""
        return {replica.number: replica.server for replica in self.replicas}

    @property
    def has_data_directory(self) -> bool:
        """Whether the data directory exists. A storage may need none."""
        return bool(self.config.data_dir) and Path(self.config.data_dir, "groups").is_dir()

    # --- starting and stopping ---------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._clock.monotonic()
        transport = self._parts.transport("transport", self._loop)
        client_transport = self._parts.transport("client_transport", self._loop)
        self._listeners.add_transports(transport, client_transport)
        secrets = read_secrets(self.config.cluster_secret, self.config.cluster_secret_file)
        check_listening(self.config, transport.secure, client_transport.secure, bool(secrets))
        self.config = tuning.fitted(self.config, self._parts.max_command_bytes())
        config, limits = self.config, self.config.limits
        mark = mark_bytes(limits.memory_high_water, limits.memory_high_water_bytes, self._memory_source.limit_bytes())
        self.memory = MemoryWatch(self, self._id, mark, self._clock, self._memory_source)
        self._acceptor = Acceptor(self, tuning.server_limits(config), self._loop, self._protocol_versions)
        self._peering = Peering(
            self, self._id, secrets, self._entropy, self._loop, limits.max_peer_frame_bytes,
            tuning.send_buffer_bytes(config), self._protocol_versions,
        )  # fmt: skip
        self._forwarding = ForwardingRouter(self, self._id, self._clock.monotonic, limits.frame_bytes - ENVELOPE.size)
        self._gossip = GossipTimer(self._loop, self.send_gossip)
        for group in range(config.groups):  # raise for settings that they refuse
            self._parts.storage(group), self._parts.machine(group)
        services = self._services.build(self._loop)
        await self._listen(transport, client_transport)
        # A data directory belongs to one cluster for good. So all that can fail by a mistake has been tried by now.
        self.replicas = tuple(self._make_replica(group) for group in range(config.groups))
        found = [await replica.open() for replica in self.replicas]
        self._warn_if_forgetful()
        self._tick()
        if len(self._members) > 1:
            self._peering.dial(transport)
        for replica, what in zip(self.replicas, found, strict=True):
            replica.begin(what)
        self._gossip.begin()
        await self._services.start(services)
        log.info("node started", node=self.name, cluster=self.cluster_id, clients=self._client_address)

    def _make_replica(self, group: int) -> Replica:
        return Replica(group, self, self._shared())

    def _shared(self) -> Shared:
        return Shared(
            self.config, self._id, self._members, self._loop, self._clock, self._clocks, self._random, self._entropy,
            self._make_disk, self._parts, self.book, self._peering, self._acceptor, self._observers,
            self._forwarding,
        )  # fmt: skip

    def _warn_if_forgetful(self) -> None:
        if len(self._members) > 1 and not self.replicas[0].storage().durable:
            log.warning(
                "the storage keeps nothing beyond this process: with it go what this node acknowledged and its votes, "
                "and the other nodes do not take it back",
                storage=self.config.storage,
            )

    async def _listen(self, peers: Transport, clients: Transport) -> None:
        config, listen = self.config, self._listeners.listen
        self._client_address = await listen(clients, config.client_listen, self._acceptor.accept)
        if len(self._members) > 1:
            await listen(peers, config.peer_listen, self._peering.accept)

    @property
    def _is_started(self) -> bool:
        return self._ticker is not None

    # --- the tick ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.failure is not None:
            return
        self._ticker = self._loop.call_later(self.config.raft.tick_ms / 1000, self._tick)
        for replica in self.replicas:
            replica.tick()
        self._forwarding.tick()
        self.memory.tick()
        self._acceptor.sweep()

    # --- peers -------------------------------------------------------------------------------------------------------

    def peer_groups(self) -> tuple[PeerGroup, ...]:
        """What peers are told of each replica when they meet."""
        return tuple(replica.describe() for replica in self.replicas)

    def heard_clock(self, peer: NodeId, wall_ms: int) -> None:
        """A peer's wall clock, in milliseconds since the epoch."""
        self._clocks.heard(peer, wall_ms)

    def received(self, group: int, message: Message) -> None:
        """A Raft message of a peer. Raises `ProtocolError` if it cannot be read."""
        self.replicas[group].group.step(message)

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """A request or an answer about repair."""
        self.replicas[message.group].maintenance.repairing.received(peer, message)

    def send_gossip(self) -> None:
        """Send this node's report to every peer that can be reached."""
        reports = tuple(replica.report() for replica in self.replicas)
        memory = self.memory
        self._peering.broadcast(Gossip(reports, memory.is_short, memory.is_exhausted, self._clock.wall_ms()))

    def received_gossip(self, peer: NodeId, gossip: Gossip) -> None:
        """A peer's report about itself and its replicas."""
        self._clocks.heard(peer, gossip.wall_ms)
        self.memory.heard(peer, gossip)
        for report in gossip.groups:
            self.replicas[report.group].received_report(peer, report)

    def other_members(self) -> list[NodeId]:
        """All members but this node."""
        return [node for node in self.book.ids() if node != self._id]

    def send_forwarded(self, target: NodeId, message: Forwarded) -> str:
        """Returns "", or why it was not sent."""
        return self._peering.send_forwarded(target, message)

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        """A message of one group for another, or the answer to one."""
        self._forwarding.received(peer, message)

    def unreachable(self, peer: NodeId) -> None:
        """The connection to a peer was lost: messages on it may be lost too."""
        if self._is_started:
            for replica in self.replicas:
                replica.group.unreachable(peer)
            self._forwarding.peer_lost(peer)

    def is_connected(self, node: NodeId) -> bool:
        """Whether there is a connection to the member. True for the node itself."""
        return node == self._id or self._peering.is_connected(node)

    def refusal_by(self, node: NodeId) -> str:
        """Why that member refuses this node; "" if it does not."""
        return self._peering.refusal_by(node)

    def refusals(self) -> list[str]:
        """The reasons for which peers were refused since the start."""
        return list(self._peering.refusals)

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""
        return self.book.label(node)

    def failed(self, error: BaseException) -> None:
        """The node ends: a disk failed, a state cannot go on, or there is a bug. The first error counts."""
        if self.failure is not None:
            return
        log.error("the node stops", reason=str(error), exc_info=None if isinstance(error, DisheapError) else error)
        for replica in self.replicas:
            replica.fail(error)
        self._failed.set()

    # --- what the servers ask ----------------------------------------------------------------------------------------

    def client_addresses(self) -> list[str]:
        """Returns the client addresses of all members that are known, this node's first."""
        others = [self.book.client(node) for node in self.book.ids() if node != self._id]
        return [address for address in (self._own_client_address(), *others) if address]

    def client_address_of(self, node: NodeId) -> str:
        """Returns the address where clients reach the member; "" if it is not known."""
        return self._own_client_address() if node == self._id else self.book.client(node)

    def _own_client_address(self) -> str:
        told = self.config.client_advertise or self.book.client(self._id)
        return told or reachable(self._client_address, self.name)

    async def admin(self, request: dict[str, Any], group: int = 0) -> dict[str, Any]:
        """An operator's request about a group. Raises `RequestError`."""
        return await admin.admin(self, self.replica(group), request)

    # --- memory ------------------------------------------------------------------------------------------------------

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        """Refuse commands that add data in every group, because all groups share the memory."""
        for replica in self.replicas:
            replica.refuse(kind, reason, takes_transient)

    def check_memory(self) -> None:
        """Compare the use of memory with the mark now, because much was received."""
        self.memory.check_usage()

    def memory_estimate(self) -> Estimate:
        """Returns the bytes of all states, logs and buffers of this node, by its own count."""
        total_bytes, has_state = self._peering.held_bytes(), True
        for replica in self.replicas:
            state_bytes, other_bytes = replica.memory_bytes()
            total_bytes += (state_bytes or 0) + other_bytes
            has_state &= state_bytes is not None
        buffers = self._acceptor.buffers
        return Estimate(total_bytes + buffers.input_bytes + buffers.output_bytes, has_state)

    def wall_ms(self) -> int:
        """Returns the wall clock, in milliseconds since the epoch."""
        return self._clock.wall_ms()

    def uptime_s(self) -> float:
        """Returns the seconds since the node was started."""
        return self._clock.monotonic() - self._started_at
