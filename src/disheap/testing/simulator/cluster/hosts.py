"""Machines that nodes run on: what one has, and what its disk and its memory do wrong.

A host outlives the processes on it: its files, its name in the network, its place in the cluster. It runs nothing by
itself; `Cluster` starts and ends nodes on it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from math import inf

from disheap.config.node_config import NodeConfig
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.replica.lifecycle import State
from disheap.testing.simulator.cluster.nodes import SimClock, SimNode
from disheap.testing.simulator.world.disk import SimDisk
from disheap.testing.simulator.world.filesystem import Crash, DiskImage, SimFilesystem
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.rng import Rng

FREE_BYTES = 1 << 40
"""Free on a disk that has room."""
NOT_OPEN = (State.OPENING, State.FAILED, State.CLOSED)
"""The states of a replica whose group may not be there, or does nothing more."""
SYNCS = ("sync", "sync_directory")
CHANGES = (*SYNCS, "write", "extend", "create", "rename", "remove", "truncate")


_GROUP = re.compile(r"/groups/(\d+)(?:/|$)")


def group_of(path: str) -> int | None:
    """The number of the group that a file belongs to. None for a directory above all groups."""
    found = _GROUP.search(path)
    return int(found[1]) if found else None


class DiskFaults:
    """What one host's disk does wrong. Counts down operations."""

    def __init__(self) -> None:
        self.crash_in = -1  # operations until the process ends in the middle of one
        self.crash_near = ""  # counted from the first operation on such a path
        self.error_in = -1  # operations, of the kinds below, until they fail
        self.error_on: tuple[str, ...] = SYNCS
        self.full = False
        self.has_failed = False  # in this life of the node; it may be well again before the node has ended
        self.failed_groups: set[int | None] = set()  # whose files an operation failed on, likewise
        self.only: int | None = None  # the group whose files alone are affected; None for all
        self.has_been_full = False  # likewise
        self.free_bytes = FREE_BYTES
        self.late: Callable[[str, str], None] = lambda operation, path: None  # told of what is done after a failure

    def happens(self, operation: str, path: str) -> None:
        """Raises the crash or the error that is planned for this operation."""
        if self.has_failed and operation != "remove" and self._is_late(path):
            self.late(operation, path)
        if self.only is not None and group_of(path) != self.only:
            return
        if self.crash_near in path:
            self.crash_near = ""
            if self.crash_in == 0:
                raise Crash(operation, path)
            self.crash_in -= self.crash_in > 0
        if operation in self.error_on:
            if self.error_in == 0:
                self.has_failed = True
                self.failed_groups.add(group_of(path))
                raise OSError(errno.EIO, "Input/output error", path)
            self.error_in -= self.error_in > 0
        if self.full and operation in ("extend", "create"):
            self.has_been_full = True
            raise OSError(errno.ENOSPC, "No space left on device", path)

    def _is_late(self, path: str) -> bool:
        """Each group has a disk thread of its own, so only what belongs to a group that failed is late."""
        group = group_of(path)
        return group is None or None in self.failed_groups or group in self.failed_groups

    def begin_life(self) -> None:
        """A node starts on the host."""
        self.has_failed = self.has_been_full = False
        self.failed_groups.clear()

    def closes(self, path: str) -> None:
        """Does nothing: closing a file never fails here."""

    @property
    def are_due(self) -> bool:
        """Whether one is still to come."""
        return self.crash_in >= 0 or self.error_in >= 0 or self.full

    def clear(self) -> None:
        """Ends all planned faults."""
        self.crash_in = self.error_in = -1
        self.crash_near = ""
        self.only = None
        self.full = False
        self.free_bytes = FREE_BYTES


class SimMemory:
    """How large a process is, as the faults want it: otherwise its own estimate of its state counts."""

    def __init__(self) -> None:
        self.resident = 0

    def limit_bytes(self) -> int | None:
        """None: the simulation sets no limit."""
        return None

    def resident_bytes(self) -> int | None:
        """The size of the process that the simulation pretends."""
        return self.resident

    def keep_free_memory(self) -> None:
        """Does nothing: there is no allocator."""

    def return_free_memory(self) -> float:
        """Does nothing, in no time."""
        return 0.0

    def free_blocks(self) -> None:
        """Nothing is known of them."""


class Host:
    """`state`: "down", "up" (also while it starts), "frozen"; "lost" when its node refuses its damaged files; "gone"
    when the machine was given up."""

    def __init__(self, number: int, config: NodeConfig, rng: Rng, name: str = "") -> None:
        self.number = number  # counts the disks: a machine that gets an empty one becomes another host
        self.id = number if config.members or config.alone else 0  # of the node; 0 before it has joined
        self.name = name or config.name  # of the machine in the network; the node on it may be called otherwise
        self.config = config
        self.rng = rng
        self.disk_image = DiskImage(rng)
        self.faults = DiskFaults()
        self.memory = SimMemory()
        self.state = "down"
        self.lives = 0
        self.is_stopping = False  # told to: from then on nobody waits for the node to fail, and its `stop` has to tell
        self.wiped = False
        self.lost_files = False  # while it ran
        self.has_taken_part = False  # in every group
        self.uncertain = False  # its newest writes may be torn; until it votes again
        self.has_lost_a_copy = False  # of two; until it votes again
        self.runs_next = self.ran_next = False  # the next release: from the next start on, and now
        self.release_since = -inf  # that it runs now
        self.rotten = False  # its files were spoilt while it runs; until it starts anew
        self.cut_power_on_crash = False
        self.slowness = 1.0
        self.wall_off_s = 0.0
        self.process: Process
        self.node: SimNode
        self.disks: list[SimDisk]  # one for each group
        self.clock: SimClock
        self.filesystem: SimFilesystem

    @property
    def is_up(self) -> bool:
        """Whether the node runs and is not frozen."""
        return self.state == "up"

    @property
    def has_group(self) -> bool:
        """Whether the node runs, perhaps frozen, and has opened its group, or all of its groups."""
        return all(self.has_opened(group) for group in range(self.config.groups))

    def has_opened(self, group: int) -> bool:
        """Whether the node runs, perhaps frozen, and has opened this group."""
        if self.state not in ("up", "frozen") or not self.node.replicas:
            return False
        return self.replica(group).lifecycle.state not in NOT_OPEN

    def replica(self, group: int) -> Replica:
        """The part of a group that runs here, for a node that has started."""
        return self.node.replicas[group]

    @property
    def votes(self) -> bool:
        """Running, and certain of its own log, in every group."""
        return all(self.votes_in(group) for group in range(self.config.groups))

    def votes_in(self, group: int) -> bool:
        """Running, and certain of its own log, in this group."""
        if not self.is_up or self.wiped or not self.has_opened(group):
            return False
        found = self.replica(group).group
        return found.is_running and not found.raft.is_ambiguous

    @property
    def is_told_of_its_removal(self) -> bool:
        """Whether the node knows, in every group, that it is a member no more."""
        replicas = self.node.replicas if self.state == "up" else ()
        return bool(replicas) and all(one.lifecycle.state is State.REMOVED for one in replicas)

    def set_slowness(self, factor: float, group: int | None = None) -> None:
        """Makes each operation of the disk take so many times as long: for the files of one group, or for all. A node
        that starts later is as slow in all groups as `slowness` says."""
        if group is None:
            self.slowness = factor
        if self.state != "down" and self.lives:
            for number, disk in enumerate(self.disks):
                if group in (None, number):
                    disk.slowness = factor
