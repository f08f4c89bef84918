"""One Raft node, sans-IO (Raft Figure 2; dissertation Figure 3.1).

`Raft` is the kernel's only public type besides the values in `types`. Inputs go in through its methods, and one `Ready`
says what to do next. It has no clock, socket, file, thread or entropy. Time is `tick`, randomness is the generator
given to it, and the same inputs with the same seed give the same `Ready`s. This module dispatches by term, and leaves
each rule to the module named after it.
"""

from __future__ import annotations

import random
from typing import NamedTuple, assert_never

from disheap.errors import NotLeader
from disheap.kernel import applying, election, quorum, replication, snapshots, transfer
from disheap.kernel.state import State
from disheap.kernel.types import (
    NOBODY,
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    Index,
    KernelConfig,
    Membership,
    Message,
    NodeId,
    Ready,
    Restored,
    Role,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
    Term,
    TermRun,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    new_record,
)


class PeerStatus(NamedTuple):
    """What a leader knows of a peer, for status pages. `state` is probe, replicate or snapshot."""

    id: NodeId
    match: Index
    next: Index
    state: str
    recently_active: bool


class Raft:
    """One Raft node as a pure function of its inputs. The package's docstring says how to drive it."""

    def __init__(self, config: KernelConfig, restored: Restored, random: random.Random) -> None:
        self._state = State(config, restored, random)
        self._fetched: tuple[Entry, ...] = ()  # committed entries that storage has read for us
        self._has_input = False

    # --- what goes in ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One interval of the clock has passed."""
        self._has_input = True
        if self._state.role is Role.LEADER:
            _tick_leader(self._state)
        else:
            election.tick(self._state)

    def step(self, message: Message) -> None:
        """A message from another node. What is not for us, or answers a question we did not ask, is ignored."""
        state = self._state
        if message.target != state.id or message.source == state.id or _is_from_stranger(state, message):
            return
        self._has_input = True
        if isinstance(message, VoteRequest) and election.is_held_back(state, message):
            return  # a live leader is not campaigned away, and its term is not disturbed (pitfall 27)
        if message.term > state.term and not _speaks_of_a_future_term(message):
            state.become_follower(message.term, NOBODY)
        if message.term < state.term:
            _answer_stale(state, message)
        else:
            _dispatch(state, message)

    def propose(self, kind: EntryKind, time_ms: int, data: bytes) -> Index:
        """Append to the leader's log. Raises `NotLeader`, or `Overloaded` while too much is uncommitted or leadership
        is being transferred; then nothing was done."""
        index = replication.propose(self._state, kind, time_ms, data)
        self._has_input = True
        return index

    def propose_change(self, membership: Membership, time_ms: int) -> Index:
        """The whole new membership, one voter apart at most from the one in force. Raises `InvalidArgument`,
        `Overloaded` while an earlier change is not committed, or `NotLeader`."""
        index = replication.propose_change(self._state, membership, time_ms)
        self._has_input = True
        return index

    def read_index(self, context: int) -> None:
        """Ask for an index at which a linearizable read may be answered; it comes in `Ready.reads`."""
        self._lead()
        self._state.reads.add(context)

    def transfer_leadership(self, target: NodeId) -> None:
        """Hand over to `target`, or to the most caught-up voter for NOBODY. Raises `InvalidArgument` for a node that
        does not vote. Given up after an election timeout."""
        self._lead()
        transfer.begin(self._state, target)

    def hold_back(self, is_held_back: bool) -> None:
        """Whether this node shall begin no campaign, though it may. It votes, follows and goes on leading as before."""
        self._state.is_held_back = is_held_back

    def persisted(self, number: int) -> None:
        """The `Write` of that number is durable."""
        state = self._state
        if not state.outbox.persisted(number):
            return
        self._has_input = True
        if state.role is Role.CANDIDATE:
            election.on_persisted(state)
        if state.ambiguous_after is not None:
            replication.resolve_ambiguity(state)
        if state.role is Role.LEADER:
            replication.commit(state)

    def fetched(self, reader: NodeId, entries: tuple[Entry, ...]) -> None:
        """The answer to a `Fetch`; empty when storage no longer has the first entry."""
        self._has_input = True
        if reader != self._state.id:
            replication.on_fetched(self._state, reader, entries)
        else:
            self._fetched = applying.on_fetched(self._state, entries) or self._fetched

    def applied_to(self, index: Index) -> None:
        """The machine has applied up to `index`."""
        if applying.on_applied(self._state, index):
            self._has_input = True

    def chunk_read(self, target: NodeId, index: Index, offset: int, data: bytes, done: bool) -> None:
        """The answer to a `ChunkRead`."""
        self._has_input = True
        snapshots.on_chunk_read(self._state, target, index, offset, data, done)

    def chunk_read_failed(self, target: NodeId, index: Index) -> None:
        """The snapshot at `index` is gone or cannot be read."""
        self._has_input = True
        snapshots.on_chunk_read_failed(self._state, target, index)

    def chunk_written(self, snapshot: SnapshotMeta, offset: int, ok: bool) -> None:
        """The answer to a `ChunkWrite`. For the last one, ok means: durable, restored, and the old log dropped."""
        self._has_input = True
        snapshots.on_chunk_written(self._state, snapshot, offset, ok)

    def snapshot_taken(self, meta: SnapshotMeta, first_index: Index) -> None:
        """Our own snapshot is durable, and storage holds the log from `first_index` on."""
        self._state.log.snapshot_taken(meta, first_index)
        self._state.members.forget_before(self._state.log.snapshot.index)

    def unreachable(self, peer: NodeId) -> None:
        """The connection to the peer was lost, and what was on it."""
        self._has_input = True
        replication.on_unreachable(self._state, peer)

    # --- what comes out ----------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether anything went in since the last `ready()` that there is something to do about. Of three voters, the
        second answer to an entry that is committed already is nothing to a leader. That its own write is durable is
        nothing to a follower whose acknowledgement the write has held."""
        if self._has_input and not self._fetched and _has_nothing_to_do(self._state):
            self._has_input = False
        return self._has_input

    def ready(self) -> Ready:
        """All there is to do now; may be empty."""
        state, outbox = self._state, self._state.outbox
        self._has_input = False
        if state.role is Role.LEADER:
            _send_as_leader(state)
        committed = self._fetched or applying.next_batch(state)
        self._fetched = ()
        if state.receiving is not None:
            snapshots.release_final(state)
        write, held = (None, ()) if state.is_installing else outbox.take_write()
        return new_record(Ready, (outbox.take_messages(), write, held, committed, *outbox.take_requests()))

    # --- what can be seen --------------------------------------------------------------------------------------------

    @property
    def id(self) -> NodeId:
        """The id of this node."""
        return self._state.id

    @property
    def term(self) -> Term:
        """The newest term that this node knows."""
        return self._state.term

    @property
    def role(self) -> Role:
        """What this node is in that term."""
        return self._state.role

    @property
    def leader(self) -> NodeId:
        """The id of the leader of this term, `NOBODY` if it is not known."""
        return self._state.leader

    @property
    def is_leader(self) -> bool:
        """Whether this node leads in its term. Another node may lead in a newer one."""
        return self._state.role is Role.LEADER

    def is_led_by(self, leader: NodeId, is_leader: bool) -> bool:
        """Whether `leader` and `is_leader` are still what they were. Asked several times for each command."""
        state = self._state
        return state.leader == leader and (state.role is Role.LEADER) == is_leader

    @property
    def commit(self) -> Index:
        """The index of the last entry that is known to be committed."""
        return self._state.log.commit

    @property
    def commit_heard(self) -> Index:
        """The commit index that the leader said last, which may be beyond our own log. 0 before any leader has."""
        return self._state.commit_heard

    @property
    def knows_commit(self) -> bool:
        """Whether the commit index is one of this term (§5.4.2, §8). A follower must also have taken entries from this
        term's leader: before, its own index may be from before it was down."""
        state = self._state
        return state.has_committed_in_term and (self.is_leader or state.verified > 0)

    @property
    def applied(self) -> Index:
        """The index of the last entry that the state machine has applied."""
        return self._state.log.applied

    @property
    def first_index(self) -> Index:
        """The index of the first entry in the log, whether it is in memory or in storage alone."""
        return self._state.log.first_index

    @property
    def last_index(self) -> Index:
        """The index of the last entry in the log, durable or not."""
        return self._state.log.last_index

    @property
    def last_time_ms(self) -> int:
        """The time of the last entry in the log; a leader's own times start from there."""
        return self._state.log.last_time_ms

    @property
    def membership(self) -> Membership:
        """The membership in force: the last one in the log, committed or not."""
        return self._state.members.current

    @property
    def membership_index(self) -> Index:
        """The index of the entry, or of the snapshot, that has brought the membership in force."""
        return self._state.members.index

    @property
    def has_committed_in_term(self) -> bool:
        """Whether a leader has committed an entry of its own term. Before, it may change no membership."""
        return self._state.has_committed_in_term

    @property
    def is_ambiguous(self) -> bool:
        """The end of our log may be missing; storage keeps that in mind until this turns false."""
        return self._state.ambiguous_after is not None

    @property
    def ambiguous_after(self) -> Index | None:
        """The end of our log is ambiguous until there are entries behind this one."""
        return self._state.ambiguous_after

    @property
    def log_cache_bytes(self) -> int:
        """The size of the entries in memory: the end of the log, and all that is not yet durable."""
        return self._state.log.cache_bytes

    @property
    def transferee(self) -> NodeId:
        """The node that leadership is being handed to, `NOBODY` if there is none."""
        return self._state.transferee

    def membership_at(self, index: Index) -> Membership:
        """The membership as of `index`, for the snapshot taken there."""
        return self._state.members.at(index)

    def term_at(self, index: Index) -> Term | None:
        """The term of the entry at `index`. Returns None if the log does not hold that entry."""
        return self._state.log.term_at(index)

    @property
    def snapshot_index(self) -> Index:
        """The index of this node's newest snapshot in storage."""
        return self._state.log.snapshot.index

    @property
    def runs(self) -> tuple[TermRun, ...]:
        """The terms of the whole log, `first_index` to `last_index`."""
        return self._state.log.runs

    def peers(self) -> tuple[PeerStatus, ...]:
        """Empty on a node that does not lead."""
        return tuple(
            PeerStatus(peer, progress.match, progress.next, progress.phase.value, progress.active)
            for peer, progress in self._state.progress.items()
        )

    def _lead(self) -> None:
        if self._state.role is not Role.LEADER:
            raise NotLeader("")
        self._has_input = True


