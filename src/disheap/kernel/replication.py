"""Log replication and commitment (Raft §5.3, §5.4.2; dissertation §10.2.1). Sends entries, accepts them, counts.

A leader counts its own disk like any other: what is not durable here is not counted (pitfall 13). Handlers only note
what changed; `send` runs once for each `Ready` and gives every peer what its window allows.
"""

from __future__ import annotations

from disheap.errors import InvalidArgument, NotLeader, Overloaded
from disheap.kernel import membership, quorum, snapshots
from disheap.kernel.log import size_of, within
from disheap.kernel.progress import Phase, Progress
from disheap.kernel.state import State
from disheap.kernel.types import (
    NOBODY,
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    Fetch,
    Heartbeat,
    HeartbeatReply,
    Index,
    Membership,
    NodeId,
    Role,
    Term,
    new_record,
)

# --- the leader: proposals -------------------------------------------------------------------------------------------


def propose(state: State, kind: EntryKind, time_ms: int, data: bytes) -> Index:
    """Append an entry of this leader and return its index. Raises `NotLeader`, `Overloaded` or `InvalidArgument`."""
    if kind == EntryKind.MEMBERSHIP:
        raise InvalidArgument("a membership is proposed with propose_change")
    _refuse_proposals(state)
    if state.uncommitted_bytes and state.uncommitted_bytes + len(data) > state.config.uncommitted_bytes:
        raise Overloaded(f"{state.uncommitted_bytes} bytes wait to be committed; repeat when some are")
    return state.append_own(kind, time_ms, data)


def propose_change(state: State, new: Membership, time_ms: int) -> Index:
    """One change at a time, and none before our own no-op is committed (dissertation §4.1, pitfall 5). Until then an
    earlier leader's change may be in the log of others and not in ours."""
    _refuse_proposals(state)
    if not state.has_committed_in_term or state.members.index > state.log.commit:
        raise Overloaded("an earlier change of the membership is not committed yet; repeat when it is")
    membership.check_change(state.members.current, new)
    index = state.append_own(EntryKind.MEMBERSHIP, time_ms, membership.encode(new))
    _follow_membership(state)
    commit(state)  # without a voter that was behind, more may be agreed
    return index


def _refuse_proposals(state: State) -> None:
    if state.role is not Role.LEADER:
        raise NotLeader("")
    if state.transferee != NOBODY:
        raise Overloaded(f"leadership is being handed to node {state.transferee}; repeat in a moment")


def _follow_membership(state: State) -> None:
    """Peers come and go with the entry that says so."""
    ids = [member.id for member in state.members.current.members if member.id != state.id]
    kept = {peer: state.progress.get(peer) or Progress(state.log.last_index + 1) for peer in ids}
    state.progress = kept


# --- the leader: sending ---------------------------------------------------------------------------------------------


def send(state: State) -> None:
    """Give every peer what it lacks, as far as its window allows."""
    log, config = state.log, state.config
    for peer, progress in state.progress.items():
        while (progress.poke or progress.next <= log.last_index) and progress.may_send(config):
            _send_next(state, peer, progress)


def on_fetched(state: State, peer: NodeId, entries: tuple[Entry, ...]) -> None:
    """Storage answered a `Fetch` for a slow peer. An answer to a question that no longer stands is dropped."""
    progress = state.progress.get(peer)
    if progress is None or not progress.fetching:
        return
    if not entries:
        progress.fetching = Index(0)
        snapshots.begin(state, peer)
    elif entries[0].index == progress.fetching:
        progress.fetching = Index(0)
        entries = within(entries, state.config.append_bytes, state.log.last_index)
        last = entries[-1]
        term = state.log.term_at(progress.next - 1)
        if entries[0].index == progress.next and term is not None and state.log.term_at(last.index) == last.term:
            _send_entries(state, peer, progress, term, entries)


def broadcast_heartbeats(state: State) -> None:
    """`commit` never says more than the peer is known to hold (pitfall 10)."""
    log, reads = state.log, state.reads
    for peer, progress in state.progress.items():
        bounded = min(log.commit, progress.match)
        successor = state.transferee if state.transfer_sent else NOBODY
        state.send(Heartbeat(state.id, peer, state.term, bounded, reads.round, successor))
    state.heartbeat_elapsed = 0
    state.commit_elapsed = 0
    state.announced = log.commit


def on_unreachable(state: State, peer: NodeId) -> None:
    """What was in flight to the peer is lost, and where it stands has to be asked again."""
    progress = state.progress.get(peer)
    if progress is not None:
        progress.lost_touch()
    elif peer == state.leader and state.config.pre_vote:
        state.lose_leader()


def _send_next(state: State, peer: NodeId, progress: Progress) -> None:
    log, config = state.log, state.config
    term = log.term_at(progress.next - 1)
    if progress.next < log.first_index or term is None:
        snapshots.begin(state, peer)
    elif progress.poke and progress.phase is Phase.REPLICATE and progress.is_full(config):
        _send_entries(state, peer, progress, term, ())  # asks where the peer stands, should all in the window be lost
    elif progress.next > log.last_index or log.is_cached(progress.next):
        entries = log.cached(progress.next, log.last_index, config.append_bytes)
        _send_entries(state, peer, progress, term, entries)
    elif progress.phase is Phase.PROBE:
        _send_entries(state, peer, progress, term, ())  # where the logs agree comes first, then the disk is read
    else:
        progress.fetching = progress.next
        progress.poke = False
        last = Index(log.cache_first - 1)
        state.outbox.fetches.append(Fetch(peer, progress.next, last, config.append_bytes))


