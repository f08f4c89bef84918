"""A cluster in memory: nodes, disks, machines and a network that does what a script tells it.

A disk is what the kernel asks of storage: one queue of jobs, done in order, and durable when done. A crash loses every
job that was not. A machine is the number of entries that it has applied. `SafetyChecker` keeps these entries, once for
the whole cluster. It checks the safety properties of Raft Figure 3 after every step.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from disheap.errors import RequestError
from disheap.kernel import membership as memberships
from disheap.kernel.raft import Raft
from disheap.kernel.types import (
    NOBODY,
    AppendReply,
    AppendRequest,
    ChunkRead,
    ChunkWrite,
    Entry,
    EntryKind,
    Fetch,
    HardState,
    Index,
    KernelConfig,
    Member,
    Membership,
    Message,
    NodeId,
    Read,
    Restored,
    Role,
    SnapshotMeta,
    Term,
    TermRun,
    VoteReply,
    VoteRequest,
    Write,
)

ELECTION_TICKS = 5
CHUNK_BYTES = 7
SETTLE_STEPS = 20_000  # a cluster that still talks after so many has gone round in a circle

EMPTY = SnapshotMeta(Index(0), Term(0), 0, Membership(()))


def config(node: int, **changes: object) -> KernelConfig:
    """Bounds so small that every one of them is met within a few entries."""
    settings: dict[str, object] = {
        "election_ticks": ELECTION_TICKS,
        "heartbeat_ticks": 1,
        "append_bytes": 300,
        "inflight_messages": 3,
        "inflight_bytes": 600,
        "uncommitted_bytes": 4000,
        "log_cache_bytes": 1500,
        "apply_bytes": 300,
        "chunk_timeout_ticks": 6,
    }
    return KernelConfig(id=NodeId(node), **{**settings, **changes})  # type: ignore[arg-type]


def group(voters: Iterable[int], learners: Iterable[int] = ()) -> Membership:
    members = [Member(NodeId(node), True, b"v%d" % node) for node in voters]
    members += [Member(NodeId(node), False, b"l%d" % node) for node in learners]
    return Membership(tuple(sorted(members)))


def blank(membership: Membership, **changes: object) -> Restored:
    """A node that has just been set up."""
    restored = Restored(
        HardState(Term(0), NOBODY), EMPTY._replace(membership=membership), Index(1), Index(0), (), (), ()
    )
    return restored._replace(**changes)


def log_of(*terms: int, first: int = 1) -> tuple[Entry, ...]:
    """Entries with these terms, from `first` on."""
    return tuple(
        Entry(Term(term), Index(first + offset), EntryKind.COMMANDS, 0, b"%d.%d" % (term, first + offset))
        for offset, term in enumerate(terms)
    )


def snapshot_bytes(meta: SnapshotMeta) -> bytes:
    return b"the state at entry %d" % meta.index


class Disk:
    """What survives a crash."""

    def __init__(self, membership: Membership) -> None:
        self.hard_state = HardState(Term(0), NOBODY)
        self.snapshot = EMPTY._replace(membership=membership)
        self.first_index = Index(1)
        self.entries: list[Entry] = []
        self.kept: dict[int, SnapshotMeta] = {}  # the newest two, as storage keeps them

    @classmethod
    def holding(cls, membership: Membership, entries: tuple[Entry, ...], hard_state: tuple[int, int]) -> Disk:
        disk = cls(membership)
        disk.entries = list(entries)
        disk.hard_state = HardState(Term(hard_state[0]), NodeId(hard_state[1]))
        return disk

    @property
    def last_index(self) -> Index:
        return Index(self.first_index + len(self.entries) - 1)

    def term_at(self, index: int) -> Term | None:
        if self.first_index <= index <= self.last_index:
            return self.entries[index - self.first_index].term
        return self.snapshot.term if index == self.snapshot.index else None

    def holds(self, index: int, term: int) -> bool:
        return self.term_at(index) == term or index < self.first_index

    def write(self, hard_state: HardState | None, entries: tuple[Entry, ...]) -> None:
        if hard_state is not None:
            self.hard_state = hard_state
        if entries:
            assert self.first_index <= entries[0].index <= self.last_index + 1, "a hole in the log"
            del self.entries[entries[0].index - self.first_index :]
            self.entries += entries

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        found: list[Entry] = []
        if first < self.first_index:
            return ()
        for entry in self.entries[first - self.first_index : last - self.first_index + 1]:
            max_bytes -= len(entry.data)
            if found and max_bytes < 0:
                break
            found.append(entry)
        return tuple(found)

    def keep_snapshot(self, meta: SnapshotMeta) -> None:
        self.snapshot = meta
        self.kept[meta.index] = meta
        for old in sorted(self.kept)[:-2]:
            del self.kept[old]

    def compact(self, first_index: int) -> None:
        if first_index > self.first_index:
            del self.entries[: first_index - self.first_index]
            self.first_index = Index(first_index)

    def install(self, meta: SnapshotMeta) -> None:
        self.keep_snapshot(meta)
        self.entries = []
        self.first_index = Index(meta.index + 1)

    def restored(self, tail_entries: int = 3, ambiguous_after: Index | None = None) -> Restored:
        runs: list[TermRun] = []
        for entry in self.entries:
            if not runs or runs[-1].term != entry.term:
                runs.append(TermRun(entry.index, entry.term))
        changes = [
            (entry.index, entry.data)
            for entry in self.entries
            if entry.kind == EntryKind.MEMBERSHIP and entry.index > self.snapshot.index
        ]
        return Restored(
            self.hard_state,
            self.snapshot,
            self.first_index,
            self.last_index,
            tuple(runs),
            tuple(changes),
            tuple(self.entries[-tail_entries:]),
            ambiguous_after,
            self.snapshot.index,
        )


@dataclass
class WriteJob:
    write: Write
    held: tuple[Message, ...]


Job = WriteJob | Fetch | ChunkRead | ChunkWrite


class Node:
    def __init__(self, cluster: Cluster, id: NodeId, disk: Disk, settings: dict[str, object]) -> None:
        self.cluster = cluster
        self.id = id
        self.disk = disk
        self.settings = settings
        self.incarnation = 0
        self.is_up = False
        self.start()

    def start(self, ambiguous_after: Index | None = None) -> None:
        self.incarnation += 1
        seed = f"{self.cluster.seed}/{self.id}/{self.incarnation}"
        self.raft = Raft(
            config(self.id, **self.settings),
            self.disk.restored(ambiguous_after=ambiguous_after),
            random.Random(seed),
        )
        self.jobs: deque[Job] = deque()
        self.to_apply: deque[tuple[Entry, ...]] = deque()
        self.partial = b""
        self.machine = self.disk.snapshot.index  # entries applied
        self.reads: list[Read] = []
        self.is_up = True

    def crash(self, written_entries: int | None = None) -> None:
        """Lose what is not durable. Of the write in progress, `written_entries` may have reached the disk."""
        if written_entries is not None and self.jobs and isinstance(self.jobs[0], WriteJob):
            write = self.jobs[0].write
            self.disk.write(write.hard_state, write.entries[:written_entries])
        self.is_up = False
        self.jobs.clear()
        self.to_apply.clear()

    def pump(self) -> None:
        """Carry out every `Ready` that is due, up to where the disk and the machine take their time."""
        while self.is_up and self.raft.has_ready():
            ready = self.raft.ready()
            for message in ready.messages:
                self.cluster.send(self, message)
            if ready.write is not None:
                assert not any(isinstance(job, WriteJob) for job in self.jobs), "two writes in flight"
                self.cluster.safety.saw_entries(ready.write.entries, self.raft.term_at)
                self.jobs.append(WriteJob(ready.write, ready.held))
            else:
                assert not ready.held
            self.jobs += (*ready.fetches, *ready.chunk_reads, *ready.chunk_writes)
            self.reads += ready.reads
            for read in ready.reads:
                self.cluster.safety.read_answered(read)
            self.cluster.safety.check_commit(self, self.cluster)
            if ready.committed:
                self.to_apply.append(ready.committed)

    def run_job(self) -> None:
        """What the disk does next."""
        match self.jobs.popleft():
            case WriteJob(write, held):
                self.disk.write(write.hard_state, write.entries)
                self.raft.persisted(write.number)
                for message in held:
                    self.cluster.send(self, message)
            case Fetch(reader, first, last, max_bytes):
                self.raft.fetched(reader, self.disk.read(first, last, max_bytes))
            case ChunkRead(target, index, offset):
                self._read_chunk(target, index, offset)
            case ChunkWrite() as chunk:
                self._write_chunk(chunk)
        self.pump()

    def run_apply(self) -> None:
        """What the machine does next."""
        entries = self.to_apply.popleft()
        for entry in entries:
            assert entry.index == self.machine + 1, "applied out of order"
            self.machine = entry.index
            self.cluster.safety.applied(entry)
        self.raft.applied_to(self.machine)
        self.pump()

    def take_snapshot(self, trailing: int = 0) -> None:
        """At what the machine holds, keeping `trailing` entries before it in the log."""
        index = self.machine
        if index <= self.disk.snapshot.index:
            return
        term = self.raft.term_at(index)
        assert term is not None
        entry = self.disk.entries[index - self.disk.first_index]
        meta = SnapshotMeta(index, term, entry.time_ms, self.raft.membership_at(index))
        self.cluster.safety.took_snapshot(meta)
        self.disk.keep_snapshot(meta)
        self.disk.compact(max(1, index + 1 - trailing))
        self.raft.snapshot_taken(meta, self.disk.first_index)
        self.pump()

    def _read_chunk(self, target: NodeId, index: Index, offset: int) -> None:
        meta = self.disk.kept.get(index)
        if meta is None:
            self.raft.chunk_read_failed(target, index)
            return
        data = snapshot_bytes(meta)
        chunk = data[offset : offset + CHUNK_BYTES]
        self.raft.chunk_read(target, index, offset, chunk, offset + len(chunk) >= len(data))

    def _write_chunk(self, chunk: ChunkWrite) -> None:
        if chunk.offset == 0:
            self.partial = b""
        ok = len(self.partial) == chunk.offset
        self.partial += chunk.data
        if chunk.done:
            assert not self.jobs, "a job behind the one that replaces the log"
            assert not self.to_apply, "an entry of the old log is still to be applied"
            ok = ok and self.partial == snapshot_bytes(chunk.snapshot)
            if ok:
                self.cluster.safety.took_snapshot(chunk.snapshot)
                self.disk.install(chunk.snapshot)
                self.machine = chunk.snapshot.index
        self.raft.chunk_written(chunk.snapshot, chunk.offset, ok)


@dataclass
class SafetyChecker:
    """What must hold for the whole cluster (Raft Figure 3), checked after every step."""

    leaders: dict[int, int] = field(default_factory=dict)  # term -> its one leader
    votes: dict[tuple[int, int], int] = field(default_factory=dict)  # (voter, term) -> candidate
    entries: dict[tuple[int, int], Entry] = field(default_factory=dict)  # (index, term) -> entry
    before: dict[tuple[int, int], int] = field(default_factory=dict)  # (index, term) -> term of the entry before it
    committed: dict[int, tuple[int, int]] = field(default_factory=dict)  # index -> (its term, committed in term)
    leader_ends: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # (node, term) -> index, its term
    reads: dict[int, int] = field(default_factory=dict)  # context -> committed when it was asked
    commits: dict[tuple[int, int], int] = field(default_factory=dict)  # (node, incarnation) -> commit

    def saw_entries(self, entries: tuple[Entry, ...], term_at: Callable[[Index], Term | None]) -> None:
        """Log matching (§5.3): an index and a term name one entry, and the whole log before it."""
        for entry in entries:
            key = (entry.index, entry.term)
            assert self.entries.setdefault(key, entry) == entry, "log matching: two entries of one index and term"
            previous = term_at(Index(entry.index - 1))
            if previous is not None:
                assert self.before.setdefault(key, previous) == previous, "log matching: two histories"

    def read_asked(self, context: int) -> None:
        """What was committed anywhere before the read came in, its answer must contain (§6.4)."""
        self.reads[context] = max(self.committed, default=0)

    def read_answered(self, read: Read) -> None:
        if read.ok and read.context in self.reads:
            assert read.index >= self.reads[read.context], "a stale read"

    def saw_vote(self, message: VoteReply) -> None:
        candidate = self.votes.setdefault((message.source, message.term), message.target)
        assert candidate == message.target, f"node {message.source} voted twice in term {message.term}"

    def applied(self, entry: Entry) -> None:
        """State-machine safety (§5.4.3), against what was seen to be committed."""
        assert self.committed[entry.index][0] == entry.term, f"entry {entry.index} applied and not committed"
        assert self.entries[(entry.index, entry.term)] == entry

    def took_snapshot(self, meta: SnapshotMeta) -> None:
        assert self.committed[meta.index][0] == meta.term, "snapshot of what is not committed"
        for index in range(meta.index, 0, -1):
            entry = self.entries[(index, self.committed[index][0])]
            if entry.kind == EntryKind.MEMBERSHIP:
                assert memberships.decode(entry.data) == meta.membership, "stale membership in a snapshot"
                break

    def check(self, cluster: Cluster) -> None:
        up = [node for node in cluster.nodes.values() if node.is_up]
        for node in sorted(up, key=lambda node: not node.raft.is_leader):
            self.check_commit(node, cluster)
            self._check_membership(node)
        for node in up:
            if node.raft.is_leader:
                self._check_leader(node)

    def check_commit(self, node: Node, cluster: Cluster) -> None:
        raft, key = node.raft, (int(node.id), node.incarnation)
        known = self.commits.get(key, 0)
        assert raft.commit >= known, "the commit index went back"
        assert node.disk.snapshot.index <= raft.commit <= raft.last_index
        for index in range(max(known, node.disk.snapshot.index) + 1, raft.commit + 1):
            term = raft.term_at(Index(index))
            assert term is not None
            if index not in self.committed:
                self._check_quorum(node, cluster)
                self.committed[index] = (term, raft.term)
            assert self.committed[index][0] == term, f"two entries committed at {index}"
        self.commits[key] = raft.commit

    def _check_quorum(self, node: Node, cluster: Cluster) -> None:
        """Committed means: durable with a majority, the leader's own disk counting only when it has it too."""
        raft = node.raft
        term = raft.term_at(raft.commit)
        assert term is not None
        voters = [member.id for member in raft.membership.members if member.voter]
        durable = [voter for voter in voters if cluster.nodes[voter].disk.holds(raft.commit, term)]
        assert 2 * len(durable) > len(voters) or not raft.is_leader, f"{raft.commit} committed on {durable} of {voters}"

    def _check_leader(self, node: Node) -> None:
        raft = node.raft
        assert self.leaders.setdefault(raft.term, node.id) == node.id, f"two leaders in term {raft.term}"
        key = (int(node.id), int(raft.term))
        if key in self.leader_ends:
            index, term = self.leader_ends[key]
            assert raft.last_index >= index, "a leader cut its own log"
            assert raft.term_at(Index(index)) in (term, None), "a leader overwrote its own log"
        else:
            for index, (term, committed_in) in self.committed.items():
                if committed_in < raft.term and index >= raft.first_index:
                    assert raft.term_at(Index(index)) == term, f"leader {node.id} of {raft.term} lacks entry {index}"
        self.leader_ends[key] = (raft.last_index, raft.term_at(raft.last_index) or 0)

    def _check_membership(self, node: Node) -> None:
        """In force is the last membership in the log, committed or not (dissertation §4.1)."""
        raft = node.raft
        expected = raft.membership_at(node.disk.snapshot.index)
        for index in range(raft.last_index, node.disk.snapshot.index, -1):
            entry = self.entries.get((index, raft.term_at(Index(index)) or 0))
            if entry is not None and entry.kind == EntryKind.MEMBERSHIP:
                expected = memberships.decode(entry.data)
                break
        assert raft.membership == expected, "the membership in force is not the last in the log"