_ANSWERS = (AppendReply, HeartbeatReply, SnapshotReply, VoteReply)

# --- dispatch --------------------------------------------------------------------------------------------------------


def _is_from_stranger(state: State, message: Message) -> bool:
    """Answers count only from those that we lead or ask. Requests are heard from anybody (dissertation §4.1). A node's
    own membership may be the one that is stale (pitfall 8)."""
    return isinstance(message, _ANSWERS) and message.source not in state.members.ids


def _speaks_of_a_future_term(message: Message) -> bool:
    """A pre-vote, asked for or granted, names a term that nobody has entered (dissertation §9.6, pitfall 19)."""
    match message:
        case VoteRequest():
            return message.pre
        case VoteReply():
            return message.pre and message.granted
        case _:
            return False


def _answer_stale(state: State, message: Message) -> None:
    """From an earlier term: requests are refused in ours, answers come too late."""
    match message:
        case VoteRequest():
            election.refuse_stale(state, message)
        case AppendRequest() | Heartbeat() | SnapshotRequest():
            replication.refuse_stale(state, message.source)
        case VoteReply() | AppendReply() | HeartbeatReply() | SnapshotReply() | TimeoutNow():
            pass
        case _:
            assert_never(message)


def _dispatch(state: State, message: Message) -> None:
    """Handles a message of this node's own term, or a pre-vote of the next."""
    match message:  # the most frequent first
        case AppendReply() | HeartbeatReply() | SnapshotReply():
            if message.source in state.progress:
                _lead(state, message)
        case AppendRequest() | Heartbeat() | SnapshotRequest():
            if state.role is not Role.LEADER:
                _follow(state, message)
        case VoteRequest():
            election.on_vote_request(state, message)
        case VoteReply():
            election.on_vote_reply(state, message)
        case TimeoutNow():
            election.on_timeout_now(state, message)
        case _:
            assert_never(message)