def _send_entries(state: State, peer: NodeId, progress: Progress, term: Term, entries: tuple[Entry, ...]) -> None:
    """`term` is that of the entry before `progress.next`."""
    previous = Index(progress.next - 1)
    fields = (state.id, peer, state.term, previous, term, entries, state.log.commit)
    state.outbox.send(new_record(AppendRequest, fields))
    progress.sent(
        Index(previous + len(entries)), size_of(entries[0]) if len(entries) == 1 else sum(map(size_of, entries))
    )


# --- the leader: answers ---------------------------------------------------------------------------------------------


def on_append_reply(state: State, message: AppendReply) -> None:
    """A follower has accepted entries, or has refused them and named where its log may agree."""
    progress = state.progress[message.source]
    progress.active = True
    if message.success:
        index = min(message.index, state.log.last_index)
        moved = progress.accepted(index, can_go_on=state.log.term_at(index) is not None)
        if moved and progress.match > state.log.commit:
            commit(state)
    else:
        agreed, _ = state.log.backtrack(message.hint_index, message.hint_term)
        progress.refused(message.index, agreed)


def on_heartbeat_reply(state: State, message: HeartbeatReply) -> None:
    """A follower is alive, and confirms the rounds of reads up to the one that it names."""
    progress = state.progress[message.source]
    progress.active = True
    progress.read = max(progress.read, message.read)
    progress.heard(state.log.last_index)


def commit(state: State) -> None:
    """Only entries of the leader's own term are committed by counting; those before them come along (§5.4.2)."""
    held = {peer: progress.match for peer, progress in state.progress.items()}
    held[state.id] = state.log.stable
    index = quorum.agreed(state.members.voter_sets, lambda voter: held.get(voter, 0))
    if state.log.term_at(index) != state.term or not state.log.commit_to(index):
        return
    uncommitted = state.uncommitted
    while uncommitted and uncommitted[0][0] <= index:
        state.uncommitted_bytes -= uncommitted.popleft()[1]
    if state.id not in state.members.voters and state.members.index <= index:
        _leave(state)


def _leave(state: State) -> None:
    """The leader's own removal is committed: it says so, and leads no longer (dissertation §4.2.2)."""
    send(state)
    broadcast_heartbeats(state)
    state.become_follower(state.term, NOBODY)


# --- the follower ----------------------------------------------------------------------------------------------------


def on_append(state: State, message: AppendRequest) -> None:
    """Append the leader's entries behind an entry that matches, or refuse them (§5.3)."""
    if state.is_installing:
        return  # a snapshot is about to replace this log
    log = state.log
    state.commit_heard = message.commit
    previous, entries = message.previous_index, message.entries
    if previous < log.commit:
        # What is committed agrees by itself; only what lies behind it is looked at.
        entries = entries[log.commit - previous :]
        previous = log.commit
    elif log.term_at(previous) != message.previous_term:
        _refuse(state, message)
        return
    verified = Index(previous + len(entries))
    new = log.new_in(entries)
    if new:
        state.append(new)
    if verified > state.verified:
        state.verified = verified
    log.commit_to(min(message.commit, verified))
    _acknowledge(state, message.source, verified)


def on_heartbeat(state: State, message: Heartbeat) -> None:
    """The commit index is one that this node is known to hold, in this leader's log. With an ambiguous end of its log
    it may have lost that entry, and hold a superseded one there. Then only what this leader has sent counts."""
    state.handing_over_to = message.transferee
    if not state.is_installing:
        known = state.log.last_index if state.ambiguous_after is None else state.verified
        state.log.commit_to(min(message.commit, known))
    state.send(HeartbeatReply(state.id, message.source, state.term, message.read))


def refuse_stale(state: State, source: NodeId) -> None:
    """A leader of an earlier term is told of ours, so that it steps down."""
    reply = AppendReply(state.id, source, state.term, False, Index(0), Index(0), Term(0))
    state.send(reply)


def resolve_ambiguity(state: State) -> None:
    """The end of our log was ambiguous. Past that point, and with all that the leader called committed, it is not. This
    holds only for a leader that has committed in its own term. Before, it may know less than what we acknowledged and
    lost."""
    after, heard = state.ambiguous_after, state.commit_heard
    is_past = after is not None and state.log.stable > after and state.log.stable >= heard
    if is_past and heard > 0 and state.log.term_at(heard) == state.term:
        state.ambiguous_after = None


def _acknowledge(state: State, leader: NodeId, index: Index) -> None:
    fields = (state.id, leader, state.term, True, index, Index(0), Term(0))
    state.outbox.send(new_record(AppendReply, fields), index)


def _refuse(state: State, message: AppendRequest) -> None:
    """The hint skips whole terms (§5.3): the leader need not ask entry by entry."""
    hint, term = state.log.backtrack(message.previous_index, message.previous_term)
    if hint < state.log.commit:
        hint = state.log.commit
        term = state.log.term_at(hint) or Term(0)
    reply = AppendReply(state.id, message.source, state.term, False, message.previous_index, hint, term)
    state.send(reply)
