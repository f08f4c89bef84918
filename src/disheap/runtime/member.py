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
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

from disheap.config.cluster_secret import read_secrets
from disheap.config.node_config import NodeConfig, check_cluster, check_listening, reachable
from disheap.errors import (
    DisheapError,
    RequestError,
)
from disheap.interfaces import Clock, Measuring, Metric, Transport
from disheap.kernel.types import NOBODY, NodeId
from disheap.logs import get_logger, log_fields
from disheap.plugins.registry import Registry
from disheap.protocol.frames import ENVELOPE
from disheap.protocol.handshake import SUPPORTED, Versions
from disheap.protocol.peers import PeerGroup
from disheap.runtime import admin, metrics, readiness, tuning
from disheap.runtime.clients.acceptor import Acceptor
from disheap.runtime.clients.server import Server
from disheap.runtime.clocks.log_clock import SystemClock
from disheap.runtime.clocks.member_clocks import MemberClocks
from disheap.runtime.disk.thread import Disk, DiskThread
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.joining import Joining
from disheap.runtime.listeners import Listeners
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.membership.origin import NOBODY_YET, Origin, configured_origin
from disheap.runtime.memory.process import MemorySource, ProcessMemory
from disheap.runtime.memory.watch import Estimate, MemoryWatch, mark_bytes
from disheap.runtime.node_membership import NodeMembership
from disheap.runtime.observers import Observers
from disheap.runtime.parts import Parts
from disheap.runtime.peer_messages import PeerMessages
from disheap.runtime.peers.forwarding import ForwardingRouter
from disheap.runtime.peers.gossip import GossipTimer
from disheap.runtime.peers.peering import Peering
from disheap.runtime.replica.recovery import Found
from disheap.runtime.replicas import Replicas
from disheap.runtime.services import Services
from disheap.runtime.shared import Shared

log = get_logger(__name__)


