"""A node: transport, storage and machine put together around one group (docs/explanation/architecture.md).

The only loop. Owns starting and stopping, the tick, the links to peers and what an operator can ask. Everything that
could surprise is given from outside: the loop, the clock, the random generator, the disk, the plugins.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disheap.config.cluster_secret import read_secrets
from disheap.config.node_config import NodeConfig, check_cluster, check_listening, reachable
from disheap.errors import DisheapError, NotLeader, RequestError, RequestTimeout, StorageError
from disheap.interfaces import (
    Clock,
    Connection,
    Identity,
    Listener,
    MemoryEstimating,
    Reloading,
    Storage,
    StorageUsage,
    Transport,
)
from disheap.kernel.membership import voters_of
from disheap.kernel.raft import Raft
from disheap.kernel.types import NOBODY, Index, Membership, Message, NodeId
from disheap.logs import get_logger
from disheap.plugins.registry import Registry
from disheap.protocol.gossip import Gossip
from disheap.protocol.handshake import SUPPORTED
from disheap.protocol.handshake import Versions as ProtocolVersions
from disheap.protocol.repair import Answer, Ask
from disheap.runtime import admin, tuning
from disheap.runtime.clients.local import LocalSessions
from disheap.runtime.clients.server import Server
from disheap.runtime.disk.thread import Disk, DiskThread, FailStopDisk, close_patiently, retry_while_full, run_on
from disheap.runtime.maintenance import Maintenance
from disheap.runtime.membership.directory import AddressBook, first_state, own_id
from disheap.runtime.membership.incarnations import IncarnationCheck
from disheap.runtime.memory.process import MemorySource, ProcessMemory
from disheap.runtime.memory.watch import Estimate
from disheap.runtime.observers import Observers
from disheap.runtime.parts import Parts
from disheap.runtime.peers.gossip import GossipTimer
from disheap.runtime.peers.links import GROUP
from disheap.runtime.peers.peering import Behaviour, Peering
from disheap.runtime.replica.clock_check import ClockCheck
from disheap.runtime.replica.clocks import SystemClock
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.lifecycle import Lifecycle, State
from disheap.runtime.replica.recovery import Found, recover
from disheap.runtime.replica.versions import Supported, Versions, own_versions
from disheap.runtime.services import Services
from disheap.runtime.state.sessions import Sessions

log = get_logger(__name__)


class Node:
    """One member of a cluster, in this process.

    >>> import asyncio, disheap
    >>> from disheap.config.node_config import NodeConfig
    >>> async def main():
    ...     config = NodeConfig(name="n1", alone=True, storage="memory", transport="inproc", client_listen="d:1")
    ...     async with disheap.Node(config) as node:
    ...         await node.wait_for_leader(timeout_s=10)
    ...         return (await node.status())["role"]
    >>> asyncio.run(main())
    'leader'
    """

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
        protocol_versions: ProtocolVersions = SUPPORTED,
    ) -> None:
        check_cluster(config)
        self.config = config
        self.cluster_id = config.cluster_id()
        self.name = config.name
        self.machine_name = config.machine
        self.groups: tuple[int, ...] = (GROUP,)
        self._clock = clock or SystemClock()
        self._random = random_generator or random.Random(os.urandom(16))
        self._entropy = entropy  # for secrets, which the generator's numbers would give away
        registry = registry or Registry.load()
        self._parts = Parts(config, registry, self._clock, self._random)
        self._services = Services(self, registry)
        self._observers = Observers(config.name, registry.observers(), self._clock.monotonic)
        self._make_disk = disk
        self._memory = memory or ProcessMemory()
        self._protocol_versions = protocol_versions  # fewer than this release speaks, in tests
        self._members = config.member_list()
        limits = config.limits
        self._id = own_id(self._members, config.name, config.advertised_peer())
        self.clocks = ClockCheck(
            self._clock, self._id, limits.max_clock_jump_ms, limits.max_downtime_ms, self.member_name
        )
        self._loop: asyncio.AbstractEventLoop
        self._disk: Disk | None = None
        self._group: Group | None = None
        self._storage: Storage | None = None
        self.book: AddressBook
        self._server: Server | None = None
        self._peering: Peering
        self._gossip: GossipTimer
        self.maintenance: Maintenance
        self.incarnation = 0  # of the data directory, when it was opened
        self._listeners: list[Listener] = []
        self._transports: list[Transport] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._local = LocalSessions(self.leader_address)
        self._leader_changed = asyncio.Event()
        self._failed: asyncio.Event = asyncio.Event()
        self.lifecycle = Lifecycle(self._lifecycle_changed)
        self._client_address = ""
        self._versions = Versions(lambda: self.book.versions(self._id), tuning.settle_ticks(config))

    # --- for those who use a node as a library -----------------------------------------------------------------------

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Recover, listen, and take part. Returns when clients can connect, which may be before there is a leader.
        Raises `ConfigError` or `StorageError`, after which nothing is left running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self, hand_over: bool = True) -> None:
        """Hand leadership over where there is someone to take it, say goodbye, flush and close. May be called twice.
        Raises what failed meanwhile, a disk above all, when all is closed; not what `failure` said before."""
        failed_before = self.failure is not None
        if self._is_started and hand_over and not failed_before:
            await self._hand_over()
        await self._services.stop()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        if self._server is not None:
            self._server.close(NotLeader(self.leader_address()))
        if self._disk is not None:  # made together with the maintenance and the peering
            self.maintenance.repairing.cancel()  # before the next line, because it changes the lifecycle, too
        if not self.lifecycle.is_over:
            self.lifecycle.change(State.CLOSED)
        if self._group is not None:
            self._group.close()
        if self._disk is not None:
            self._gossip.end()
            await self.maintenance.end()
            await self._peering.close()
        disk, storage = self._disk, self._storage
        self._disk = self._storage = None
        if disk is not None:
            await close_patiently(disk, storage, self.failed)
        if not failed_before:
            self._raise_failure()

    def reload(self) -> None:
        """Read the transports' files again, such as certificates. Connections made from now on use them. Raises
        `ConfigError` for a file that cannot be used: that transport goes on with what it had."""
        for transport in self._transports:
            if isinstance(transport, Reloading):
                transport.reload()

    async def apply(self, command: bytes, timeout_s: float = 10.0) -> bytes:
        """One command through the log, in a session of this node's own. Returns the machine's reply; raises what the
        machine refused, `NotLeader` (nothing was done), `OutcomeUnknown` or `RequestTimeout`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await (await self._local.session()).call(command)
        except TimeoutError:
            raise RequestTimeout(f"no reply within {timeout_s} s; the command may still be carried out") from None

    async def query(self, request: bytes, timeout_s: float = 10.0) -> bytes:
        """A linearizable read of the machine. Raises `NotLeader`, `RequestTimeout`, and what the machine refuses."""
        ready: asyncio.Future[bool] = self._loop.create_future()
        self.group.read(lambda ok: None if ready.done() else ready.set_result(ok))
        try:
            async with asyncio.timeout(timeout_s):
                ok = await ready
        except TimeoutError:
            raise RequestTimeout(f"no quorum answered within {timeout_s} s") from None
        if not ok:
            raise NotLeader(self.leader_address())
        return self.group.sessions.machine.query(self.group.now_ms(), 0, request)

    async def wait_for_leader(self, timeout_s: float = 10.0) -> str:
        """The name of the leader, as soon as one is known. Raises `RequestTimeout`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.group.leader == NOBODY:
                    self._leader_changed.clear()
                    await self._leader_changed.wait()
        except TimeoutError:
            raise RequestTimeout(f"no leader within {timeout_s} s; is a majority of the members running?") from None
        return self.book.label(self.group.leader)

    async def wait_for_another_leader(self) -> None:
        """Returns when another node leads, however long that takes."""
        while self.group.leads or self.group.leader == NOBODY:
            self._leader_changed.clear()
            await self._leader_changed.wait()

    async def wait_failed(self) -> BaseException:
        """Returns the error that ended the node, when one does."""
        await self._failed.wait()
        assert self.failure is not None
        return self.failure

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the node, if one did."""
        return self.lifecycle.error

    @property
    def client_address(self) -> str:
        """Where clients connect; with the port that was chosen where 0 was asked for."""
        return self._client_address

    async def status(self) -> dict[str, Any]:
        """What an operator wants to know; the keys are those of `disheap status --json`."""
        return await admin.status(self)

    def metrics(self) -> dict[str, int | float]:
        """Counters since the node started, and gauges, by the names that `disheap status --json` shows."""
        return admin.metrics(self)

    @property
    def clients(self) -> Server:
        """The clients' side of the node. There is one once it has started."""
        return self._outlets()

    @property
    def group(self) -> Group:
        """There is one as soon as the storage was opened."""
        assert self._group is not None, "the storage has not been opened yet"
        return self._group

    @property
    def has_data_directory(self) -> bool:
        """Whether anything is kept there; a storage may need no directory."""
        return bool(self.config.data_dir) and Path(self.config.data_dir, "groups").is_dir()

    # --- starting and stopping ---------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._clock.monotonic()
        transport = self._parts.transport("transport", self._loop)
        client_transport = self._parts.transport("client_transport", self._loop)
        self._transports = [transport, client_transport]
        secrets = read_secrets(self.config.cluster_secret, self.config.cluster_secret_file)
        check_listening(self.config, transport.secure, client_transport.secure, bool(secrets))
        self.config = tuning.fitted(self.config, self._parts.max_command_bytes())
        self._server = Server(
            self, tuning.server_limits(self.config), loop=self._loop, draw=self._draw, entropy=self._entropy,
            versions=self._protocol_versions,
        )  # fmt: skip
        self._local.server = self._server
        behaviour = Behaviour(self._parts.settings_digest(), self._parts.constants_digests())
        self._peering = Peering(
            self, self._id, behaviour, secrets, self._entropy, self._loop, self.config.limits.max_peer_frame_bytes,
            tuning.send_buffer_bytes(self.config), self._protocol_versions,
        )  # fmt: skip
        self._gossip = GossipTimer(self._loop, self.send_gossip)
        self._parts.storage(GROUP), self._parts.machine()  # raise for settings that they refuse
        services = self._services.build(self._loop)
        await self._listen_everywhere(transport, client_transport)
        # A data directory belongs to one cluster for good. So all that can fail by a mistake has been tried by now.
        self._disk = FailStopDisk(self._make_disk(self._loop), self.failed)
        self.maintenance = Maintenance(self, GROUP, self._id, self.config, self._clock, self._loop, self._memory)
        found = await retry_while_full(lambda: self._recover(follow=False))
        self.book = AddressBook(found.applied.membership, self._id, self.name)
        self.maintenance.recovered(found, [node for node in self.book.ids() if node != self._id])
        self.incarnation = found.identity.incarnation
        self._take_up(found)
        if found.is_damaged:
            self.note_damage("the log or a snapshot is damaged, as was seen when the storage was opened")
        self._warn_if_forgetful()
        self._tick()
        if len(self._members) > 1:
            self._peering.dial(transport)
        self.maintenance.begin(found)
        self._gossip.begin()
        await self._services.start(services)
        log.info("node started", node=self.name, cluster=self.cluster_id, clients=self._client_address)

    def _warn_if_forgetful(self) -> None:
        assert self._storage is not None
        if len(self._members) > 1 and not self._storage.durable:
            log.warning(
                "the storage keeps nothing beyond this process: with it go what this node acknowledged and its votes, "
                "and the other nodes do not take it back",
                storage=self.config.storage,
            )

    async def _recover(self, follow: bool) -> Found:
        config = self.config
        storage = self._parts.storage(GROUP)
        identity = Identity(self.cluster_id, self._id, self.name, self._draw())
        self._storage = storage
        return await run_on(
            self.disk(),
            lambda: recover(
                storage,
                identity,
                first_state(self._members),
                self._fresh_sessions,
                tail_bytes=config.raft.log_cache_bytes,
                chunk_bytes=config.raft.chunk_bytes,
                follow=follow,
            ),
        )

    def _take_up(self, found: Found) -> None:
        self.maintenance.found(found)
        self._group = self._make_group(found)
        self._outlets().serve(self._group)
        if found.needs_repair:
            self.lifecycle.change(State.REPAIRING, "the log is damaged, or its end is ambiguous")
        elif not self.maintenance.incarnation_check.all_met:
            self.lifecycle.change(State.WAITING, "not every other member has welcomed this directory")
        else:
            self.lifecycle.change(State.RUNNING)

    def repair(self, reason: str) -> None:
        """The group ends. The log is read anew, and repaired from the other nodes."""
        self.lifecycle.change(State.REPAIRING, reason)
        log.warning("the log is read anew and repaired from the other nodes", reason=reason)
        self._end_group()
        self.maintenance.repairing.begin_again()

    def _end_group(self) -> None:
        if self.group.leads:
            self._on_lead(False)
        self.group.close()

    async def recover_again(self, follow: bool) -> Found:
        """The storage closed and opened anew, and a group that goes on from what is found. For a group that has
        ended."""
        before = self.group
        self.lifecycle.change(State.OPENING, self.lifecycle.reason)
        self.maintenance.scrubbing.let_go()
        self._local.forget()
        await run_on(self.disk(), self._close_files)
        self._raise_failure()  # opened anew, it would be tried again
        found = await self._recover(follow)
        self._raise_failure()
        self._take_up(found)
        before.release()
        self.maintenance.discarder.discard(before.sessions)
        return found

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _close_files(self) -> None:
        assert self._storage is not None
        self.maintenance.repairing.close_reader()
        self.group.close_files()
        self._storage.close()

    def _fresh_sessions(self) -> Sessions:
        """An empty state: at start, and beside the present one while a leader's snapshot is read."""
        return Sessions(self._parts.machine(), tuning.session_limits(self.config), self._outlets())

    def _outlets(self) -> Server:
        assert self._server is not None, "the server is made before anything else"
        return self._server

    def _make_group(self, found: Found) -> Group:
        assert self._disk is not None and self._storage is not None
        config = self.config
        return Group(
            Raft(tuning.kernel_config(config, self._id), found.restored, self._random),
            self._storage,
            found.sessions,
            found.applied,
            found.log_time_ms,
            loop=self._loop,
            disk=self._disk,
            clock=self._clock,
            limits=tuning.group_limits(config),
            policy=tuning.snapshot_policy(config, self._id),
            fresh_sessions=self._fresh_sessions,
            send=self._send,
            flush=self._peering.flush,
            on_lead=self._on_lead,
            on_leader=self._on_leader,
            on_applied=self._outlets().flush,
            on_failure=self._on_failure,
            on_snapshot=lambda index, size_bytes: self._observers.snapshot_taken(GROUP, index, size_bytes),
            on_membership=self._on_membership,
            on_replaced=self.maintenance.discarder.discard,
            comparing=self.maintenance.comparing,
            clocks=self.clocks,
            lifecycle=self.lifecycle,
        )

    async def _listen_everywhere(self, peers: Transport, clients: Transport) -> None:
        """Whoever connects before this node serves is turned away."""
        server, peering = self._outlets(), self._peering
        listener = await self._listen(clients, self.config.client_listen, lambda: self._admit(server.accept))
        self._client_address = listener.address
        if len(self._members) > 1:
            await self._listen(peers, self.config.peer_listen, lambda: self._admit(peering.accept))

    def _admit(self, accept: Callable[[], Any]) -> Any:
        return accept() if self._is_started else RefusingReceiver()

    async def _listen(self, transport: Transport, address: str, accept: Callable[[], Any]) -> Listener:
        listener = await transport.listen(address, accept)
        self._listeners.append(listener)
        return listener

    async def _hand_over(self) -> None:
        """SIGTERM: leadership goes first, so that clients lose a round trip and not an election timeout."""
        if not self.group.leads or len(self._members) == 1:
            return
        try:
            self.group.transfer(NOBODY)
            async with asyncio.timeout(self.config.raft.election_timeout_ms / 1000):
                await self.wait_for_another_leader()
        except TimeoutError:
            log.warning("leadership was not taken over in time; the others will elect")
        except DisheapError as error:
            log.warning("leadership cannot be handed over; the others will elect", reason=str(error))

    @property
    def _is_started(self) -> bool:
        return self._ticker is not None

    def _lifecycle_changed(self, before: State, now: State) -> None:
        log.debug("lifecycle", node=self.name, before=before.value, now=now.value)

    def _draw(self) -> int:
        return self._random.getrandbits(63) | 1

    # --- the tick ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.lifecycle.is_over:
            return
        self._ticker = self._loop.call_later(self.config.raft.tick_ms / 1000, self._tick)
        self.group.tick()
        self.maintenance.tick()
        self._outlets().sweep()
        self._versions.raise_if_due(self.group)

    # --- peers -------------------------------------------------------------------------------------------------------

    @property
    def incarnation_check(self) -> IncarnationCheck:
        return self.maintenance.incarnation_check

    def supported_versions(self) -> Supported:
        """What this node runs."""
        return own_versions(self.group.sessions)

    def cluster_versions(self) -> tuple[int, int]:
        """(machine_version, log_version) of the cluster, as far as this node has applied the log."""
        return self.group.sessions.machine_version, self.group.sessions.log_version

    def heard_clock(self, peer: NodeId, wall_ms: int) -> None:
        self.clocks.heard(peer, wall_ms)

    def received(self, message: Message) -> None:
        self.group.step(message)

    def _send(self, message: Message) -> None:
        self._peering.send(message)

    def send_repair(self, target: NodeId, message: Ask | Answer) -> None:
        self._peering.send_repair(target, message)

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        self.maintenance.repairing.received(peer, message)

    def send_gossip(self) -> None:
        """What this node says of itself, to every peer that can be reached."""
        maintenance = self.maintenance
        ambiguous_until = (self.group.raft.ambiguous_after or 0) if self.group.is_running else 0
        self._peering.broadcast(
            Gossip(
                GROUP,
                maintenance.disk_space.is_short,
                maintenance.disk_space.free_bytes or 0,
                *maintenance.comparing.newest,
                ambiguous_until,
                maintenance.memory.is_short,
                maintenance.memory.is_exhausted,
                self._clock.wall_ms(),
            )
        )

    def received_gossip(self, peer: NodeId, gossip: Gossip) -> None:
        self.clocks.heard(peer, gossip.wall_ms)
        self.maintenance.received_gossip(peer, gossip)
        self.group.propose_noops_until(gossip.ambiguous_until)

    def voters(self) -> tuple[NodeId, ...]:
        return voters_of(self.group.applied.membership)

    def quarantine(self, reason: str) -> None:
        """This node's state is wrong. It takes no part any more, until it is restarted."""
        if not self.lifecycle.is_running:
            return
        self.lifecycle.change(State.QUARANTINED, reason)
        self._observers.quarantined(GROUP, reason)
        log.error("this node is in quarantine: it serves nothing until it is restarted", reason=reason)
        self._end_group()

    def unreachable(self, peer: NodeId) -> None:
        if self._is_started:
            self.group.unreachable(peer)

    def is_connected(self, node: NodeId) -> bool:
        return node == self._id or self._peering.is_connected(node)

    def refusal_by(self, node: NodeId) -> str:
        """Why that member refuses this node; "" where it does not."""
        return self._peering.refusal_by(node)

    def refusals(self) -> list[str]:
        """Why peers were turned away since the start."""
        return list(self._peering.refusals)

    def member_name(self, node: NodeId) -> str:
        return self.book.label(node)

    # --- what the group tells ----------------------------------------------------------------------------------------

    def _on_lead(self, leads: bool) -> None:
        self._versions.new_term()
        self._outlets().lead(leads)

    def _on_leader(self) -> None:
        self._leader_changed.set()
        leader = self.group.leader
        log.info("leader", node=self.name, term=self.group.raft.term, leader=self.book.label(leader) or None)
        self._observers.leader_changed(GROUP, self.group.raft.term, self.book.label(leader) if leader else "")
        if self.leader_address():
            self._outlets().redirect_clients()

    def _on_membership(self, index: Index, membership: Membership) -> None:
        names = tuple(self.book.label(member.id) for member in membership.members)
        self._observers.member_changed(GROUP, index, names)

    def _on_failure(self, error: BaseException) -> None:
        repairing = self.maintenance.repairing
        if not repairing.can_repair(error):
            self.failed(error)
            return
        repairing.note_relapse()
        self.note_damage(str(error))
        self.repair(str(error))

    def failed(self, error: BaseException) -> None:
        """The first of them counts."""
        if self.failure is not None:
            return
        self.lifecycle.fail(error)
        if self._group is not None:
            self._group.close()
        log.error("the node stops", reason=str(error), exc_info=None if isinstance(error, DisheapError) else error)
        self._failed.set()
        self._outlets().close(NotLeader())  # they look for a node that can go on

    # --- what the server asks ----------------------------------------------------------------------------------------

    def leader_address(self) -> str:
        if self._group is None or self.group.leader in (NOBODY, self._id):
            return ""
        return self.book.client(self.group.leader)

    def client_addresses(self) -> list[str]:
        others = [self.book.client(node) for node in self.book.ids() if node != self._id]
        return [address for address in (self._own_client_address(), *others) if address]

    def client_address_of(self, node: NodeId) -> str:
        return self._own_client_address() if node == self._id else self.book.client(node)

    def _own_client_address(self) -> str:
        told = self.config.client_advertise or self.book.client(self._id)
        return told or reachable(self._client_address, self.name)

    async def admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """An operator's request. Raises `RequestError`."""
        return await admin.admin(self, request)

    # --- room on the disks and in memory -----------------------------------------------------------------------------

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        self._outlets().note_shortage(kind, reason, takes_transient)

    def note_damage(self, what: str) -> None:
        """Of what is stored here; for observers."""
        self._observers.damage_found(GROUP, what)

    def session_expired(self, session: int, label: str) -> None:
        """For observers."""
        self._observers.session_expired(GROUP, session, label)

    def check_memory(self) -> None:
        """Before its time: much has come in."""
        self.maintenance.memory.look()

    def memory_estimate(self) -> Estimate:
        sessions = self.group.sessions
        machine = sessions.machine
        state_bytes = machine.memory_bytes() if isinstance(machine, MemoryEstimating) else None
        buffers = self._outlets().buffers
        other_bytes = sessions.memory_bytes() + self.group.log_bytes() + self._peering.held_bytes()
        other_bytes += buffers.input_bytes + buffers.output_bytes
        return Estimate((state_bytes or 0) + other_bytes, state_bytes is not None)

    async def storage_usage(self) -> StorageUsage:
        return await run_on(self.disk(), self.storage().usage)

    def storage(self) -> Storage:
        assert self._storage is not None
        return self._storage

    def disk(self) -> Disk:
        assert self._disk is not None
        return self._disk

    def is_alone(self) -> bool:
        return len(self._members) == 1

    def damage_found(self, error: StorageError) -> None:
        self.maintenance.repairing.reset_retries()
        self.group.fail(error)

    def all_members_met(self) -> None:
        if self.lifecycle.state is State.WAITING:  # one that is repairing goes on when it is whole
            self.lifecycle.change(State.RUNNING)
            self.group.begin()

    def wall_ms(self) -> int:
        return self._clock.wall_ms()

    def uptime_s(self) -> float:
        return self._clock.monotonic() - self._started_at


class RefusingReceiver:
    """Whoever connects to a node that still recovers its data. It is as if nobody listened yet."""

    def connection_made(self, connection: Connection) -> None:
        connection.abort()

    def data_received(self, data: bytes) -> None: ...

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...


def freeze_garbage() -> None:
    """Switch automatic collection off for this process. A collection over millions of records stops the loop for more
    than a second, and what comes and goes leaves no cycles (docs/explanation/decisions/no-garbage-collector.md)."""
    gc.collect()
    gc.freeze()
    gc.disable()
