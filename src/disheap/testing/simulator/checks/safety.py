"""What must hold of the kernels and their disks, after every step (Raft Figure 3; dissertation §4, §6.4).

The checker sees every entry that is written, every commit, every message, and what each disk has made durable. A
`DurableModel` of each disk is kept here. It changes only when a write of the storage has returned. The checker judges
by Raft's own rules, and not by what the product says of itself:

- election safety: one leader a term; a leader never cuts or overwrites its own log
- log matching: an entry's index and term say what it holds, and what came before it
- leader completeness: a new leader has every entry committed in an earlier term
- state-machine safety: one entry an index is applied, committed first; commit and applied indexes never go back
- committed means durable with a majority; term and vote are durable before a message speaks of them
- after a restart, everything that was durable is there, or the damage is told (`durable_model`)
- what is applied is durable here too; the log is trimmed behind durable snapshots alone
- an acknowledgement is true of the leader's log that it answers; `messages` judges how a kernel takes a message
- no vote and no acknowledgement from outside the membership counts; `membership` judges how that one changes
- equal state at equal index
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from disheap.interfaces import Recovered
from disheap.kernel.raft import Raft
from disheap.kernel.types import (
    AppendReply,
    Entry,
    EntryKind,
    HardState,
    Index,
    Membership,
    Message,
    SnapshotMeta,
    TermRun,
    VoteReply,
    VoteRequest,
)
from disheap.protocol.frames import Kind
from disheap.testing.simulator.checks.durable_model import DurableModel
from disheap.testing.simulator.checks.envelopes import read_envelopes
from disheap.testing.simulator.checks.membership import MembershipChecks
from disheap.testing.simulator.checks.messages import MessageChecker
from disheap.testing.simulator.world.loop import EPOCH_S


class Violation(BaseException):
    """A property does not hold. Not an Exception: nothing may catch it and go on."""


MAX_PACE = 1.15
"""A tenth, and the drift of the simulated clocks."""
PACE_SLACK_MS = 200
EARLY_MS = 60_000
"""How far log time may be ahead of the true time: `max_clock_jump_ms`. Nothing fires earlier than that."""
Where = tuple[int, int]
"""(index, term) of an entry."""


class Submitted(NamedTuple):
    """What a leader of `term` tells its log of a session: a DETACH or an EXPIRE (`kind`) of one attachment."""

    term: int
    kind: int
    session: int
    attachment: int


class Watched:
    """What the checker knows of one incarnation of one node."""

    def __init__(self, node: int, raft: Raft, message_checker: MessageChecker) -> None:
        self.node = node
        self.raft = raft
        self.message_checker = message_checker
        self.commit = int(raft.commit)
        self.applied = int(raft.applied)
        self.led_term = 0
        self.led_to: Where = (0, 0)


class SafetyChecker:
    """`fail` is told what does not hold, and does not return."""

    def __init__(self, fail: Callable[[str], None], first: Membership, now_s: Callable[[], float]) -> None:
        self.entries: dict[Where, Entry] = {}
        self.before: dict[Where, int] = {}  # the term of the entry before
        self.committed: dict[int, tuple[int, int]] = {}  # index -> (term, term in which it was seen committed)
        self.log: list[Entry] = []  # the committed entries, from 1 on
        self.leaders: dict[int, int] = {}
        self.led: dict[int, tuple[int, tuple[TermRun, ...]]] = {}  # by term: its leader's log when it began
        self.votes: dict[tuple[int, int], int] = {}  # (voter, term) -> candidate
        self.durable_models: defaultdict[int, DurableModel] = defaultdict(DurableModel)  # by node id
        self.hashes: dict[int, tuple[bytes, int]] = {}  # index -> (hash, the node that said so first)
        self.spoilt_states: set[int] = set()  # nodes whose state in memory somebody spoilt, until they start anew
        self.tables: dict[int, dict[int, tuple[int, list[int]]]] = {}  # index -> session -> (confirmed, replies kept)
        self.gone: list[int] = []  # members that were wiped
        self.on_commit: Callable[[Entry], None] = lambda entry: None  # told of each newly committed entry, in order
        self.elections = 0
        self.checks = 0
        self.fail = fail
        self._now_s = now_s
        self.submitted: dict[Submitted, list[float]] = {}  # for how long the leader had led, at each submission
        self.raises: list[float] = []  # when leaders have asked their logs for a later version
        self._elected_s: dict[int, float] = {}
        self._began_ms: dict[int, int] = {}  # by term: log time of its first command
        self.changes = MembershipChecks(first, self.committed, self.require)

    def require(self, holds: bool, otherwise: str) -> None:
        """Counts a check, and fails the run if it does not hold."""
        self.checks += 1
        if not holds:
            self.fail(otherwise)

    @property
    def last_committed(self) -> int:
        """The index of the last committed entry."""
        return len(self.log)

    # --- disks ---

    def sound_model(self, node: int) -> DurableModel | None:
        """None of a disk that may have lost something."""
        durable = self.durable_models.get(node)
        return None if durable is None or durable.spoilt or node in self.gone else durable

    def saving(self, node: int, state: HardState) -> None:
        """A node begins to save term and vote. Checks that the term does not go back and that the vote does not
        change."""
        durable = self.durable_models[node]
        known = durable.hard_state
        self.require(state.term >= known.term, f"node {node}: the term on disk goes back to {state.term}")
        if state.term == known.term:
            self.require(known.vote in (0, state.vote), f"node {node}: the vote of term {state.term} changes on disk")
        durable.saving = state

    def saved(self, node: int, state: HardState) -> None:
        """Term and vote are durable."""
        durable = self.durable_models[node]
        durable.hard_state, durable.saving = state, None

    def appending(self, node: int, entries: Sequence[Entry]) -> None:
        """Before the write: log matching, and nothing committed is overwritten."""
        durable = self.durable_models[node]
        durable.writing = tuple(entries)
        before = durable.term_at(entries[0].index - 1)
        for entry in entries:
            where = (int(entry.index), int(entry.term))
            known = self.entries.setdefault(where, entry)
            self.require(known == entry, f"node {node}: two entries of index {where[0]} and term {where[1]}")
            if before is not None:
                first_said = self.before.setdefault(where, before)
                self.require(first_said == before, f"node {node}: two histories before entry {where}")
            before = entry.term
            self.require(
                entry.term <= durable.hard_state.term, f"node {node}: entry {where} before its term is durable"
            )
            self._check_kept(node, entry)
            if entry.kind == EntryKind.COMMANDS and self.leaders.get(entry.term) == node:
                self._check_pace(node, entry)
            elif entry.kind == EntryKind.MEMBERSHIP:
                self.changes.appended(entry)

    def submits(self, node: int, term: int, envelopes: bytes) -> None:
        """A leader, to its own log. Its disk may be slow, and so the entry may be written much later."""
        if self.leaders.get(term) != node:
            return
        for envelope in read_envelopes(envelopes):
            if envelope.kind in (Kind.DETACH, Kind.EXPIRE):
                submitted = Submitted(term, envelope.kind, envelope.session, envelope.seq)
                self.submitted.setdefault(submitted, []).append(self._now_s() - self._elected_s[term])
            elif envelope.kind == Kind.RAISE_VERSION:
                self.raises.append(self._now_s())

    def _check_pace(self, node: int, entry: Entry) -> None:
        """Within a term log time runs by the leader's monotonic clock, faster by a tenth at most."""
        term = int(entry.term)
        began_ms = self._began_ms.setdefault(term, entry.time_ms)
        passed_s = self._now_s() - self._elected_s[term]
        self.require(
            entry.time_ms - began_ms <= MAX_PACE * passed_s * 1000 + PACE_SLACK_MS,
            f"node {node}: {entry.time_ms - began_ms} ms of log time in {passed_s:.3f} s of term {term}",
        )

    def _check_kept(self, node: int, entry: Entry) -> None:
        """What is committed and was here is not overwritten. An old leader may still write entries that will never be
        committed. It may write them over entries committed in a term that this node has not heard of."""
        committed = self.committed.get(entry.index)
        if committed is not None and committed[0] != entry.term:
            durable = self.durable_models[node]
            held = durable.term_at(entry.index) == committed[0] and durable.hard_state.term >= committed[1]
            self.require(not held, f"node {node}: overwrites the committed entry {entry.index} of term {committed[0]}")

    def appended(self, node: int, entries: Sequence[Entry]) -> None:
        """An append has returned, so its entries are durable."""
        self.require(node not in self.gone, f"node {node}: confirms a write to files that were removed")
        durable = self.durable_models[node]
        durable.writing = ()
        durable.appended(entries)

    def cutting(self, node: int, first: int) -> None:
        """A repair found that a majority never had what it drops."""
        durable = self.durable_models[node]
        durable.cut_from = first
        for index in range(max(first, durable.base + 1), durable.last + 1):
            committed = self.committed.get(index)
            held = committed is not None and committed[0] == durable.term_at(index)
            self.require(not held, f"node {node}: a repair drops the committed entry {index}")

    def cut(self, node: int, first: int) -> None:
        """A node has cut its log off at `first`."""
        durable = self.durable_models[node]
        durable.cut_from = 0
        del durable.terms[max(0, first - durable.base - 1) :]

    def snapshot_taken(self, node: int, meta: SnapshotMeta) -> None:
        """It is durable."""
        durable = self.durable_models[node]
        durable.snapshot = max(durable.snapshot, int(meta.index))

    def compacting(self, node: int, first: int) -> None:
        """A node trims its log. Checks that a durable snapshot covers what goes."""
        behind = self.durable_models[node].snapshot
        self.require(first <= behind + 1, f"node {node}: trims its log to {first}, and its snapshot is of {behind}")

    def ambiguity_ends(self, node: int) -> None:
        """The end of a node's log is certain again."""
        self.durable_models[node].is_ambiguous = False

    def writes_after_failure(self, node: int, operation: str, path: str) -> None:
        """Fails the run: a node writes after its disk has failed."""
        self.require(False, f"node {node}: {operation} of {path} after its disk has failed")

    def installing(self, node: int, meta: SnapshotMeta) -> None:
        """A node begins to install a snapshot from its leader."""
        self.durable_models[node].installing = meta

    def installed(self, node: int, meta: SnapshotMeta) -> None:
        """The installed snapshot is durable and has replaced the log."""
        self.durable_models[node].installing = None
        self.durable_models[node].reset(meta)

    def read(self, node: int, entries: Sequence[Entry]) -> None:
        """Checks that entries read from a disk are those that were written."""
        for entry in entries:
            known = self.entries.get((int(entry.index), int(entry.term)))
            self.require(known == entry, f"node {node}: its disk gives another entry {entry.index} than was written")

    def recovered(self, node: int, found: Recovered) -> None:
        """Everything that was durable is there, except what a write in flight may have superseded."""
        durable = self.durable_models[node]
        if node in self.gone:
            self.require(found.last_index == 0, f"node {node}: was wiped, and has written")
            return
        self.read(node, found.tail)
        if found.snapshot is not None:
            self._check_snapshot(node, found.snapshot)
        for holds, otherwise in durable.judge(found):
            self.require(holds, f"node {node}: {otherwise}")
        self.durable_models[node] = durable.after(found)

    def wiped(self, node: int) -> None:
        """It is gone for good, as a minority may be; what was acknowledged before it went still counts. Its durable
        stays as it was, since it writes nothing more."""
        self.gone.append(node)

    def takes_part(self, node: int) -> None:
        """A member whose files were wiped has forgotten its votes (storage-rules 11)."""
        self.require(node not in self.gone, f"node {node}: takes part under its old identity, without its data")

    def _check_snapshot(self, node: int, meta: SnapshotMeta) -> None:
        committed = self.committed.get(meta.index)
        self.require(
            committed is None or committed[0] == meta.term,
            f"node {node}: a snapshot of entry {meta.index} that is not committed",
        )

    # --- messages ---

    def sent(self, node: int, message: Message) -> None:
        """Stable storage comes before the answer (§5.1, Figure 2)."""
        model = self.durable_models[node]
        durable = model.hard_state
        if isinstance(message, VoteRequest | VoteReply) and message.pre:
            is_refusal = isinstance(message, VoteReply) and not message.granted
            is_own = not is_refusal or message.term <= durable.term
            self.require(is_own, f"node {node}: refuses a pre-vote in term {message.term}, and is in {durable.term}")
            return
        self.require(
            durable.term >= message.term,
            f"node {node}: {type(message).__name__} of term {message.term} before it is durable",
        )
        if isinstance(message, VoteReply) and message.granted and durable.term == message.term:
            self.require(durable.vote == message.target, f"node {node}: a vote goes out before it is durable")
            candidate = self.votes.setdefault((node, message.term), message.target)
            self.require(candidate == message.target, f"node {node}: votes twice in term {message.term}")
        if isinstance(message, AppendReply) and message.success:
            self.require(
                message.index <= model.last, f"node {node}: acknowledges entry {message.index} before it is durable"
            )
            asked = self._led_term_at(int(message.term), int(message.index))
            self.require(
                asked is None or model.holds(message.index, asked),
                f"node {node}: acknowledges entry {message.index} of the leader of {message.term}, and has another",
            )

    def _led_term_at(self, term: int, index: int) -> int | None:
        """The term of the entry at `index` in the log of the leader of `term`; None if that is not known (any more)."""
        last, runs = self.led.get(term, (0, ()))
        if not runs or index < runs[0].first:
            return None
        if index > last:
            return term
        return next(int(run.term) for run in reversed(runs) if run.first <= index)

    # --- kernels ---

    def check_kernel(self, watched: Watched) -> None:
        """Checks a kernel after each of its steps."""
        raft = watched.raft
        commit = raft.commit
        if commit != watched.commit:
            self._commit_moved(watched, commit)
        if raft.is_leader:
            self._check_leader(watched)

    def _commit_moved(self, watched: Watched, commit: int) -> None:
        raft, node = watched.raft, watched.node
        self.require(commit > watched.commit, f"node {node}: its commit index goes back to {commit}")
        self.require(commit <= raft.last_index, f"node {node}: commits {commit}, and its log ends at {raft.last_index}")
        first_new = self.last_committed + 1
        for index in range(watched.commit + 1, commit + 1):
            term = raft.term_at(Index(index))
            if term is None:
                continue  # a snapshot stands for it
            known = self.committed.get(index)
            if known is not None:
                self.require(
                    known[0] == term, f"node {node}: entry {index} of term {term} committed, was of {known[0]}"
                )
            else:
                self.require(index >= first_new, f"node {node}: entry {index} committed out of turn")
                self._newly_committed(watched, index, int(term))
        watched.commit = commit

    def _newly_committed(self, watched: Watched, index: int, term: int) -> None:
        raft, node = watched.raft, watched.node
        voters = self.changes.voters_in_force(raft)
        durable = [voter for voter in voters if self.durable_models[voter].holds(index, term)]
        self.require(
            2 * len(durable) > len(voters),
            f"node {node}: commits entry {index} that is durable on {durable} of {voters} only",
        )
        if raft.is_leader:
            self.require(
                int(raft.term_at(raft.commit) or 0) == raft.term, f"node {node}: commits an old term by counting"
            )
        self.committed[index] = (term, int(raft.term))
        entry = self.entries.get((index, term))
        self.require(entry is not None, f"entry {index} of term {term} is committed, and nobody wrote it")
        assert entry is not None
        self.require(len(self.log) == index - 1, f"entry {index} is committed before {len(self.log) + 1}")
        if self.log:
            self.require(entry.time_ms >= self.log[-1].time_ms, f"the log's time goes back at entry {index}")
        true_ms = (EPOCH_S + self._now_s()) * 1000
        self.require(
            entry.time_ms <= true_ms + EARLY_MS,
            f"entry {index} is {(entry.time_ms - true_ms) / 1000:.0f} s ahead of the true time: what waits fires early",
        )
        self.log.append(entry)
        self.on_commit(entry)
        if entry.kind == EntryKind.MEMBERSHIP:
            self.changes.committed_at(index, term)

    def _check_leader(self, watched: Watched) -> None:
        raft, node = watched.raft, watched.node
        term, last = int(raft.term), raft.last_index
        if watched.led_term != term:
            self._new_leader(watched, term)
        self.changes.check_leader(node, raft)
        index, entry_term = watched.led_to
        if index:
            self.require(last >= index, f"node {node}: a leader cuts its own log from {index} to {last}")
            if last > index:
                now = raft.term_at(Index(index))
                self.require(now in (entry_term, None), f"node {node}: a leader overwrites its entry {index}")
        watched.led_to = (int(last), int(raft.term_at(last) or 0))

    def _new_leader(self, watched: Watched, term: int) -> None:
        raft, node = watched.raft, watched.node
        self.elections += 1
        leader = self.leaders.setdefault(term, node)
        self.require(leader == node, f"term {term} has two leaders, {leader} and {node}")
        self.led[term] = (int(raft.last_index), tuple(raft.runs))
        self._elected_s.setdefault(term, self._now_s())
        self._check_votes(raft, node, term)
        watched.led_term, watched.led_to = term, (0, 0)
        for index in range(max(1, raft.first_index), self.last_committed + 1):
            held, committed_in = self.committed[index]
            if committed_in < term:
                found = raft.term_at(Index(index))
                self.require(found == held, f"node {node} leads term {term} without the committed entry {index}")

    def _check_votes(self, raft: Raft, node: int, term: int) -> None:
        """A majority's votes are durable. Of one that has gone on to a later term nobody knows any more."""
        voters = self.changes.voters_in_force(raft)
        states = [self.durable_models[voter].hard_state for voter in voters]
        votes = [state for state in states if state.term > term or (state.term == term and state.vote == node)]
        self.require(2 * len(votes) > len(voters), f"node {node} leads term {term} with {len(votes)} durable votes")

    def applied(self, watched: Watched, entries: Sequence[Entry], applied: int) -> None:
        """Before they are applied."""
        node = watched.node
        self.require(entries[0].index <= applied + 1, f"node {node}: applies {entries[0].index} after {applied}")
        last = int(entries[-1].index)
        self.require(
            last <= self.durable_models[node].last, f"node {node}: applies entry {last} before it is durable here"
        )
        for entry in entries:
            known = self.committed.get(entry.index)
            if known is None:
                self.check_kernel(watched)
                known = self.committed.get(entry.index)
            self.require(
                known is not None and known[0] == entry.term, f"node {node}: applies entry {entry.index}, not committed"
            )
            same = self.log[entry.index - 1] == entry
            self.require(same, f"node {node}: applies another entry {entry.index} than was committed")

    def hashed(self, node: int, index: int, digest: bytes) -> None:
        """Checks that all nodes whose state nobody spoilt have one state hash at one index."""
        if node in self.spoilt_states:
            return
        known, first = self.hashes.setdefault(index, (digest, node))
        self.require(known == digest, f"n{node} has another state after entry {index} than n{first}")
