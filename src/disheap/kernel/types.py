"""The words that go into the kernel and come out of it (Raft Figure 2; dissertation §3.10, §4, §6.4).

Values only: no behaviour beyond construction. Everything is immutable, so that a message can wait in a queue, be sent
twice or be kept by a simulator without a copy. Time is `Entry.time_ms`, given by the caller; the kernel has no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, NewType, TypeVar

E = TypeVar("E", bound=type[Enum])


def quick_members(enum: E) -> E:
    """Puts the members of an enum where a class keeps its attributes. Up to CPython 3.11, `Role.LEADER` calls a
    descriptor that is written in Python: 0.1 us, thirty times for each command. Later releases need no help."""
    for name, member in enum.__members__.items():
        type.__setattr__(enum, name, member)
    return enum


new_record = tuple.__new__
"""Makes a named tuple of all its fields, in their order. The tuple's own constructor is a Python function, and so one
call more, where it counts."""

Term = NewType("Term", int)
Index = NewType("Index", int)
NodeId = NewType("NodeId", int)

NOBODY = NodeId(0)
"""No vote, no leader. Real ids start at 1 and are never reused."""


@quick_members
class EntryKind(IntEnum):
    """What an entry's data is. The numbers are on disk and on the wire."""

    COMMANDS = 1  # a batch of command envelopes; the kernel never looks inside
    NOOP = 2  # a new leader's first entry (§5.4.2)
    MEMBERSHIP = 3  # an encoded `Membership`, in force from the moment it is appended (dissertation §4.1)
    SNAPSHOT_MARK = 4  # every node snapshots at this index


class Entry(NamedTuple):
    """One entry of the log. `data` is opaque to the kernel, except in a membership."""

    term: Term
    index: Index  # type: ignore[assignment]  # a field; tuple.index is not used
    kind: EntryKind
    time_ms: int
    data: bytes


class HardState(NamedTuple):
    """What must be durable before a reply (§5.1): the term and the vote given in it."""

    term: Term
    vote: NodeId


@quick_members
class Role(Enum):
    """What a node is in its term (§5.1). A pre-candidate asks for votes without a new term."""

    FOLLOWER = "follower"
    PRECANDIDATE = "precandidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Member(NamedTuple):
    """`record` is opaque here (name, addresses, incarnation); the kernel stores and sends it."""

    id: NodeId
    voter: bool
    record: bytes


class Membership(NamedTuple):
    """The members of a group. `last_id` is the highest id that was ever given, if that member is gone; else it may be
    0. `membership.last_id_of` reads it."""

    members: tuple[Member, ...]  # sorted by id
    last_id: int = 0


class SnapshotMeta(NamedTuple):
    """A snapshot stands for every entry up to and including `index`. `time_ms` is that entry's."""

    index: Index  # type: ignore[assignment]  # a field; tuple.index is not used
    term: Term
    time_ms: int
    membership: Membership


class TermRun(NamedTuple):
    """Entries from `first` up to the next run have this `term`. A list of runs is the whole log's term table."""

    first: Index
    term: Term


class Restored(NamedTuple):
    """What storage found at start. `tail` is the end of the log, at most `log_cache_bytes` of it, contiguous up to
    `last_index`. `memberships` are (index, data) of every MEMBERSHIP entry after the snapshot."""

    hard_state: HardState
    snapshot: SnapshotMeta
    first_index: Index  # oldest entry held; snapshot.index + 1 at most
    last_index: Index  # first_index - 1 when the log is empty
    runs: tuple[TermRun, ...]
    memberships: tuple[tuple[Index, bytes], ...]
    tail: tuple[Entry, ...]
    ambiguous_after: Index | None = None  # entries behind it may be lost, some before it superseded: no vote meanwhile
    applied: Index = Index(0)  # what the machine already holds: the snapshot's index


# --- messages between nodes ------------------------------------------------------------------------------------------


class VoteRequest(NamedTuple):
    """RequestVote (§5.2). `pre` asks without consequences (dissertation §9.6); then `term` is the term it would have.
    `transfer` marks a campaign that the leader asked for. A voter gives up the leader's lease for it only if the leader
    told it so. `round` numbers the sender's pre-votes; an answer repeats it."""

    source: NodeId
    target: NodeId
    term: Term
    last_index: Index
    last_term: Term
    pre: bool
    transfer: bool
    round: int = 0


class VoteReply(NamedTuple):
    """The answer to a `VoteRequest` (§5.2)."""

    source: NodeId
    target: NodeId
    term: Term
    granted: bool
    pre: bool
    round: int = 0  # of the pre-vote that it answers


class AppendRequest(NamedTuple):
    """AppendEntries (§5.3). `commit` is the leader's; the follower takes min(commit, last index of this message)."""

    source: NodeId
    target: NodeId
    term: Term
    previous_index: Index
    previous_term: Term
    entries: tuple[Entry, ...]
    commit: Index


