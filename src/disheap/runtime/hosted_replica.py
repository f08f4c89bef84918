"""A replica in its node: one node's part of a group, with all that it owns.

Owns its kernel, its storage directory, its disk thread, its sessions and its machine, and the lifecycle that says where
it stands. Knows no other replica. The node owns what its replicas share (connections, gossip, memory, the tick). A
replica gets it in `shared.Shared`. The folder `replica` has the parts that know no clients and no peers.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import msgspec

from disheap.errors import NotLeader, RequestError, StorageError
from disheap.interfaces import Identity, Measuring, PeerStore, Storage
from disheap.kernel.membership import voters_of
from disheap.kernel.raft import Raft
from disheap.kernel.types import NOBODY, Index, Membership, Message, NodeId
from disheap.logs import get_logger, log_fields
from disheap.protocol.gossip import GroupReport
from disheap.protocol.peers import PeerGroup
from disheap.protocol.repair import Answer, Ask
from disheap.runtime import tuning
from disheap.runtime.clients.local import LocalRequests
from disheap.runtime.clients.server import Server
from disheap.runtime.clocks.clock_check import ClockCheck
from disheap.runtime.disk.thread import Disk, retry_while_full, run_on
from disheap.runtime.maintenance import Maintenance
from disheap.runtime.membership.directory import first_state, record_of
from disheap.runtime.replica.data_directory import DataDirectory
from disheap.runtime.replica.forwarding import Forwarder
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.leader_watch import LeaderWatch
from disheap.runtime.replica.lifecycle import Lifecycle, State
from disheap.runtime.replica.node_commands import NodeCommands
from disheap.runtime.replica.recovery import Found
from disheap.runtime.replica.versions import Versions, own_versions
from disheap.runtime.replica.wiring import GroupCallbacks, GroupParts
from disheap.runtime.shared import ReplicaNode, Shared
from disheap.runtime.state.sessions import Sessions

log = get_logger(__name__)


class Replica:
    """`open` it, `begin` when others can be reached, `tick` it, `end` and `close` it."""

    def __init__(self, number: int, node: ReplicaNode, shared: Shared) -> None:
        config, loop = shared.config, shared.loop
        self.number = number
        self.name = config.name
        self.cluster_id = node.cluster_id
        self.machine_name = config.machine_of(number)
        self.lifecycle = Lifecycle(self._lifecycle_changed)
        self.incarnation = 0  # of its directory, when it was opened
        self._node = node
        self._shared = shared
        self._group: Group | None = None
        with log_fields({"group": number}):
            disk = shared.make_disk(loop)
        self.directory = DataDirectory(number, lambda: shared.parts.storage(number), disk, node.failed)
        limits = config.limits
        self.clock_check = ClockCheck(
            shared.clock, shared.member_clocks, shared.own, limits.max_clock_jump_ms, limits.max_downtime_ms
        )
        self.node_commands = NodeCommands(self, self.draw)
        self.server = Server(
            self, shared.acceptor, draw=self.draw, entropy=shared.entropy, on_node_command=self.node_commands.applied
        )
        self.forwarder = Forwarder(
            lambda: self.group.sessions.machine,
            shared.forwarding.routes_of(number, self.node_commands),
            shared.clock.monotonic,
            shared.random.random,
            lambda: loop.call_soon(self._pump_forwarder),
            number,
        )
        self.maintenance = Maintenance(self, number, shared.own, config, shared.clock, loop)
        self._local = LocalRequests(self.server, self.leader_address)
        others = lambda: shared.book.versions(shared.own, number)  # noqa: E731
        self._versions = Versions(others, tuning.settle_ticks(config))
        self._leader_watch = LeaderWatch(number, lambda: self.group, shared.book.label)
        self._description = shared.parts.describe(number, incarnation=0)

    # --- its life ----------------------------------------------------------------------------------------------------

    async def open(self) -> Found:
        """Recover what the directory holds. Raises `StorageError`."""
        found = await retry_while_full(lambda: self._recover(follow=False), self.number)
        shared = self._shared
        others = [node for node in shared.book.ids() if node != shared.own] if shared.needs_welcome else []
        self.maintenance.recovered(found, others, shared.config.has_peers())
        self.incarnation = found.identity.incarnation
        self._take_up(found)
        if found.is_damaged:
            self.note_damage("the log or a snapshot is damaged, as was seen when the storage was opened")
        return found

    def begin(self, found: Found) -> None:
        """Peers can be reached from now on: begin to repair, or log who is waited for."""
        self.maintenance.begin(found)

    def tick(self) -> None:
        """Every `tick_ms`."""
        self.group.tick()
        self._leader_watch.tick()
        self.maintenance.tick()
        self.server.sweep()
        self._versions.raise_if_due(self.group)
        self._pump_forwarder()

    async def hand_over(self) -> None:
        """Hand leadership over before the node stops. So clients lose a round trip and not an election timeout."""
        if not self.group.leads or voters_of(self.group.raft.membership) == (self._shared.own,):
            return
        await self._leader_watch.hand_over(self._shared.config.raft.election_timeout_ms / 1000)

    def end(self) -> None:
        """Stop all work and close the clients' connections. `close` follows."""
        self.server.close(NotLeader(self.leader_address()))
        self.maintenance.repairing.cancel()  # before the next line, because it changes the lifecycle, too
        if not self.lifecycle.is_over:
            self.lifecycle.change(State.CLOSED)
        if self._group is not None:
            self._group.close()
        self._end_leading()

    async def close(self) -> None:
        """After `end`. Waits for the disk, but not for ever; may be called twice."""
        await self.maintenance.end()
        await self.directory.close()

    def fail(self, error: BaseException) -> None:
        """The node ends with `error`. The first one counts."""
        if self.lifecycle.error is not None:
            return
        self.lifecycle.fail(error)
        if self._group is not None:
            self._group.close()
        self.server.close(NotLeader())  # they look for a node that can go on
        self._end_leading()

    def _lifecycle_changed(self, before: State, now: State) -> None:
        log.debug("lifecycle", group=self.number, before=before.value, now=now.value)
        self._leader_watch.note_change()

    async def _recover(self, follow: bool) -> Found:
        shared, raft = self._shared, self._shared.config.raft
        incarnation = shared.incarnations[self.number] if shared.incarnations else self.draw()
        return await self.directory.open(
            Identity(self.cluster_id, shared.own, self.name, incarnation),
            first_state(shared.first),
            self._fresh_sessions,
            tail_bytes=raft.log_cache_bytes,
            chunk_bytes=raft.chunk_bytes,
            follow=follow,
        )

    def _take_up(self, found: Found) -> None:
        self.maintenance.found(found)
        self._group = self._make_group(found)
        self.server.serve(self._group)
        if self._shared.membership.is_removed or (found.met is not None and found.met.is_removed):
            self.lifecycle.change(State.REMOVED, "the cluster has removed this node")
        elif found.needs_repair:
            self.lifecycle.change(State.REPAIRING, "the log is damaged, or its end is ambiguous")
        elif not self.maintenance.incarnation_check.all_met:
            self.lifecycle.change(State.WAITING, "not every other member has welcomed this directory")
        else:
            self.lifecycle.change(State.RUNNING)

    def repair(self, reason: str) -> None:
        """The group ends. The log is read anew, and repaired from the other nodes."""
        self.lifecycle.change(State.REPAIRING, reason)
        log.warning("the log is read anew and repaired from the other nodes", group=self.number, reason=reason)
        self._end_group()
        self.maintenance.repairing.begin_again()

    def quarantine(self, reason: str) -> None:
        """The state here is wrong. The replica takes no part any more, until the node is restarted."""
        if not self.lifecycle.is_running:
            return
        self.lifecycle.change(State.QUARANTINED, reason)
        self._shared.observers.quarantined(self.number, reason)
        log.error(
            "this replica is in quarantine: it serves nothing until the node is restarted",
            group=self.number,
            reason=reason,
        )
        self._end_group()

    def retire(self, reason: str) -> None:
        """The cluster has removed this node. The replica takes no part any more, also after a restart."""
        if self.lifecycle.is_over or self.lifecycle.state in (State.OPENING, State.REMOVED):
            return  # one that is opened again finds out then
        was_running = self.lifecycle.is_running
        self.maintenance.repairing.cancel()
        self.lifecycle.change(State.REMOVED, reason)
        if was_running:
            self._end_group()
        storage = self.storage()
        if isinstance(storage, PeerStore):
            keep = lambda: storage.save_known_peers(storage.known_peers()._replace(is_removed=True))  # noqa: E731
            self.disk().submit(keep, self._retired)

    def _retired(self, _: None, error: BaseException | None) -> None:
        if error is not None:
            log.warning(
                "that this node was removed is not on its disk; it is told again", group=self.number, reason=str(error)
            )

    def _end_group(self) -> None:
        if self.group.leads:
            self._on_lead(False)
        self.group.close()

    async def recover_again(self, follow: bool) -> Found:
        """Close the storage and open it again. Returns what was found, and makes a new group of it. The earlier group
        has ended."""
        before = self.group
        self.lifecycle.change(State.OPENING, self.lifecycle.reason)
        self.maintenance.scrubbing.release_storage()
        self._local.forget()
        await run_on(self.disk(), self._close_files)
        self._raise_failure()  # opened anew, it would be tried again
        found = await self._recover(follow)
        self._raise_failure()
        self._take_up(found)
        self._shared.membership.changed()  # the log was not read before, so nobody knew whom it names
        before.release()
        self.maintenance.discarder.discard(before.sessions)
        return found

    def _raise_failure(self) -> None:
        if self.lifecycle.error is not None:
            raise self.lifecycle.error

    def _close_files(self) -> None:
        self.maintenance.responder.close_reader()
        self.group.close_files()
        self.storage().close()

    def _fresh_sessions(self) -> Sessions:
        """Returns an empty state. It is used at the start, and while a leader's snapshot is read."""
        shared = self._shared
        machine = shared.parts.machine(self.number)
        if isinstance(machine, Measuring):
            machine.limit_series(shared.config.metrics.topics_max)
        return Sessions(machine, tuning.session_limits(shared.config), self.server, self.number)

    def _make_group(self, found: Found) -> Group:
        shared, config, number = self._shared, self._shared.config, self.number
        return Group(
            number,
            Raft(tuning.kernel_config(config, shared.own), found.restored, shared.random),
            found,
            GroupParts(
                loop=shared.loop,
                clock=shared.clock,
                storage=self.storage(),
                disk=self.disk(),
                fresh_sessions=self._fresh_sessions,
                clock_check=self.clock_check,
                comparing=self.maintenance.comparing,
                lifecycle=self.lifecycle,
            ),
            tuning.group_limits(config, shared.own),
            GroupCallbacks(
                send=self._send,
                flush=shared.peering.flush,
                lead=self._on_lead,
                leader=self._on_leader,
                applied=self._on_applied,
                worked=self._node.freed_memory,
                failed=self._on_failure,
                snapshot_taken=lambda index, size_bytes: shared.observers.snapshot_taken(number, index, size_bytes),
                membership_changed=self._on_membership,
                membership_in_force=shared.membership.changed,
                replaced=self.maintenance.discarder.discard,
            ),
        )

    def draw(self) -> int:
        """Returns a 63-bit number that nobody draws twice."""
        return self._shared.random.getrandbits(63) | 1

    # --- what its owner asks -----------------------------------------------------------------------------------------

    @property
    def group(self) -> Group:
        """The present group. There is none before the storage was opened."""
        assert self._group is not None, "the storage has not been opened yet"
        return self._group

    def storage(self) -> Storage:
        """Returns the open storage."""
        return self.directory.storage()

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory."""
        return self.directory.disk()

    def apply(self, command: bytes, timeout_s: float) -> Coroutine[Any, Any, bytes]:
        """See `Node.apply`."""
        return self._local.apply(command, timeout_s)

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """See `Node.query`."""
        return await self._local.query(request, timeout_s)

    async def wait_for_leader(self, timeout_s: float) -> str:
        """See `Node.wait_for_leader`."""
        return await self._leader_watch.wait_for_leader(timeout_s)

    async def wait_for_another_leader(self) -> None:
        """Returns when another node leads the group, however long that takes."""
        await self._leader_watch.wait_for_another_leader()

    async def wait_for_transfer(self) -> bool:
        """Returns whether another node leads, when the transfer that was begun has ended."""
        raft = self._shared.config.raft
        return await self._leader_watch.wait_for_transfer(2 * raft.election_timeout_ms // raft.tick_ms)

    def describe(self) -> PeerGroup:
        """What peers are told of this replica when they meet."""
        sessions = self.group.sessions
        supported = own_versions(sessions)
        return msgspec.structs.replace(
            self._description,
            incarnation=self.incarnation,
            machine_versions=supported.machine,
            log_versions=supported.log,
            machine_version=sessions.machine_version,
            log_version=sessions.log_version,
        )

    def report(self) -> GroupReport:
        """What peers are told of this replica once a second."""
        space, group = self.maintenance.disk_space, self.group
        ambiguous_until = (group.raft.ambiguous_after or 0) if group.is_running else 0
        newest = self.maintenance.comparing.newest
        return GroupReport(self.number, space.is_short, space.free_bytes or 0, *newest, ambiguous_until)

    def received_report(self, peer: NodeId, report: GroupReport) -> None:
        """Take in what a peer reports of this group once a second."""
        self.maintenance.received_report(peer, report)
        self.group.proposals.fill_until(report.ambiguous_until)

    def memory_bytes(self) -> tuple[int | None, int]:
        """Returns the bytes of the machine's state (None if it does not estimate them), and those of everything
        else."""
        sessions, discarder = self.group.sessions, self.maintenance.discarder
        other_bytes = sessions.memory_bytes() + self.group.log_bytes() + discarder.memory_bytes()
        return sessions.machine_bytes(), other_bytes

    def freed_memory(self) -> None:
        """Work was done that may have freed memory."""
        self._node.freed_memory()

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        """Refuse commands that add data, for this reason. None ends that kind of shortage."""
        self.server.note_shortage(kind, reason, takes_transient)

    # --- what its parts ask ------------------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether this node leads the group and can answer for it."""
        return self.server.leads

    def known_leader(self) -> NodeId | None:
        """`NOBODY` while there is none. None if this replica takes no part, and so does not hear who leads."""
        return self.group.leader if self.lifecycle.is_running else None

    def refusal_when_short(self, command: bytes) -> RequestError | None:
        """Returns why commands that add data are refused now, or None."""
        return self.server.refusal_when_short(command)

    def failed(self, error: BaseException) -> None:
        """A replica that cannot continue ends its node, because a supervisor restarts whole processes."""
        self._node.failed(error)

    def _send(self, message: Message) -> None:
        self._shared.peering.send(self.number, message)

    def send_repair(self, target: NodeId, message: Ask | Answer) -> None:
        """Send a request or an answer about repair. Dropped while there is no connection."""
        self._shared.peering.send_repair(target, message)

    def send_gossip(self) -> None:
        """Tell all peers this node's state now."""
        self._node.send_gossip()

    def check_memory(self) -> None:
        """Compare the node's use of memory with the mark now."""
        self._node.check_memory()

    def is_connected(self, node: NodeId) -> bool:
        """Whether this node has a connection to the member."""
        return self._shared.peering.is_connected(node)

    def is_alone(self) -> bool:
        """Whether this node is the only voter."""
        return voters_of(self.group.raft.membership) == (self._shared.own,)

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""
        return self._shared.book.label(node)

    def voters(self) -> tuple[NodeId, ...]:
        """Returns the voters of the membership that was applied last."""
        return voters_of(self.group.applied.membership)

    def note_damage(self, what: str) -> None:
        """Tell observers that stored data are damaged."""
        self._shared.observers.damage_found(self.number, what)

    def damage_found(self, error: StorageError) -> None:
        """A scrub found damage: start a repair from the other nodes."""
        self.maintenance.repairing.reset_retries()
        self.group.fail(error)

    def all_members_met(self) -> None:
        """Every other member has welcomed this directory: begin to run if that was waited for."""
        if self.lifecycle.state is State.WAITING:  # one that is repairing goes on when it is whole
            self.lifecycle.change(State.RUNNING)
            self.group.begin()

    def session_expired(self, session: int, label: str) -> None:
        """Tell observers that a session has lapsed."""
        self._shared.observers.session_expired(self.number, session, label)

    def leader_address(self) -> str:
        """Returns where clients find the leader. "" if it is not known, or is this node."""
        if self._group is None or self.group.leader in (NOBODY, self._shared.own):
            return ""
        return self._shared.book.client(self.group.leader)

    def client_addresses(self) -> list[str]:
        """Returns the client addresses of all members that are known, this node's first."""
        return self._shared.book.clients()

    async def admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """An operator's request. Raises `RequestError`."""
        return await self._node.admin(request, self.number)

    def _on_lead(self, leads: bool) -> None:
        self._versions.new_term(self.group)
        self._shared.membership.led(self.number, leads)
        self.server.lead(leads)
        if not leads:
            self._end_leading()
        else:
            self.node_commands.tell_groups(self._shared.parts.taking_groups())
            self.forwarder.lead(int(self.group.raft.term))

    def _end_leading(self) -> None:
        """Stop sending to other groups, and answer the commands that waited for the log."""
        self.forwarder.lead(0)
        self.node_commands.end()

    def _on_applied(self) -> None:
        self.server.flush()
        self.forwarder.pump()

    def _pump_forwarder(self) -> None:
        """Outside of applying. An error of the machine ends the node here, too."""
        try:
            self.forwarder.pump()
        except Exception as error:
            self.group.fail(error)

    def _on_leader(self) -> None:
        self._leader_watch.note_change()
        book, leader, term = self._shared.book, self.group.leader, self.group.raft.term
        log.info("leader", group=self.number, term=term, leader=book.label(leader) or None)
        self._shared.observers.leader_changed(self.number, term, book.label(leader) if leader else "")
        if self.leader_address():
            self.server.redirect_clients()

    def _on_membership(self, index: Index, membership: Membership) -> None:
        names = tuple(record_of(member).name for member in membership.members)
        self._shared.observers.member_changed(self.number, index, names)
        raft = self.group.raft
        self.maintenance.incarnation_check.follow(membership, raft.membership_at(raft.snapshot_index))
        self._shared.membership.applied(self.number, index, membership)

    def _on_failure(self, error: BaseException) -> None:
        repairing = self.maintenance.repairing
        if not repairing.can_repair(error):
            self.failed(error)
            return
        repairing.count_retry()
        self.note_damage(str(error))
        self.repair(str(error))
