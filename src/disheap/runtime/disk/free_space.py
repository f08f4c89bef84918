"""Whether there is free space on the disks, and what is refused during a shortage (storage-rules 9).

Owns the low-water mark. Each node checks its own disk and reports to the others. A leader refuses commands that add
data while its own disk is short of space. It also refuses them while the disks that are not short are no majority.
Everything else continues: acknowledgements, deliveries, leases, elections. So the queues can be drained, which frees
space. A node that is short takes a snapshot as soon as the state is much smaller than what is on its disk. Then the log
is deleted. A leader that is short transfers leadership to a member that is not. Does not know how a refusal reaches a
client.

The space below the mark is for the node itself. One half is the reserve, for the log of acknowledgements, of opened
sessions, and of everything else that frees space. No snapshot uses it, except a small one that frees more. The other
half is for snapshots, and for transient commands, which come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from disheap.errors import DisheapError, DiskFull, RequestError
from disheap.interfaces import Clock, Preallocating, Storage, StorageUsage
from disheap.kernel.membership import voters_of
from disheap.kernel.quorum import majority
from disheap.kernel.raft import Raft
from disheap.kernel.types import NodeId
from disheap.logs import get_logger
from disheap.protocol.gossip import GroupReport
from disheap.runtime.disk.thread import Disk

log = get_logger(__name__)

CHECK_S = 1.0
"""Between two checks of the disk, if little is written."""
CHECKS_PER_MARK = 8
"""After an eighth of the mark was written the disk is checked at once: a fast disk may write the whole mark in a
second."""
LEAVE_SHARE = 1 / 8
"""The mark and so much more has to be free before commands are accepted again. So the state does not change all the
time."""
TRANSFER_EVERY_S = 30.0
"""Between two attempts to transfer leadership. Commands wait during an attempt."""
SNAPSHOT_EVERY_S, MAX_SNAPSHOT_EVERY_S = 10.0, 320.0
"""Between two snapshots that should free space. One that frees little doubles the time, because each reads the whole
state."""
RESERVE_SHARE = 1 / 2
"""A share of the mark: by default 64 MiB, the log of some 500,000 acknowledgements."""
LAST_SHARE = 4
"""Below the reserve a snapshot may use a quarter of the free space. If it fits, the whole log is deleted for it."""
GAIN_SHARE, MIN_GAIN_BYTES = 3, 256 << 10
"""A snapshot is worth writing if the state is a third of what is on the disk, and there is something to gain."""
MIB = 1 << 20


def reserve_bytes(min_free_bytes: int) -> int:
    """The bytes kept free for commands that free space."""
    return int(min_free_bytes * RESERVE_SHARE)


class Snapshots(Protocol):
    """Takes the snapshots of a group."""

    @property
    def bytes_applied(self) -> int:
        """Bytes of commands applied since the start."""

    def take_to_free_space(self, max_bytes: int) -> None:
        """Take a snapshot so that the log can be dropped. It is given up above `max_bytes`."""


class Group(Protocol):
    """The group whose storage is on the disk."""

    raft: Raft

    @property
    def snapshotter(self) -> Snapshots:
        """Takes the snapshots of this group."""

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""

    @property
    def leads(self) -> bool:
        """Whether this node leads the group."""

    def transfer(self, target: NodeId) -> None:
        """Hand leadership to `target`. Raises `NotLeader` and `InvalidArgument`."""


class Host(Protocol):
    """What the watch asks of its replica."""

    name: str
    number: int

    @property
    def group(self) -> Group:
        """The group whose data are on the disk."""

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory."""

    def storage(self) -> Storage:
        """Returns the open storage."""

    def send_gossip(self) -> None:
        """Tell all peers this node's state now."""

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        """Refuse commands that add data, for this kind of reason. None ends that kind of refusal."""

    def is_connected(self, node: NodeId) -> bool:
        """Whether this node has a connection to the member."""

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""