class AppendReply(NamedTuple):
    """`index`: on success the last index known to match and durable; on refusal the `previous_index` refused. Then
    `hint_index` and `hint_term` name where the follower's log may agree (§5.3, term-aware)."""

    source: NodeId
    target: NodeId
    term: Term
    success: bool
    index: Index  # type: ignore[assignment]  # a field; tuple.index is not used
    hint_index: Index
    hint_term: Term


class Heartbeat(NamedTuple):
    """Keeps followers from campaigning. `commit` is bounded by what the follower is known to hold. `read` is the newest
    round of reads. `transferee` is the node that leadership is being handed to, `NOBODY` if there is none."""

    source: NodeId
    target: NodeId
    term: Term
    commit: Index
    read: int
    transferee: NodeId = NOBODY


class HeartbeatReply(NamedTuple):
    """The answer to a `Heartbeat`. `read` is the number of the round of reads that it confirms."""

    source: NodeId
    target: NodeId
    term: Term
    read: int


class SnapshotRequest(NamedTuple):
    """InstallSnapshot (§7) in chunks by `offset` (bytes); `done` marks the last."""

    source: NodeId
    target: NodeId
    term: Term
    snapshot: SnapshotMeta
    offset: int
    data: bytes
    done: bool


class SnapshotReply(NamedTuple):
    """`offset` is the next byte wanted. `installed` ends the transfer well; `failed` ends it badly and is said."""

    source: NodeId
    target: NodeId
    term: Term
    index: Index  # type: ignore[assignment]  # a field; tuple.index is not used
    offset: int
    installed: bool
    failed: bool


class TimeoutNow(NamedTuple):
    """Leadership transfer (dissertation §3.10): campaign now. It may be read long after the leader gave the transfer
    up, so it is no permission. The voters go by what the leader told them last."""

    source: NodeId
    target: NodeId
    term: Term


Message = (
    VoteRequest
    | VoteReply
    | AppendRequest
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | SnapshotRequest
    | SnapshotReply
    | TimeoutNow
)


# --- what comes out --------------------------------------------------------------------------------------------------


class Fetch(NamedTuple):
    """Read entries [first, last] from storage, as many as fit `max_bytes` (at least one), and answer with
    `Raft.fetched(reader, entries)`. `reader` is the slow peer, or this node itself for entries it must apply."""

    reader: NodeId
    first: Index
    last: Index
    max_bytes: int


class ChunkRead(NamedTuple):
    """Read the stored snapshot at `index` from `offset` and answer with `Raft.chunk_read(...)`."""

    target: NodeId
    index: Index  # type: ignore[assignment]  # a field; tuple.index is not used
    offset: int


class ChunkWrite(NamedTuple):
    """A piece of a snapshot from the leader, in order. The caller writes it and answers with `Raft.chunk_written`. When
    `done`, it first makes the snapshot durable, restores the machine, and tells storage to drop its log."""

    snapshot: SnapshotMeta
    offset: int
    data: bytes
    done: bool


class Write(NamedTuple):
    """The durable part of a `Ready`. Hard state is fsynced before any entry (pitfall 2). The first entry may lie at or
    before the last stored index: it and all behind it then supersede what is stored. Answer with
    `Raft.persisted(number)`; there is never a second `Write` before that."""

    number: int
    hard_state: HardState | None
    entries: tuple[Entry, ...]


class Read(NamedTuple):
    """A read that may be answered once `index` is applied (§6.4). `ok` is false when leadership was lost first."""

    context: int
    index: Index  # type: ignore[assignment]  # a field; tuple.index is not used
    ok: bool


class Ready(NamedTuple):
    """One answer to everything that went in since the last. Carry it out in this order. Send `messages` at once: a
    leader's appends go while its own disk writes (dissertation §10.2.1). Do `write`, and when it is durable send
    `held`. Apply `committed` to the machine, then call `Raft.applied_to(index)`."""

    messages: tuple[Message, ...]
    write: Write | None
    held: tuple[Message, ...]  # go only after `write` is durable
    committed: tuple[Entry, ...]
    fetches: tuple[Fetch, ...]
    chunk_reads: tuple[ChunkRead, ...]
    chunk_writes: tuple[ChunkWrite, ...]
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Bounds, each with its reason. Ticks are the caller's; the runtime makes one every 50 ms."""

    id: NodeId
    election_ticks: int = 20  # the shortest election timeout; the longest is twice this
    heartbeat_ticks: int = 2
    commit_ticks: int = 1  # how long an idle follower may lag in hearing of a commit
    pre_vote: bool = True
    check_quorum: bool = True
    append_bytes: int = 1 << 20  # entries in one AppendRequest: what a 1 Gbit/s link takes in about 8 ms
    inflight_messages: int = 64  # AppendRequests unanswered per peer
    inflight_bytes: int = 8 << 20  # the same in bytes
    uncommitted_bytes: int = 64 << 20  # proposals beyond this are refused until some commit
    log_cache_bytes: int = 16 << 20  # the tail kept in memory
    apply_bytes: int = 4 << 20  # entries in one `Ready.committed`
    chunk_timeout_ticks: int = 60  # a snapshot chunk unanswered this long is sent again