def _follow(state: State, message: AppendRequest | Heartbeat | SnapshotRequest) -> None:
    if not _is_still_asked_to_lead(state, message):
        state.hear_leader(message.source)
    match message:
        case AppendRequest():
            replication.on_append(state, message)
            replication.resolve_ambiguity(state)
        case Heartbeat():
            replication.on_heartbeat(state, message)
        case SnapshotRequest():
            snapshots.on_request(state, message)
        case _:
            assert_never(message)


def _is_still_asked_to_lead(state: State, message: AppendRequest | Heartbeat | SnapshotRequest) -> bool:
    """The leader's heartbeats say that it still hands over to us: they do not end our campaign for it."""
    return state.is_asked_to_lead and isinstance(message, Heartbeat) and message.transferee == state.id


def _lead(state: State, message: AppendReply | HeartbeatReply | SnapshotReply) -> None:
    match message:
        case AppendReply():
            replication.on_append_reply(state, message)
        case HeartbeatReply():
            replication.on_heartbeat_reply(state, message)
            _confirm_reads(state)
        case SnapshotReply():
            snapshots.on_reply(state, message)
            replication.commit(state)
        case _:
            assert_never(message)


# --- a leader's clock and its sending --------------------------------------------------------------------------------


def _tick_leader(state: State) -> None:
    transfer.tick(state)
    snapshots.tick(state)
    state.elapsed += 1
    if state.elapsed >= state.config.election_ticks:
        state.elapsed = 0
        if not _keeps_its_quorum(state):
            state.become_follower(state.term, NOBODY)
            return
    state.heartbeat_elapsed += 1
    if state.announced < state.log.commit:
        state.commit_elapsed += 1
    is_commit_due = state.commit_elapsed >= state.config.commit_ticks
    if is_commit_due or state.heartbeat_elapsed >= state.config.heartbeat_ticks:
        replication.broadcast_heartbeats(state)