class Member:
    """`start` it and `stop` it, or use `async with`. The parts below are there once it starts."""

    membership: NodeMembership
    memory: MemoryWatch
    messages: PeerMessages
    _loop: asyncio.AbstractEventLoop
    _transport: Transport  # between nodes
    _joining: Joining
    _origin: Origin
    _acceptor: Acceptor
    _forwarding: ForwardingRouter
    _peering: Peering
    _metrics: metrics.NodeMetrics

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
        self.name = config.name
        self.log_fields: dict[str, Any] = {"node": config.name}
        """They are in every event that this node logs; `cluster` as soon as it is known."""
        self.cluster_name = config.cluster
        self.cluster_id = ""
        """It is known when the node starts, and before that where a static list gives it."""
        self.replicas = Replicas()
        """In the order of the groups' numbers; there once the node starts."""
        self.is_stopping = False
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
        self._id = NOBODY
        self.book = AddressBook(NOBODY_YET, own_name=self.name, configured=config.members)
        if config.members or config.alone:
            self._adopt(configured_origin(config))
        self._clocks = MemberClocks(self._clock, self.book.label)
        self._gossip: GossipTimer | None = None  # made last of the parts
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
        with log_fields(self.log_fields):
            try:
                await self._start()
            except BaseException:
                await self.stop()
                raise

    async def stop(self, hand_over: bool = True) -> None:
        """See `Node.stop`. Does not raise what `failure` said before."""
        failed_before = self.failure is not None
        self.is_stopping = True
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
            self.membership.end()
            self._acceptor.close()
            self._gossip.end()
            await self._peering.close()
        await asyncio.gather(*(replica.close() for replica in self.replicas))
        if not failed_before and self.failure is not None:
            raise self.failure

    def reload(self) -> None:
        """See `Node.reload`."""
        self._listeners.reload()
        self._services.reload()

    def apply(self, command: bytes, timeout_s: float = 10.0, *, group: int = 0) -> Coroutine[Any, Any, bytes]:
        """See `Node.apply`. The command goes in a session of this node's own."""
        return self.replica(group).apply(command, timeout_s)

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
        return self.replicas.failure

    @property
    def client_address(self) -> str:
        """See `Node.client_address`."""
        return self._client_address

    async def status(self, *, group: int = 0) -> dict[str, Any]:
        """See `Node.status`."""
        return await admin.status(self, self.replica(group))

    def unready(self) -> list[str]:
        """Why this node should get no traffic now, a sentence for each reason. Empty if it takes part."""
        return readiness.find_reasons(self)

    def metrics(self) -> dict[str, int | float]:
        """Counters since the node started, over all groups, and gauges, by the names that `disheap status --json`
        shows."""
        return metrics.totals(self)

    async def measure(self) -> list[Metric]:
        """All metrics of the node, its replicas and their machines."""
        return await self._metrics.collect()

    def list_stats(self, group: int, prefix: str, after: str, limit: int) -> tuple[Sequence[dict[str, Any]], int]:
        """A page of rows of the group's machine, such as topics. Raises `UnknownGroup`."""
        replica = self.replica(group)
        machine = replica.group.sessions.machine
        if not isinstance(machine, Measuring):
            return [], 0
        return machine.list_stats(replica.group.now_ms(), prefix, after, limit)

    @property
    def acceptor(self) -> Acceptor:
        """Where clients connect."""
        return self._acceptor

    def replica(self, group: int) -> Replica:
        """This node's part of a group. Raises `UnknownGroup`."""
        return self.replicas.of(group)

    @property
    def servers(self) -> dict[int, Server]:
        """The server of each group, by the group's number."""
        return self.replicas.servers()

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
        self._transport = transport
        self._listeners.add_transports(transport, client_transport)
        self._secrets = read_secrets(self.config.cluster_secret, self.config.cluster_secret_file)
        check_listening(self.config, transport.secure, client_transport.secure, bool(self._secrets))
        self.config = tuning.fitted(self.config, self._parts.max_command_bytes())
        config = self.config
        self._parts.check_groups()
        for group in range(config.groups):  # raise for settings that they refuse
            self._parts.storage(group), self._parts.machine(group)
        self._joining = Joining(
            self, config, self._parts, self._secrets, self._entropy, self._random, self._protocol_versions
        )
        services = self._services.build(self._loop)
        await self._listen(transport, client_transport)
        await self._services.bind(services)
        # A data directory belongs to one cluster for good. So all that can fail by a mistake has been tried by now.
        self._origin = await self._joining.find_origin(transport)
        self._adopt(self._origin)
        self._make_parts()
        self.replicas += [self._make_replica(group) for group in range(config.groups)]
        found = await self._open()
        if any(one.met is not None and one.met.is_removed for one in found):
            self.membership.was_removed()
        self._warn_if_forgetful()
        self.membership.follow()
        self._tick()
        if config.has_peers() and not self.membership.is_removed:
            self._peering.dial(transport)
        for replica, what in zip(self.replicas, found, strict=True):
            replica.begin(what)
        if self._gossip is not None and not self.membership.is_removed:
            self._gossip.begin()
        await self._services.start()
        log.info("node started", clients=self._client_address)
        if self.membership.is_removed:
            log.warning("this node was removed from the cluster, and takes no part", id=self._id)

    async def _open(self) -> list[Found]:
        """Open the replicas. Returns what each has found, by the number of its group."""
        if not self._joining.incarnations:
            return [await replica.open() for replica in self.replicas]
        return [await replica.open() for replica in reversed(self.replicas)][::-1]  # see `Joining`

    def _make_parts(self) -> None:
        """The parts that know who this node is."""
        config, limits = self.config, self.config.limits
        mark = mark_bytes(limits.memory_high_water, limits.memory_high_water_bytes, self._memory_source.limit_bytes())
        self.memory = MemoryWatch(self, self._id, mark, self._clock, self._memory_source)
        self._acceptor = Acceptor(self, tuning.server_limits(config), self._loop, self._protocol_versions)
        self.membership = NodeMembership(self, self._origin, self._joining, self._transport, self._loop)
        self._forwarding = ForwardingRouter(
            self.replicas, self.book, lambda target, message: self._peering.send_forwarded(target, message),
            self._id, self._clock.monotonic, limits.frame_bytes - ENVELOPE.size,
        )  # fmt: skip
        self.messages = PeerMessages(
            self.replicas, self.membership, self.memory, self._forwarding, self._clock, self._clocks,
            lambda: self._is_started,
        )  # fmt: skip
        self._peering = Peering(
            self, self.membership, self.messages, self._id, self._secrets, self._entropy, self._loop,
            limits.max_peer_frame_bytes, tuning.send_buffer_bytes(config), self._protocol_versions,
        )  # fmt: skip
        self._metrics = metrics.NodeMetrics(self, self._loop)
        self._gossip = GossipTimer(self._loop, self.send_gossip)

    # --- who this node is --------------------------------------------------------------------------------------------

    def _adopt(self, origin: Origin) -> None:
        self.cluster_id, self._id = origin.cluster_id, origin.own
        self.log_fields["cluster"] = origin.cluster_id
        self.book.belongs_to(origin.own, origin.first)

    @property
    def peer_address(self) -> str:
        """Where peers reach this node."""
        return self.config.own_member().peer

    def _make_replica(self, group: int) -> Replica:
        return Replica(group, self, self._shared())

    def _shared(self) -> Shared:
        return Shared(
            self.config, self._id, self._origin.first, self._origin.needs_welcome, self._joining.incarnations,
            self._loop, self._clock, self._clocks, self._random, self._entropy,
            self._make_disk, self._parts, self.book, self.membership, self._peering, self._acceptor,
            self._observers, self._forwarding,
        )  # fmt: skip

    def _warn_if_forgetful(self) -> None:
        if self.config.has_peers() and not self.replicas[0].storage().durable:
            log.warning(
                "the storage keeps nothing beyond this process",
                advice="use a storage that keeps its data, or never restart a node: the others do not take it back",
                storage=self.config.storage,
            )

    async def _listen(self, peers: Transport, clients: Transport) -> None:
        config, listen = self.config, self._listeners.listen
        self._client_address = await listen(clients, config.client_listen, lambda: self._acceptor.accept())
        configured = config.own_member().client if config.members else ""
        self.book.serves_at(config.client_advertise or configured or reachable(self._client_address, self.name))
        if config.has_peers():
            await listen(peers, config.peer_listen, lambda: self._peering.accept(), self._joining.accept)

    @property
    def _is_started(self) -> bool:
        return self._ticker is not None

    # --- the tick ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.failure is not None:
            return
        self._metrics.lag.called()
        tick_s = self.config.raft.tick_ms / 1000
        self._ticker = self._loop.call_later(tick_s, self._tick)
        self._metrics.lag.due(tick_s)
        for replica in self.replicas:
            replica.tick()
        self.membership.tick()
        self._forwarding.tick()
        self.memory.tick()
        self._acceptor.announce_members()
        self._acceptor.sweep()

    # --- what its parts ask ------------------------------------------------------------------------------------------

    def members_followed(self) -> None:
        """The address book has other members, or other addresses: dial them, and tell clients."""
        self._peering.follow()
        self._acceptor.members_changed(self.book.clients())

    def go_quiet(self) -> None:
        """This node was removed: talk to no peer any more."""
        self._peering.be_quiet()
        if self._gossip is not None:
            self._gossip.end()

    def peer_groups(self) -> tuple[PeerGroup, ...]:
        """What peers are told of each replica when they meet."""
        return self.replicas.describe()

    def send_gossip(self) -> None:
        """Send this node's report to every peer that can be reached."""
        self._peering.broadcast(self.messages.report())

    def is_connected(self, node: NodeId) -> bool:
        """Whether there is a connection to the member. True for the node itself."""
        return self._peering.is_connected(node)

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
        self.replicas.fail(error)
        self._failed.set()

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

    def freed_memory(self) -> None:
        """Work was done that may have freed memory. It goes back to the system."""
        self.memory.freed()

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
