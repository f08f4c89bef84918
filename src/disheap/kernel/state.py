"""The one state that the kernel mutates (Raft Figure 2, "State").

Owns what a node remembers, and the doors through which its role changes: `become_follower`, `become_precandidate`,
`become_candidate`, `become_leader`. The rules that decide when to go through one are in the modules named after them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from disheap.kernel import membership
from disheap.kernel.log import Log, size_of
from disheap.kernel.membership import Memberships
from disheap.kernel.outbox import NOTHING, Outbox
from disheap.kernel.progress import Progress
from disheap.kernel.reads import ReadRounds
from disheap.kernel.types import (
    NOBODY,
    Entry,
    EntryKind,
    Index,
    KernelConfig,
    Message,
    NodeId,
    Restored,
    Role,
    SnapshotMeta,
    Term,
    new_record,
)


class SnapshotReceive:
    """A snapshot that arrives. `final` is its last chunk, kept back until the disk is idle. `installing` from the
    moment that it was handed out until its outcome is known."""

    __slots__ = ("chunk_bytes", "final", "installing", "meta", "offset", "source", "writing")

    def __init__(self, meta: SnapshotMeta, source: NodeId) -> None:
        self.meta = meta
        self.source = source
        self.offset = 0  # the next byte wanted
        self.chunk_bytes = 0
        self.writing = False  # a chunk of `chunk_bytes` at `offset` is with the caller, or kept in `final`
        self.final: bytes | None = None
        self.installing = False


class State:
    """Everything that a Raft node knows. The modules of this package decide; the state changes here."""

    def __init__(self, config: KernelConfig, restored: Restored, random: random.Random) -> None:
        self.config = config
        self.id = config.id
        self.random = random
        self.log = Log(restored, config.log_cache_bytes)
        self.outbox = Outbox(restored.hard_state, self.log)
        self.term = restored.hard_state.term  # the newest that this node knows
        self.members = Memberships(restored.snapshot.index, restored.snapshot.membership)
        for index, data in restored.memberships:
            if self.log.snapshot.index < index <= self.log.last_index:
                self.members.append(index, membership.decode(data))
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.votes: dict[NodeId, bool] = {}
        self.campaign_round = 0  # of our last pre-vote; answers to an earlier one are not counted
        self.is_asked_to_lead = False  # this campaign is for a transfer
        self.is_held_back = False  # the caller does not want us to lead
        self.handing_over_to = NOBODY  # what our leader said last of a transfer of leadership
        self.elapsed = 0  # ticks since the leader was heard; for a leader, since it last counted its quorum
        self.timeout = 0
        self.applying = Index(0)  # our own storage was asked for entries to apply from here on
        self.receiving: SnapshotReceive | None = None
        self.ambiguous_after = restored.ambiguous_after
        self.commit_heard = Index(0)  # the leader's commit index, however short our own log is
        self.verified = Index(
            0
        )  # up to here our log is that of this term's leader, by what it sent us since we started
        self.reads = ReadRounds()
        self._clear_leadership()
        self.restart_timer()

    # --- what is read often ------------------------------------------------------------------------------------------

    @property
    def vote(self) -> NodeId:
        """The candidate that this node voted for in its term, `NOBODY` if there is none."""
        return self.outbox.hard_state.vote

    @property
    def is_installing(self) -> bool:
        """Whether a snapshot is replacing the log and the machine."""
        return self.receiving is not None and self.receiving.installing

    @property
    def may_campaign(self) -> bool:
        """Whether this node may ask for votes: it is a voter, its log is whole, and nothing holds it back."""
        is_voter = self.members.may_lead(self.id, self.log.commit)
        return is_voter and self.ambiguous_after is None and not (self.is_installing or self.is_held_back)

    @property
    def has_committed_in_term(self) -> bool:
        """Whether an entry of this term is committed. Before that a leader does not know what is (§5.4.2, §8)."""
        return self.log.term_at(self.log.commit) == self.term

    def send(self, message: Message, claims: Index = NOTHING) -> None:
        """Send `message` when what it claims is durable. `claims` is the highest index that it calls durable."""
        self.outbox.send(message, claims)

    # --- doors -------------------------------------------------------------------------------------------------------

    def become_follower(self, term: Term, leader: NodeId) -> None:
        """A vote is forgotten only with its term (pitfall 3). The timer of a follower that merely learns of a term
        goes on: a candidate nobody wants must not keep the others from campaigning."""
        if term > self.term:
            self._enter_term(term, NOBODY)
        if self.role is not Role.FOLLOWER or leader != NOBODY:
            self.restart_timer()
        self._leave_role()
        self.role = Role.FOLLOWER
        self.leader = leader

    def hear_leader(self, leader: NodeId) -> None:
        """A message of this term's leader came: the timer starts again, whatever the message is worth (pitfall 22)."""
        if self.role is Role.FOLLOWER and self.leader == leader:
            self.elapsed = 0
        else:
            self.become_follower(self.term, leader)

    def lose_leader(self) -> None:
        """The connection to the leader broke, as it does at once when a process dies. Ask the others within half an
        election timeout instead of one or two. A pre-vote does no harm should the leader live."""
        self.become_follower(self.term, NOBODY)
        self.timeout = 1 + below(self.random, max(1, self.config.election_ticks // 2))

    def become_precandidate(self, transfer: bool = False) -> None:
        """Neither term nor vote change (dissertation §9.6)."""
        self._leave_role()
        self.role = Role.PRECANDIDATE
        self.campaign_round += 1
        self.is_asked_to_lead = transfer
        self.restart_timer()

    def become_candidate(self) -> None:
        """A new term, with our own vote in it (§5.2). The vote counts when it is durable."""
        self._leave_role()
        self._enter_term(Term(self.term + 1), self.id)
        self.role = Role.CANDIDATE
        self.restart_timer()

    def become_leader(self) -> None:
        """Begins with an entry of its own term, which commits all before it (§5.4.2, §8)."""
        self._leave_role()
        self.role = Role.LEADER
        self.leader = self.id
        self.elapsed = 0
        for member in self.members.current.members:
            if member.id != self.id:
                self.progress[member.id] = Progress(self.log.last_index + 1)
        self.append_own(EntryKind.NOOP, self.log.last_time_ms, b"")

    def restart_timer(self) -> None:
        """A timeout drawn anew, between one and two times `election_ticks` (§5.2)."""
        self.elapsed = 0
        self.timeout = self.config.election_ticks + below(self.random, self.config.election_ticks + 1)

    # --- the log, and the membership in it ---------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """A membership is in force as soon as it is appended, and no longer when it is overwritten."""
        changes = [entry for entry in entries if entry.kind == EntryKind.MEMBERSHIP]
        # Raises before anything has changed.
        decoded = [(one.index, membership.decode(one.data)) for one in changes] if changes else ()
        self.members.roll_back(entries[0].index)
        self.log.append(entries)
        for index, change in decoded:
            self.members.append(index, change)

    def append_own(self, kind: EntryKind, time_ms: int, data: bytes) -> Index:
        """The leader's own entry; `uncommitted_bytes` counts it until it is committed."""
        index = Index(self.log.last_index + 1)
        entry = new_record(Entry, (self.term, index, kind, time_ms, data))
        self.append((entry,))
        size = size_of(entry)
        self.uncommitted.append((index, size))
        self.uncommitted_bytes += size
        return index

    def install(self, meta: SnapshotMeta) -> None:
        """A snapshot replaces the log and everything said in it (§7)."""
        self.log.reset(meta)
        self.members.reset(meta.index, meta.membership)
        self.applying = Index(0)
        self.receiving = None

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _enter_term(self, term: Term, vote: NodeId) -> None:
        self.outbox.set_hard_state(term, vote)
        self.term = term
        self.verified = Index(0)

    def _leave_role(self) -> None:
        self.leader = NOBODY
        self.handing_over_to = NOBODY
        self.is_asked_to_lead = False
        self.votes = {}
        self.reads.lose(self.outbox)
        self._clear_leadership()

    def _clear_leadership(self) -> None:
        self.progress: dict[NodeId, Progress] = {}
        self.heartbeat_elapsed = 0
        self.commit_elapsed = 0  # ticks for which followers have not been told of the commit index
        self.announced = Index(0)  # the commit index that the last heartbeats carried
        self.uncommitted: deque[tuple[Index, int]] = deque()
        self.uncommitted_bytes = 0
        self.transferee = NOBODY
        self.transfer_failed = NOBODY  # the last one that was asked to lead and did not
        self.transfer_elapsed = 0
        self.transfer_sent = False


def below(generator: random.Random, bound: int) -> int:
    """A number in [0, bound). By `getrandbits` alone, whose sequence Python promises to keep."""
    bits = bound.bit_length()
    while True:
        number = generator.getrandbits(bits)
        if number < bound:
            return number