class DiskSpace:
    """`tick` looks once in a while."""

    def __init__(self, host: Host, own: NodeId, min_free_bytes: int, clock: Clock) -> None:
        self.is_short = False
        self.free_bytes: int | None = None  # at the last look; None if that is not bounded by a disk
        self._free: dict[NodeId, int] = {}  # by member, as it has reported
        self._host = host
        self._own = own
        self._mark = min_free_bytes
        self._reserve = reserve_bytes(min_free_bytes)
        self._clock = clock
        self._checked_at = float("-inf")
        self._written_at_check = 0
        self._transferred_at = float("-inf")
        self._transfers: dict[NodeId, int] = {}  # to lead, how often since there was room
        self._snapshot_at = float("-inf")
        self._snapshot_every_s = SNAPSHOT_EVERY_S
        self._held_bytes = 0  # on the disk, at the last attempt
        self._short: dict[NodeId, int] = {}  # others that said so, and what is free there
        self._reason = ""
        self._takes_transient = True
        self._has_ended = False

    def tick(self) -> None:
        """Ask for the free space, once in `CHECK_S` or after many writes. Called on every tick."""
        now, written = self._clock.monotonic(), self._host.group.snapshotter.bytes_applied
        is_much = (written - self._written_at_check) * CHECKS_PER_MARK > self._mark > 0
        if now - self._checked_at >= CHECK_S or is_much:
            self._checked_at, self._written_at_check = now, written
            self.check_usage()

    def check_usage(self) -> None:
        """Read the free space, on the disk's thread. Without a shortage, allocate space for the next appends before."""
        may_allocate = not self.is_short

        def work() -> StorageUsage:
            storage = self._host.storage()
            if may_allocate and isinstance(storage, Preallocating):
                storage.preallocate()
            return storage.usage()

        self._host.disk().submit(work, self._usage_read)

    def end(self) -> None:
        """Ignore what the disk still reports: the storage is about to be closed."""
        self._has_ended = True

    def _usage_read(self, usage: StorageUsage, error: BaseException | None) -> None:
        if error is None and not self._has_ended:
            self.seen(usage)

    def seen(self, usage: StorageUsage) -> None:
        """Take in a reading of the disk: refuse or accept commands, take a snapshot, or transfer leadership."""
        self.free_bytes = free = usage.free_bytes
        needed = self._mark + (int(self._mark * LEAVE_SHARE) if self.is_short else 0)
        was_short, self.is_short = self.is_short, free is not None and free < needed
        if self.is_short and not was_short:
            log.error("the disk is short of room", group=self._host.number, free_bytes=free, min_free_bytes=self._mark)
        elif was_short and not self.is_short:
            self._transfers.clear()
            self._snapshot_every_s, self._held_bytes = SNAPSHOT_EVERY_S, 0
            log.warning(
                "there is room on the disk again", group=self._host.number, free_bytes=free, min_free_bytes=self._mark
            )
        if self.is_short:
            self._take_snapshot(usage)
        if self.is_short or was_short:
            self._host.send_gossip()  # what is free there decides what a leader takes; the next report may be late
        self._settle()

    def _snapshot_budget(self, free: int) -> int:
        """How many bytes a snapshot that frees space may use."""
        return max(free - self._reserve, free // LAST_SHARE)

    def _take_snapshot(self, usage: StorageUsage) -> None:
        group = self._host.group
        if not group.is_running:
            return  # what it holds is not whole
        now, held = self._clock.monotonic(), usage.log_bytes + usage.snapshot_bytes
        most = min(
            self._snapshot_budget(usage.free_bytes or 0),
            (usage.log_bytes_since_snapshot + usage.snapshot_bytes) // GAIN_SHARE,
        )
        if most < MIN_GAIN_BYTES or now - self._snapshot_at < self._snapshot_every_s:
            return
        freed_little = 0 < self._held_bytes * 7 // 8 < held
        self._snapshot_every_s = (
            min(2 * self._snapshot_every_s, MAX_SNAPSHOT_EVERY_S) if freed_little else SNAPSHOT_EVERY_S
        )
        self._snapshot_at, self._held_bytes = now, held
        group.snapshotter.take_to_free_space(most)

    def heard(self, peer: NodeId, gossip: GroupReport) -> None:
        """Take in what another node reports of its disk."""
        self._free[peer] = gossip.free_bytes
        if gossip.is_short:
            self._short[peer] = gossip.free_bytes
        else:
            self._short.pop(peer, None)
        self._settle()

    def disks(self) -> dict[NodeId, dict[str, Any]]:
        """Returns what is known of the members' disks, by id: free bytes (0 if that is not known), and whether they are
        short."""
        known = {**self._free, self._own: self.free_bytes or 0}
        short = {*self._short, *([self._own] if self.is_short else [])}
        return {node: {"free_bytes": free, "is_short": node in short} for node, free in known.items()}

    def status(self) -> dict[str, Any]:
        """Returns the `disk` part of `disheap status`."""
        return {"free_bytes": self.free_bytes, "is_short": self.is_short, "refuses": self._reason}

    def _settle(self) -> None:
        """Refuse or accept commands. This matters only on the leader."""
        voters = voters_of(self._host.group.raft.membership)
        short = [voter for voter in voters if self._is_short(voter)]
        with_space = [voter for voter in voters if voter not in short]
        can_go_on = not voters or len(with_space) >= majority(len(voters))  # a node that joins knows none at first
        refuses = self.is_short or not can_go_on
        reason = self._explain(short or [self._own]) if refuses else ""
        takes_transient = not refuses or self._has_reserve(voters)
        if (reason, takes_transient) != (self._reason, self._takes_transient):
            self._reason, self._takes_transient = reason, takes_transient
            self._host.refuse(DiskFull, DiskFull(reason) if reason else None, takes_transient)
        if self.is_short and can_go_on and self._host.group.leads:
            self._transfer_leadership(with_space)

    def _is_short(self, node: NodeId) -> bool:
        return self.is_short if node == self._own else node in self._short

    def _has_reserve(self, voters: Sequence[NodeId]) -> bool:
        """Whether this node and a majority have more free space than the reserve."""
        free = {**self._short, self._own: self._reserve if self.free_bytes is None else self.free_bytes}
        above_reserve = [voter for voter in voters if free.get(voter, self._reserve) >= self._reserve]
        return free[self._own] >= self._reserve and len(above_reserve) >= majority(len(voters))

    def _explain(self, short: Sequence[NodeId]) -> str:
        """Returns the reason for clients. It has no figures, because they change all the time."""
        names = ", ".join(self._host.member_name(node) for node in short)
        return (
            f"less than {self._mark / MIB:.4g} MiB (limits.min_free_bytes) are free on the disk of {names}: nothing "
            "new is taken until there is more. Have what is stored consumed or removed, or free space there"
        )

    def _transfer_leadership(self, others: Sequence[NodeId]) -> None:
        now, group = self._clock.monotonic(), self._host.group
        connected = [voter for voter in others if self._host.is_connected(voter)]
        if not connected or now - self._transferred_at < TRANSFER_EVERY_S:
            return
        active = {peer.id for peer in group.raft.peers() if peer.recently_active}
        target = min(connected, key=lambda voter: (voter not in active, self._transfers.get(voter, 0), voter))
        self._transfers[target] = self._transfers.get(target, 0) + 1
        self._transferred_at = now
        name = self._host.member_name(target)
        log.warning("leadership is handed to a node with room", group=self._host.number, target=name)
        try:
            group.transfer(target)
        except DisheapError as error:
            log.warning("leadership is not handed over", group=self._host.number, reason=str(error))