def _keeps_its_quorum(state: State) -> bool:
    """Step down when no majority was heard for an election timeout (dissertation §6.2, pitfall 21)."""
    heard = {peer for peer, progress in state.progress.items() if progress.active}
    for progress in state.progress.values():
        progress.active = False
    if not state.config.check_quorum:
        return True
    return quorum.has_quorum(state.members.voter_sets, lambda voter: voter == state.id or voter in heard)


def _has_nothing_to_do(state: State) -> bool:
    """Whether `ready()` would be empty, and change nothing: of a leader, and of a follower that knows its leader."""
    log = state.log
    if state.outbox.has_something or (log.handed < log.commit and log.handed < log.stable):
        return False
    if state.role is not Role.LEADER:
        return state.role is Role.FOLLOWER and state.leader != NOBODY and state.receiving is None
    if state.transferee != NOBODY or state.reads.has_arrived:
        return False
    last = log.last_index
    for progress in state.progress.values():  # noqa: SIM110  # any() costs as much again, several times a command
        if progress.poke or progress.next <= last:
            return False
    return True


def _send_as_leader(state: State) -> None:
    replication.send(state)
    if state.transferee != NOBODY:
        transfer.send(state)
    if state.reads.has_arrived and state.has_committed_in_term:
        state.reads.open(state.log.commit)
        replication.broadcast_heartbeats(state)
        _confirm_reads(state)


def _confirm_reads(state: State) -> None:
    """A quorum that answered a round's heartbeats had not elected another when the round began (§6.4)."""
    if not state.reads.is_open:
        return
    rounds = quorum.agreed(state.members.voter_sets, lambda voter: _confirmed_by(state, voter))
    state.reads.confirm(rounds, state.outbox)


def _confirmed_by(state: State, voter: NodeId) -> int:
    if voter == state.id:
        return state.reads.round
    progress = state.progress.get(voter)
    return progress.read if progress is not None else 0
