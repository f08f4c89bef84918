"""A node: transport, storage and machine put together around one group (design.md, sections 2 and 4). The only loop.

Owns starting and stopping, the tick, the links to peers and what an operator can ask. Everything that could surprise is
given from outside: the loop, the clock, the random generator, the disk, the plugins.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

import disheap
from disheap.config import NodeConfig, check_listen
from disheap.errors import (
    ConfigError,
    DisheapError,
    InvalidArgument,
    NotLeader,
    Overloaded,
    RequestTimeout,
    WrongCluster,
)
from disheap.interfaces import (
    Clock,
    CodecContext,
    Identity,
    Listener,
    MachineContext,
    Storage,
    StorageContext,
    Transport,
    TransportContext,
)
from disheap.kernel.raft import Raft
from disheap.kernel.types import NOBODY, KernelConfig, Message, NodeId
from disheap.plugins import Registry
from disheap.protocol.peers import PeerHello
from disheap.runtime.clocks import SystemClock
from disheap.runtime.cluster import AddressBook, first_state, own_id
from disheap.runtime.disk import Disk, DiskThread, run_on
from disheap.runtime.group import Group, GroupLimits
from disheap.runtime.links import GROUP, IncomingLink, OutgoingLink
from disheap.runtime.local import LocalSession
from disheap.runtime.recovery import Found, recover
from disheap.runtime.server import Server, ServerLimits
from disheap.runtime.sessions import SessionLimits, Sessions
from disheap.runtime.snapshots import SnapshotPolicy

log = structlog.get_logger()

APPLY_BYTES = 1 << 20
"""Entries applied between two looks at the sockets: some 3,000 messages of 256 bytes, 15 ms."""
PEER_FRAME_SLACK = 1 << 20  # a frame between nodes holds `append_bytes` of entries, or one entry, and its headers


class Node:
    """One member of a cluster, in this process.

    >>> import asyncio, disheap
    >>> from disheap.config import NodeConfig
    >>> async def main():
    ...     config = NodeConfig(name="n1", storage="memory", transport="inproc", client_listen="doc:8400")
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
        disk: Callable[[asyncio.AbstractEventLoop], Disk] = DiskThread,
    ) -> None:
        self.config = config
        self.cluster_id = config.cluster_id()
        self.name = config.name
        self.machine_name = config.machine
        self.group: Group
        self._registry = registry or Registry.load()
        self._clock = clock or SystemClock()
        self._random = random_generator or random.Random(os.urandom(16))
        self._make_disk = disk
        self._members = config.member_list()
        self._id = own_id(self._members, config.name, config.advertised_peer())
        self._loop: asyncio.AbstractEventLoop
        self._disk: Disk | None = None
        self._storage: Storage | None = None
        self._identity: Identity
        self._book: AddressBook
        self._server: Server | None = None
        self._links: dict[NodeId, OutgoingLink] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[Listener] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._local: LocalSession | None = None
        self._leader_changed = asyncio.Event()
        self._failed: asyncio.Event = asyncio.Event()
        self._serving = False
        self._client_address = ""

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
        """Hand leadership over where there is someone to take it, say goodbye, flush and close. May be called twice."""
        if self._serving and hand_over:
            await self._hand_over()
        self._serving = False
        if self._ticker is not None:
            self._ticker.cancel()
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        if self._server is not None:
            self._server.close(NotLeader(self.leader_address()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for link in self._links.values():
            link.close()
        self._links.clear()
        if self._storage is not None and hasattr(self, "group"):
            self.group.close()
        await self._close_storage()

    async def apply(self, command: bytes, timeout_s: float = 10.0) -> bytes:
        """One command through the log, in a session of this node's own. Returns the machine's reply; raises what the
        machine refused, `NotLeader` (nothing was done), `OutcomeUnknown` or `RequestTimeout`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await (await self._local_session()).call(command)
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
        return self._book.name(self.group.leader)

    async def wait_failed(self) -> BaseException:
        """Returns the error that ended the node, when one does."""
        await self._failed.wait()
        assert self.group.failure is not None
        return self.group.failure

    @property
    def client_address(self) -> str:
        """Where clients connect; with the port that was chosen where 0 was asked for."""
        return self._client_address

    async def status(self) -> dict[str, Any]:
        """What an operator wants to know; the keys are those of `disheap status --json`."""
        group, raft = self.group, self.group.raft
        assert self._disk is not None and self._storage is not None
        usage = await run_on(self._disk, self._storage.usage)
        peers = {peer.id: peer for peer in raft.peers()}
        members = []
        for node in self._book.ids():
            peer, link = peers.get(node), self._links.get(node)
            members.append(
                {
                    "id": node,
                    "name": self._book.name(node),
                    "peer_address": self._book.peer(node),
                    "client_address": self._book.client(node),
                    "connected": node == self._id or (link is not None and link.up),
                    "match_index": peer.match if peer else None,
                    "progress": peer.state if peer else None,
                }
            )
        return {
            "cluster_id": self.cluster_id,
            "node": self.name,
            "node_id": self._id,
            "version": disheap.__version__,
            "role": raft.role.value,
            "term": raft.term,
            "leader": self._book.name(group.leader),
            "leader_address": self.leader_address(),
            "commit_index": raft.commit,
            "applied_index": group.applied.index,
            "first_index": raft.first_index,
            "last_index": raft.last_index,
            "members": members,
            "sessions": len(group.sessions.table),
            "machine": self.machine_name,
            "machine_version": group.sessions.machine_version,
            "machine_stats": group.sessions.machine.stats(),
            "log_bytes": usage.log_bytes,
            "snapshot_bytes": usage.snapshot_bytes,
            "log_time_ms": group.now_ms(),
            "uptime_s": round(self._clock.monotonic() - self._started_at, 3),
            "counters": {
                **msgspec.to_builtins(group.counters),
                "raft_cluster_size": len(members),
                "disheap_commands_applied_total": group.sessions.applied_commands,
                "disheap_commands_refused_total": group.sessions.failed_commands,
            },
        }

    # --- starting and stopping ---------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = self._clock.monotonic()
        transport, client_transport = self._transport("transport"), self._transport("client_transport")
        self._server = self._make_server()
        found = await self._recover()
        self._identity = found.identity
        self._book = AddressBook(found.applied.membership)
        self._make_group(found)
        self._server.serve(self.group)
        if len(self._members) > 1:
            await self._listen(transport, self.config.peer_listen, self._accept_peer)
            self._dial(transport)
        listener = await self._listen(client_transport, self.config.client_listen, self._server.accept)
        self._client_address = listener.address
        if not self.config.client_advertise and self.config.client_listen.endswith(":0"):
            self._book.learn(self._id, listener.address)
        self._serving = True
        self._tick()
        log.info("node started", node=self.name, cluster=self.cluster_id, clients=listener.address)

    def _transport(self, use: str) -> Transport:
        config = self.config
        name = (config.client_transport if use == "client_transport" else "") or config.transport
        return self._registry.build(  # type: ignore[no-any-return]
            "transport", name, config.table("transport"), TransportContext(self._loop), config.source
        )

    async def _recover(self) -> Found:
        config, registry = self.config, self._registry
        codec = registry.codec(config.codec, config.table("codec"), CodecContext(self._random), config.source)
        directory = str(Path(config.data_dir) / "groups" / str(GROUP))
        context = StorageContext(directory, codec, config.codec, self._clock, self._random)
        storage = registry.build("storage", config.storage, config.table("storage"), context, config.source)
        identity = Identity(self.cluster_id, self._id, self.name, self._draw())
        disk = self._disk = self._make_disk(self._loop)
        self._storage = storage
        return await run_on(
            disk,
            lambda: recover(
                storage,
                identity,
                first_state(self._members),
                self._fresh_sessions,
                tail_bytes=config.raft.log_cache_bytes,
                chunk_bytes=config.raft.chunk_bytes,
            ),
        )

    def _fresh_sessions(self) -> Sessions:
        """An empty state: at start, and beside the present one while a leader's snapshot is read."""
        config, limits = self.config, self.config.limits
        machine = self._registry.build(
            "machine", config.machine, config.table("machine"), MachineContext(), config.source
        )
        session_limits = SessionLimits(
            window=limits.session_window,
            sessions=limits.sessions,
            timeout_min_ms=limits.session_timeout_min_ms,
            timeout_max_ms=limits.session_timeout_max_ms,
            work=limits.apply_work_limit,
        )
        return Sessions(machine, session_limits, self._outlets())

    def _outlets(self) -> Server:
        assert self._server is not None, "the server is made before anything else"
        return self._server

    def _make_server(self) -> Server:
        limits = self.config.limits
        return Server(
            self,
            ServerLimits(
                frame_bytes=limits.frame_bytes,
                session_window=limits.session_window,
                connections=limits.connections,
                handshake_timeout_s=limits.handshake_timeout_s,
                write_buffer_bytes=limits.write_buffer_bytes,
                queries=limits.queries,
            ),
            loop=self._loop,
            draw=self._draw,
        )

    def _make_group(self, found: Found) -> None:
        assert self._disk is not None and self._storage is not None
        raft, limits = self.config.raft, self.config.limits
        kernel = KernelConfig(
            id=self._id,
            election_ticks=max(2, raft.election_timeout_ms // raft.tick_ms),
            heartbeat_ticks=max(1, raft.heartbeat_ms // raft.tick_ms),
            append_bytes=raft.append_bytes,
            inflight_messages=raft.inflight_messages,
            inflight_bytes=raft.inflight_bytes,
            uncommitted_bytes=limits.uncommitted_bytes,
            log_cache_bytes=raft.log_cache_bytes,
            apply_bytes=APPLY_BYTES,
        )
        self.group = Group(
            Raft(kernel, found.restored, self._random),
            self._storage,
            found.sessions,
            found.applied,
            found.log_time_ms,
            loop=self._loop,
            disk=self._disk,
            clock=self._clock,
            limits=GroupLimits(limits.entry_bytes, limits.gather_bytes, limits.max_clock_jump_ms, raft.chunk_bytes),
            policy=SnapshotPolicy(
                log_bytes=raft.snapshot_log_bytes,
                entries=raft.snapshot_threshold,
                trailing_entries=raft.trailing_entries,
                trailing_bytes=raft.trailing_bytes,
                stagger=((self._id - 1) % 5) / 10,
            ),
            fresh_sessions=self._fresh_sessions,
            send=self._send,
            on_lead=self._on_lead,
            on_applied=self._outlets().flush,
            on_failure=self._on_failure,
        )

    async def _listen(self, transport: Transport, address: str, accept: Callable[[], Any]) -> Listener:
        check_listen(address, transport.secure, self.config.insecure)
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
                while self.group.leads or self.group.leader == NOBODY:
                    self._leader_changed.clear()
                    await self._leader_changed.wait()
        except (TimeoutError, DisheapError) as error:
            log.warning("leadership could not be handed over; the others will elect", reason=str(error))

    async def _close_storage(self) -> None:
        disk, storage = self._disk, self._storage
        self._disk = self._storage = None
        if disk is None:
            return
        if storage is not None:
            try:
                await run_on(disk, storage.close)
            except DisheapError as error:
                log.error("the storage could not be closed cleanly", reason=str(error))
        await asyncio.to_thread(disk.close)

    def _draw(self) -> int:
        return self._random.getrandbits(63) | 1

    # --- the tick ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self._serving:
            return
        tick_s = self.config.raft.tick_ms / 1000
        self._ticker = self._loop.call_later(tick_s, self._tick)
        self.group.tick()
        if self._server is not None:
            self._server.sweep()
        self._leader_changed.set()

    # --- peers -------------------------------------------------------------------------------------------------------

    def _frame_bytes(self) -> int:
        raft, limits = self.config.raft, self.config.limits
        return max(raft.append_bytes, limits.frame_bytes, limits.entry_bytes, raft.chunk_bytes) + PEER_FRAME_SLACK

    def _accept_peer(self) -> IncomingLink:
        return IncomingLink(self, self._frame_bytes(), self._loop)

    def _dial(self, transport: Transport) -> None:
        for node in self._book.ids():
            if node != self._id:
                link = OutgoingLink(self, self._frame_bytes(), node, self._peer_address(node), transport)
                self._links[node] = link
                self._tasks.append(self._loop.create_task(link.keep_up(), name=f"link to {node}"))

    def _peer_address(self, node: NodeId) -> Callable[[], str]:
        return lambda: self._book.peer(node)

    def _send(self, message: Message) -> None:
        link = self._links.get(message.target)
        if link is not None:
            link.send(message)

    def received(self, message: Message) -> None:
        self.group.step(message)

    def unreachable(self, peer: NodeId) -> None:
        if self._serving:
            self.group.unreachable(peer)

    def hello_to(self, target: NodeId) -> PeerHello:
        return PeerHello(
            cluster_id=self.cluster_id,
            node_id=self._id,
            name=self.name,
            incarnation=self._identity.incarnation,
            target=target,
            client_address=self.config.client_advertise or self._client_address,
            machine=self.machine_name,
            machine_versions=self.group.sessions.machine.versions,
        )

    def check_hello(self, hello: PeerHello, certificate_name: str | None) -> NodeId:
        """Who a peer is. Raises `WrongCluster` for one that does not belong here."""
        node = NodeId(hello.node_id)
        if hello.cluster_id != self.cluster_id:
            raise WrongCluster(
                f"{hello.name} belongs to cluster {hello.cluster_id}, this node to {self.cluster_id}: the nodes were "
                "given different member lists or cluster names"
            )
        if hello.target != self._id:
            raise WrongCluster(f"{hello.name} looks for node {hello.target} here, but this is node {self._id}")
        if node not in self._book.ids() or node == self._id:
            raise WrongCluster(f"{hello.name} says it is node {node}, which is not one of the other members")
        if hello.machine != self.machine_name:
            raise WrongCluster(f"{hello.name} runs the machine {hello.machine!r}, this node {self.machine_name!r}")
        self._check_certificate(node, certificate_name)
        if hello.client_address:
            self._book.learn(node, hello.client_address)
        return node

    def _check_certificate(self, node: NodeId, certificate_name: str | None) -> None:
        """The name that was proved has to be the member's, or the host in its peer address (storage-rules 18)."""
        if certificate_name is None:
            return
        host = self._book.peer(node).rpartition(":")[0].strip("[]")
        if certificate_name not in (self._book.name(node), host):
            raise WrongCluster(
                f"the certificate is for {certificate_name!r}, node {node} is {self._book.name(node)!r} at {host!r}"
            )

    # --- what the group tells ----------------------------------------------------------------------------------------

    def _on_lead(self, leads: bool) -> None:
        self._outlets().lead(leads)
        self._leader_changed.set()

    def _on_failure(self, error: BaseException) -> None:
        log.error("the node stops", reason=str(error), exc_info=None if isinstance(error, DisheapError) else error)
        self._failed.set()

    # --- what the server asks ----------------------------------------------------------------------------------------

    def leader_address(self) -> str:
        if not hasattr(self, "group") or self.group.leader in (NOBODY, self._id):
            return ""
        return self._book.client(self.group.leader)

    def client_addresses(self) -> list[str]:
        others = [self._book.client(node) for node in self._book.ids() if node != self._id]
        return [address for address in (self._own_client_address(), *others) if address]

    def _own_client_address(self) -> str:
        return self._book.client(self._id) or self._client_address

    async def admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """An operator's request. Raises `RequestError`."""
        match request.get("op"):
            case "status":
                return await self.status()
            case "hash":
                group = self.group
                return {"applied_index": group.applied.index, "state_hash": group.sessions.state_hash().hex()}
            case "transfer":
                return await self._transfer(str(request.get("target", "")))
            case "snapshot":
                self._need_leader()
                self.group.mark_snapshot()
                return {}
            case other:
                raise InvalidArgument(f"no such op: {other!r}; there are status, hash, transfer and snapshot")

    def _need_leader(self) -> None:
        if not self.group.leads:
            raise NotLeader(self.leader_address())

    async def _transfer(self, target: str) -> dict[str, Any]:
        self._need_leader()
        try:
            node = self._book.find(target) if target else NOBODY
        except ConfigError as error:
            raise InvalidArgument(str(error)) from None
        if node == self._id:
            return {"leader": self.name}
        self.group.transfer(node)
        try:
            async with asyncio.timeout(self.config.raft.election_timeout_ms / 1000 * 2):
                while self.group.leads or self.group.leader == NOBODY:
                    self._leader_changed.clear()
                    await self._leader_changed.wait()
        except TimeoutError:
            raise Overloaded("the transfer was given up: the target did not catch up or did not answer") from None
        return {"leader": self._book.name(self.group.leader)}

    async def _local_session(self) -> LocalSession:
        if self._local is None or self._local.ended:
            if not self.group.leads:
                raise NotLeader(self.leader_address())
            self._local = LocalSession(self._outlets())
            await self._local.open()
        return self._local


def freeze_garbage() -> None:
    """Automatic collection is off in a node's process: its records are acyclic, and a collection over millions of them
    stops the loop for hundreds of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.disable()
