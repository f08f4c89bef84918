"""The metrics of a node: its own, its replicas', and those of their machines.

Owns names and labels, and the lag of the loop. The counters are kept where things happen. Each node has metrics of its
own, and nothing here is global: two nodes in one process do not mix.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import msgspec

from disheap.interfaces import Histogram, Measuring, Metric, StorageUsage
from disheap.kernel.types import NOBODY, NodeId
from disheap.runtime.clients.acceptor import Acceptor
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.memory.watch import MemoryWatch
from disheap.runtime.replica.counters import Counters
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replicas import Replicas
from disheap.version import __version__

SIZES_S = 0.5
"""How long a disk may take to say how much it holds. The samples of one that hangs are left out."""
MACHINE_METRICS_MAX = 100
"""How many metrics one machine may have."""

Samples = list[tuple[tuple[str, ...], float]]
Kind = Literal["counter", "gauge"]

COUNTERS = {
    "raft_applied_entries_total": "Entries of the log that were applied.",
    "raft_failed_entries_total": "Entries with a command that was refused, or failed.",
    "raft_snapshots_total": "Snapshots that this node has taken.",
    "raft_leader_changes_total": "Times that another node led, as this node saw it.",
}
"""Those of `counters.Counters`."""


class Host(Protocol):
    """The node that is measured."""

    cluster_id: str
    name: str
    book: AddressBook
    memory: MemoryWatch
    replicas: Replicas

    @property
    def acceptor(self) -> Acceptor:
        """Where clients connect."""

    def is_connected(self, node: NodeId) -> bool:
        """Whether this node has a connection to the member. True for the node itself."""

    def uptime_s(self) -> float:
        """Returns the seconds since the node was started."""

    def unready(self) -> list[str]:
        """Returns why this node should get no traffic now."""


class Counting(Protocol):
    """A node whose counters are summed."""

    book: AddressBook
    replicas: Replicas

    @property
    def acceptor(self) -> Acceptor:
        """Where clients connect."""


def totals(node: Counting) -> dict[str, int | float]:
    """Counters since the start, over all groups, and gauges, for `disheap status`."""
    found: Counter[str] = Counter()
    for replica in node.replicas:
        found.update(msgspec.to_builtins(replica.group.counters))
        sessions = replica.group.sessions
        found["disheap_commands_applied_total"] += sessions.applied_commands
        found["disheap_commands_refused_total"] += sessions.failed_commands
        found["disheap_wrong_secrets_total"] += replica.server.wrong_secrets
        found["disheap_relayed_total"] += replica.server.relay.sent
        found["disheap_relay_dropped_total"] += replica.server.relay.dropped
    connections = node.acceptor.open_connections()
    return {**found, "raft_cluster_size": len(node.book.ids()), "disheap_connections": connections}


class LoopLag:
    """How late the loop calls a timer. `due` when one is set, `called` when it is called."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds = Histogram()
        self._now = now
        self._due = 0.0

    def due(self, after_s: float) -> None:
        """A timer was set."""
        self._due = self._now() + after_s

    def called(self) -> None:
        """The loop calls that timer."""
        if self._due:
            self.seconds.observe(max(0.0, self._now() - self._due))


class StorageSizes:
    """The sizes of a replica's log and snapshots. Asks its disk once at a time, so that a disk that hangs has one
    question to answer."""

    def __init__(self, replica: Replica, loop: asyncio.AbstractEventLoop) -> None:
        self._replica = replica
        self._loop = loop
        self._asked: asyncio.Future[None] | None = None
        self._latest: StorageUsage | None = None

    async def read(self) -> StorageUsage | None:
        """Returns the present sizes, or None if the disk does not answer in time."""
        if not self._replica.directory.is_open:
            return None
        if self._asked is None:
            self._asked = self._loop.create_future()
            self._replica.disk().submit(self._replica.storage().usage, self._answered)
        done, _ = await asyncio.wait([self._asked], timeout=SIZES_S)
        return self._latest if done else None

    def _answered(self, usage: StorageUsage, error: BaseException | None) -> None:
        self._latest = usage if error is None else None
        if self._asked is not None:
            self._asked.set_result(None)
            self._asked = None