class Cluster:
    """Nodes by id. Scripts speak to it; `settle` lets everything happen that does not need time."""

    def __init__(
        self,
        voters: Iterable[int] = (1, 2, 3),
        learners: Iterable[int] = (),
        *,
        strangers: Iterable[int] = (),
        disks: dict[int, Disk] | None = None,
        seed: int = 1,
        **settings: object,
    ) -> None:
        self.seed = seed
        self.keeps_leases = bool(settings.get("check_quorum", True))
        self.safety = SafetyChecker()
        self.network: list[Message] = []
        self.delivered: list[Message] = []
        self.cuts: dict[tuple[int, int], bool] = {}
        self.slow_disks: dict[int, bool] = {}
        self.frozen: dict[int, list[Message]] = {}  # what waits unread there
        self.filters: list[Callable[[Message], bool]] = []
        membership = group(voters, learners)
        self.nodes: dict[NodeId, Node] = {}
        for member in membership.members:
            disk = (disks or {}).get(member.id) or Disk(membership)
            self.safety.saw_entries(tuple(disk.entries), lambda index, disk=disk: disk.term_at(index) or Term(0))
            self.nodes[member.id] = Node(self, member.id, disk, settings)
        for id in strangers:
            self.nodes[NodeId(id)] = Node(self, NodeId(id), Disk(Membership(())), settings)

    # --- looking -----------------------------------------------------------------------------------------------------

    def __getitem__(self, node: int) -> Node:
        return self.nodes[NodeId(node)]

    @property
    def leader(self) -> Node | None:
        """The live leader of the latest term."""
        leaders = [node for node in self.nodes.values() if node.is_up and node.raft.is_leader]
        return max(leaders, key=lambda node: node.raft.term, default=None)

    def data_applied(self, node: int) -> list[bytes]:
        """The commands that the node's machine holds, in order."""
        entries = [
            self.safety.entries[(index, self.safety.committed[index][0])] for index in range(1, self[node].machine + 1)
        ]
        return [entry.data for entry in entries if entry.kind == EntryKind.COMMANDS]

    # --- the network -------------------------------------------------------------------------------------------------

    def send(self, sender: Node, message: Message) -> None:
        assert message.source == sender.id
        self._check_durable(sender, message)
        if isinstance(message, AppendRequest):
            raft = sender.raft
            if raft.term == message.term and raft.is_leader:
                self.safety.saw_entries(message.entries, raft.term_at)
        if isinstance(message, VoteReply) and message.granted and not message.pre:
            self.safety.saw_vote(message)
        is_cut = self.cuts.get((message.source, message.target), False)
        if message.target in self.nodes and not is_cut and not any(drops(message) for drops in self.filters):
            self.network.append(message)

    def deliver(self, position: int = 0, *, keep: bool = False) -> None:
        """Deliver one message; with `keep`, it stays in the network and comes again."""
        message = self.network[position] if keep else self.network.pop(position)
        node = self.nodes[message.target]
        if message.target in self.frozen:
            self.frozen[message.target].append(message)
        elif node.is_up and not self.cuts.get((message.source, message.target), False):
            self.delivered.append(message)
            self._step(node, message)
            node.pump()

    def _step(self, node: Node, message: Message) -> None:
        """A leader that keeps its lease makes way only for the node that it is handing over to."""
        raft = node.raft
        term, is_leader, transferee = raft.term, raft.is_leader, raft.transferee
        raft.step(message)
        if isinstance(message, VoteRequest) and is_leader and self.keeps_leases and message.source != transferee:
            assert raft.term == term, f"{message} deposes a leader that does not hand over to its sender"

    def inject(self, message: Message) -> None:
        """A message out of nowhere: late, repeated or made up."""
        node = self.nodes[message.target]
        node.raft.step(message)
        node.pump()
        self.settle()

    def cut(self, source: int, target: int) -> None:
        """One way only."""
        self.cuts[(source, target)] = True

    def partition(self, *sides: Iterable[int]) -> None:
        """Nodes hear only those on their own side."""
        side_of = {node: side for side, nodes in enumerate(sides) for node in nodes}
        for source in self.nodes:
            for target in self.nodes:
                self.cuts[(source, target)] = side_of.get(source) != side_of.get(target)

    def isolate(self, node: int) -> None:
        self.partition([node], [other for other in self.nodes if other != node])

    def freeze(self, node: int) -> None:
        """It reads nothing and its clock stands still, until `thaw`; a crash ends that, and loses what waits."""
        self.frozen.setdefault(node, [])

    def thaw(self, node: int) -> None:
        """What waits is read next, in its order."""
        self.network[:0] = self.frozen.pop(node, [])

    def heal(self) -> None:
        self.cuts.clear()
        self.filters.clear()
        self.slow_disks.clear()
        for node in list(self.frozen):
            self.thaw(node)

    def drop(self, drops: Callable[[Message], bool]) -> None:
        """Lose the messages that this is true for, until `heal`."""
        self.filters.append(drops)

    # --- time --------------------------------------------------------------------------------------------------------

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            for node in self.nodes.values():
                self.tick_one(node.id)
            self.settle()

    def tick_one(self, node: int, times: int = 1) -> None:
        for _ in range(times):
            if self[node].is_up and node not in self.frozen:
                self[node].raft.tick()
                self[node].pump()

    def settle(self) -> None:
        """Messages, disks and machines, in turns, until nothing is left to do."""
        for _ in range(SETTLE_STEPS):
            if not self._step_once():
                self.safety.check(self)
                return
        raise AssertionError("the cluster never comes to rest")

    def tick_until(self, holds: Callable[[], bool], ticks: int) -> None:
        for _ in range(ticks):
            if holds():
                return
            self.tick()
        assert holds(), f"not within {ticks} ticks"

    # --- what scripts do ---------------------------------------------------------------------------------------------

    def elect(self, node: int) -> Node:
        """Make it the leader: its clock runs out first."""
        self[node].raft.tick()
        self.tick_one(node, 2 * ELECTION_TICKS - 1)
        self.settle()
        assert self[node].raft.is_leader, f"node {node} was not elected"
        return self[node]

    def propose(self, node: int, data: bytes = b"x", *, settle: bool = True) -> Index:
        raft = self[node].raft
        index = raft.propose(EntryKind.COMMANDS, 0, data)
        self._proposed(node, index, EntryKind.COMMANDS, data)
        if settle:
            self.settle()
        return index

    def propose_change(self, node: int, membership: Membership, *, settle: bool = True) -> Index:
        index = self[node].raft.propose_change(membership, 0)
        self._proposed(node, index, EntryKind.MEMBERSHIP, memberships.encode(membership))
        if settle:
            self.settle()
        return index

    def crash(self, node: int, written_entries: int | None = None) -> None:
        self[node].crash(written_entries)
        self.frozen.pop(node, None)

    def restart(self, node: int, ambiguous_after: Index | None = None) -> None:
        if self[node].is_up:
            self.crash(node)
        self[node].start(ambiguous_after)

    def hold_disk(self, node: int) -> None:
        """Its jobs wait until `heal`, or until a script runs them."""
        self.slow_disks[node] = True

    def release_disk(self, node: int) -> None:
        self.slow_disks.pop(node, None)
        self.settle()

    def check_liveness(self) -> None:
        """When all nodes are up and connected, a leader is found, and an entry is committed and applied everywhere
        within a bound. Nothing that happened before may have left a node stuck."""
        self.heal()
        for node in self.nodes.values():
            if not node.is_up:
                self.restart(node.id)
            node.raft.hold_back(False)
        self.settle()
        self.tick_until(self._takes_proposals, 30 * ELECTION_TICKS)
        leader = self.leader
        assert leader is not None
        index = self.propose(leader.id, b"still alive")
        self.tick_until(lambda: self._has_everywhere(index), 20 * ELECTION_TICKS)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _proposed(self, node: int, index: Index, kind: EntryKind, data: bytes) -> None:
        raft = self[node].raft
        self.safety.saw_entries((Entry(raft.term, index, kind, 0, data),), lambda _: None)
        self[node].pump()

    def _takes_proposals(self) -> bool:
        leader = self.leader
        return leader is not None and leader.raft.transferee == NOBODY and leader.raft.commit == leader.raft.last_index

    def _has_everywhere(self, index: Index) -> bool:
        """On every member; a node that was removed need not hear of it."""
        leader = self.leader
        members = leader.raft.membership.members if leader is not None else ()
        return bool(members) and all(self[member.id].machine >= index for member in members)

    def _step_once(self) -> bool:
        moved = False
        if self.network:
            self.deliver()
            moved = True
        for node in self.nodes.values():
            if node.is_up and node.jobs and not self.slow_disks.get(node.id):
                node.run_job()
                moved = True
            if node.is_up and node.to_apply:
                node.run_apply()
                moved = True
        self.safety.check(self)
        return moved

    def _check_durable(self, sender: Node, message: Message) -> None:
        """§5.1 and Figure 2: stable storage comes before the answer."""
        disk = sender.disk
        if isinstance(message, VoteRequest | VoteReply) and message.pre:
            return
        assert disk.hard_state.term >= message.term, f"{message} went out before its term was durable"
        if isinstance(message, VoteReply) and message.granted and disk.hard_state.term == message.term:
            assert disk.hard_state.vote == message.target, "a vote went out before it was durable"
        if isinstance(message, AppendReply) and message.success:
            assert message.index <= max(disk.last_index, disk.snapshot.index), "acknowledged before it was durable"


def refused(action: Callable[[], object]) -> type[RequestError] | None:
    """The class of the refusal, or None if there was none."""
    try:
        action()
    except RequestError as error:
        return type(error)
    return None


def roles(cluster: Cluster) -> dict[int, Role]:
    return {int(node.id): node.raft.role for node in cluster.nodes.values() if node.is_up}