class NodeMetrics:
    """All metrics of one node."""

    def __init__(self, node: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.lag = LoopLag(loop.time)
        self._node = node
        self._loop = loop
        self._sizes: dict[int, StorageSizes] = {}

    async def collect(self) -> list[Metric]:
        """What was counted so far, and what is there now."""
        sizes = {replica.number: await self._sizes_of(replica).read() for replica in self._node.replicas}
        metrics = [*self._of_node(), *self._of_kernels(), *self._of_disks(sizes), *self._of_sessions()]
        for replica in self._node.replicas:
            metrics += _of_machine(replica)
            await asyncio.sleep(0)  # each of them may take some milliseconds
        return _joined(metrics)

    def _sizes_of(self, replica: Replica) -> StorageSizes:
        if replica.number not in self._sizes:
            self._sizes[replica.number] = StorageSizes(replica, self._loop)
        return self._sizes[replica.number]

    # --- the node ----------------------------------------------------------------------------------------------------

    def _of_node(self) -> Iterable[Metric]:
        node = self._node
        others = [member for member in node.book.ids() if member != node.replicas[0].group.raft.id]
        connected: Samples = [((node.book.label(member),), node.is_connected(member)) for member in others]
        information = ((node.name, node.cluster_id, __version__), 1.0)
        yield Metric(
            "disheap_node_info", "gauge", "1, with the node's names.", ("node", "cluster", "version"), [information]
        )
        yield _one("disheap_uptime_seconds", "Since the node was started.", node.uptime_s())
        yield _one("disheap_ready", "1 if the node should get traffic, as /ready says.", not node.unready())
        yield _one("raft_cluster_size", "Members of the cluster that this node knows.", len(node.book.ids()))
        yield Metric(
            "disheap_member_connected", "gauge", "1 if this node is connected to the member.", ("member",), connected
        )
        yield _one("disheap_connections", "Open connections of clients.", node.acceptor.open_connections())
        yield _one(
            "disheap_memory_used_bytes",
            "Memory in use, as the limit counts it. 0 without a limit.",
            node.memory.used_bytes,
        )
        yield _one(
            "disheap_memory_limit_bytes", "Above it nothing new is taken. 0: no limit.", node.memory.high_water_bytes
        )
        yield _one(
            "disheap_memory_short", "1 while the node takes nothing new for want of memory.", node.memory.is_short
        )
        yield Metric("disheap_loop_lag_seconds", "histogram", "How late the event loop calls its timer.", (),
                     [((), self.lag.seconds.read())])  # fmt: skip

    # --- the groups --------------------------------------------------------------------------------------------------

    def _of_kernels(self) -> Iterable[Metric]:
        for name, text in COUNTERS.items():
            yield self._each(name, text, lambda one, name=name: getattr(_counters(one), name), "counter")  # type: ignore[misc]
        yield self._each("raft_term", "The newest term that the replica knows.", lambda one: one.group.raft.term)
        yield self._each("raft_is_leader", "1 if this node leads the group.", lambda one: one.group.leads)
        yield self._each("raft_has_leader", "1 if the replica knows a leader.", lambda one: one.group.leader != NOBODY)
        yield self._each(
            "raft_commit_index", "The last entry that is known to be committed.", lambda one: one.group.raft.commit
        )
        yield self._each("raft_applied_index", "The last entry that was applied.", lambda one: one.group.applied.index)
        yield self._each("raft_last_index", "The last entry of the log.", lambda one: one.group.raft.last_index)
        yield self._each(
            "disheap_replica_running", "1 if the replica takes part.", lambda one: one.lifecycle.state is State.RUNNING
        )
        yield self._histogram(
            "raft_commit_seconds",
            "From the proposal of an entry until it is committed, on the leader.",
            lambda one: one.group.commit_times.seconds,
        )

    def _of_disks(self, sizes: dict[int, StorageUsage | None]) -> Iterable[Metric]:
        yield self._sizes_metric(
            "raft_log_bytes", "Bytes of the log on the disk.", {n: s and s.log_bytes for n, s in sizes.items()}
        )
        yield self._sizes_metric(
            "raft_snapshot_bytes",
            "Bytes of the snapshots on the disk.",
            {n: s and s.snapshot_bytes for n, s in sizes.items()},
        )
        free = {one.number: one.maintenance.disk_space.free_bytes for one in self._node.replicas}
        yield self._sizes_metric("disheap_disk_free_bytes", "Free bytes on the disk of the replica.", free)
        yield self._each(
            "disheap_disk_short",
            "1 while the disk has too little free space.",
            lambda one: one.maintenance.disk_space.is_short,
        )
        yield self._histogram(
            "raft_fsync_seconds", "Of one write of the log, its fsync included.", lambda one: one.group.write_seconds
        )

    def _of_sessions(self) -> Iterable[Metric]:
        yield self._each(
            "disheap_sessions",
            "Sessions of clients, this node's own included.",
            lambda one: len(one.group.sessions.table),
        )
        yield self._each(
            "disheap_commands_applied_total",
            "Commands that were carried out.",
            lambda one: one.group.sessions.applied_commands,
            "counter",
        )
        yield self._each(
            "disheap_commands_refused_total",
            "Commands that the machine refused.",
            lambda one: one.group.sessions.failed_commands,
            "counter",
        )
        yield self._each(
            "disheap_wrong_secrets_total",
            "Clients that named a session and not its secret.",
            lambda one: one.server.wrong_secrets,
            "counter",
        )
        yield self._each(
            "disheap_relayed_total",
            "Pushes of transient messages that passed by the leader without the log.",
            lambda one: one.server.relay.sent,
            "counter",
        )
        yield self._each(
            "disheap_relay_dropped_total",
            "Of these, pushes that were dropped: the client was not connected, or read too slowly.",
            lambda one: one.server.relay.dropped,
            "counter",
        )

    def _each(self, name: str, text: str, read: Callable[[Replica], float], kind: Kind = "gauge") -> Metric:
        samples: Samples = [((str(one.number),), float(read(one))) for one in self._node.replicas]
        return Metric(name, kind, text, ("group",), samples)

    def _histogram(self, name: str, text: str, read: Callable[[Replica], Histogram]) -> Metric:
        samples = [((str(one.number),), read(one).read()) for one in self._node.replicas]
        return Metric(name, "histogram", text, ("group",), samples)

    def _sizes_metric(self, name: str, text: str, values: dict[int, int | None]) -> Metric:
        samples: Samples = [((str(group),), value) for group, value in values.items() if value is not None]
        return Metric(name, "gauge", text, ("group",), samples)


def _counters(replica: Replica) -> Counters:
    return replica.group.counters


def _one(name: str, text: str, value: float) -> Metric:
    return Metric(name, "gauge", text, (), [((), float(value))])


def _of_machine(replica: Replica) -> list[Metric]:
    """With the group as the first label."""
    machine, group = replica.group.sessions.machine, str(replica.number)
    if not isinstance(machine, Measuring):
        return []
    found = list(machine.metrics(replica.group.now_ms()))[:MACHINE_METRICS_MAX]
    return [
        one._replace(
            labels=("group", *one.labels), samples=[((group, *labels), value) for labels, value in one.samples]
        )
        for one in found
    ]


def _joined(metrics: Iterable[Metric]) -> list[Metric]:
    """The samples of several groups belong to one metric."""
    by_name: dict[str, Metric] = {}
    for one in metrics:
        before = by_name.get(one.name)
        by_name[one.name] = one if before is None else before._replace(samples=[*before.samples, *one.samples])
    return list(by_name.values())
