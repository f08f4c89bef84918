"""The sequential reference: the committed log, carried out one entry after another by plain lists.

Owns what should have been answered and pushed at each index. That is replies by (session, seq), pushes by session in
order, and answers to queries after a given index. It shares only the wire format with the product. Sessions are
implemented here once more (Raft dissertation §6.3), and `machines` has a reference of the machine.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import msgspec

from disheap.kernel.types import Entry, EntryKind
from disheap.protocol.frames import Attaching, Kind, Opening
from disheap.testing.simulator.checks.envelopes import read_envelopes
from disheap.testing.simulator.checks.machines import ReferenceMachine
from disheap.testing.simulator.checks.reference_exchanges import Refused
from disheap.testing.simulator.checks.safety import Submitted

PRUNE_EVERY = 32
REATTACH_MS = 3000
"""`limits.reattach_timeout_ms` as it comes."""
REPLY_BYTES = 200
"""Counted for each reply kept, besides its body."""
REFUSAL_BYTES = 200
"""Counted for the body of a refusal."""
GRACE = 0.8
"""A share of a session's timeout: its leader's clock may be a little fast."""


class Answer(NamedTuple):
    """What was replied: `body` is the encoded reply, or the code of the refusal."""

    index: int  # type: ignore[assignment]  # a field; tuple.index is not used
    ok: bool
    body: bytes | str


class SessionRecord:
    """One session."""

    def __init__(self, number: int, attachment: int, timeout_ms: int, proof: bytes) -> None:
        self.number = number
        self.timeout_ms = timeout_ms
        self.proof = proof
        self.attachment = attachment
        self.left_s: float | None = None  # of its leader's time, when it lost its connection there
        self.confirmed = 0
        self.answers: dict[int, Answer] = {}


class Replay:
    """Feed it entries in order. Afterwards `answers`, `pushes` and `attached` say what clients may have seen."""

    def __init__(
        self,
        machine: ReferenceMachine,
        session_shift: int,
        window: int,
        max_reply_bytes: int,
        submitted: dict[Submitted, list[float]],
    ) -> None:
        """`machine` is in its first state. `submitted`: when leaders told their logs of the ends of connections and
        sessions, see `SafetyChecker`."""
        self.index = 0
        self.now_ms = 0
        self.machine = machine
        self.answers: dict[tuple[int, int], Answer] = {}
        self.put_off: set[tuple[int, int, int]] = set()  # (session, seq, index) of what was refused for now
        self.applied: dict[tuple[int, int], int] = {}  # how often each command was carried out
        self.pushes: dict[int, list[tuple[int, bytes]]] = {}
        self.attached: dict[tuple[int, int], tuple[int, Answer]] = {}  # (session, index) -> (pushes before, reply)
        self.opened: dict[int, list[int]] = {}  # index -> sessions opened there
        self.expired: list[tuple[int, int]] = []  # (index, session) of those that ended because nothing was heard
        self.commands = 0
        self.objection = ""  # to what a leader put into the log
        self._records: dict[int, SessionRecord] = {}
        self._next_session = 1
        self._term = 0
        self._submitted = {key: list(times) for key, times in submitted.items()}
        self._shift, self._window, self._max_reply_bytes = session_shift, window, max_reply_bytes

    @property
    def table(self) -> dict[int, tuple[int, list[int]]]:
        """By session: what is confirmed, and which replies are kept."""
        return {number: (one.confirmed, sorted(one.answers)) for number, one in self._records.items()}

    # --- entries ---

    def feed(self, entry: Entry) -> None:
        """Apply the next committed entry. Entries come in the order of their indexes."""
        assert entry.index == self.index + 1
        self.index = entry.index
        self.now_ms = max(self.now_ms, entry.time_ms)
        if entry.term != self._term:
            self._begin_term(entry.term)
        self.machine.advance(self.now_ms)
        self._collect()
        for kind, number, seq, confirmed, body in read_envelopes(
            entry.data if entry.kind == EntryKind.COMMANDS else b""
        ):
            if kind == Kind.COMMAND:
                self._command(number, seq, confirmed, body)
            elif kind == Kind.NODE_COMMAND:
                self._node_command(body)
            else:
                self._control(kind, number, seq, body)
            self.machine.settle()
            self._collect()
        if self.index % PRUNE_EVERY == 0:
            self.machine.prune()

    def _begin_term(self, term: int) -> None:
        self._term = term
        for record in self._records.values():
            record.left_s = None
            if record.attachment:
                record.attachment = 0
                self.machine.detach(record.number)

    def _collect(self) -> None:
        for session, push in self.machine.take_pushes():
            self.pushes.setdefault(session, []).append((self.index, push))

    # --- sessions ---

    def _command(self, number: int, seq: int, confirmed: int, body: bytes) -> None:
        record = self._records.get(number)
        if record is None:
            return
        if confirmed > record.confirmed:
            record.confirmed = confirmed
            record.answers = {known: kept for known, kept in record.answers.items() if known > confirmed}
        if seq and (seq in record.answers or seq <= record.confirmed):
            return
        if self._is_put_off(record, seq):
            self.put_off.add((number, seq, self.index))
            return
        answer = self._carry_out(record, body)
        self.commands += 1
        if seq:
            record.answers[seq] = answer
            self.answers[number, seq] = answer
            self.applied[number, seq] = self.applied.get((number, seq), 0) + 1

    def _node_command(self, body: bytes) -> None:
        """A leader's own command has no session, and no client sees the answer."""
        with suppress(Refused):
            self.machine.carry_out(body, 0)

    def _is_put_off(self, record: SessionRecord, seq: int) -> bool:
        """Nothing is done or kept, and the number stays unused."""
        is_over = seq > record.confirmed + 1 and self._reply_bytes() >= self._max_reply_bytes
        return is_over or seq - record.confirmed > self._window

    def _carry_out(self, record: SessionRecord, body: bytes) -> Answer:
        try:
            return Answer(self.index, True, self.machine.carry_out(body, record.number))
        except Refused as refusal:
            return Answer(self.index, False, str(refusal))

    def _reply_bytes(self) -> int:
        """As every node counts the replies that it keeps."""
        return sum(
            REPLY_BYTES + (len(answer.body) if answer.ok else REFUSAL_BYTES)
            for record in self._records.values()
            for answer in record.answers.values()
        )

    def _control(self, kind: int, number: int, seq: int, body: bytes) -> None:
        record = self._records.get(number)
        told_s = self._submitted_s(kind, number, seq) if kind in (Kind.DETACH, Kind.EXPIRE) else None
        if kind == Kind.EXPIRE and record is not None and record.attachment == seq:
            self.expired.append((self.index, number))
            self._check_grace(record, told_s)
        if kind == Kind.OPEN:
            self._open(seq, body)
        elif kind == Kind.ATTACH:
            self._attach(number, record, seq, body)
        elif kind == Kind.CLOSE or (kind == Kind.EXPIRE and record is not None and record.attachment == seq):
            self._end(number)
        elif kind == Kind.DETACH and record is not None and record.attachment == seq:
            record.attachment, record.left_s = 0, told_s
            self.machine.detach(number)

    def _submitted_s(self, kind: int, number: int, attachment: int) -> float | None:
        """For how long the leader of this term had led; None if it did not submit that itself. A leader may tell its
        log twice that the same session without a connection ends: the client was back when the first one was applied.
        So each entry takes one submission."""
        times = self._submitted.get(Submitted(self._term, kind, number, attachment))
        return times.pop(0) if times else None

    def _check_grace(self, record: SessionRecord, led_s: float | None) -> None:
        """A leader has heard nothing of what was before its term: everybody gets a whole timeout from there on. Whoever
        lost its connection in this term has less, from then on."""
        if led_s is None:
            self.objection = f"session {record.number} ends at {self.index}, and no leader of term {self._term} said so"
            return
        allowed_ms, since_s = record.timeout_ms, 0.0
        if record.left_s is not None:
            allowed_ms = min(REATTACH_MS, allowed_ms // 2)
            since_s = record.left_s
        waited_s = led_s - since_s
        if waited_s * 1000 < GRACE * allowed_ms:
            self.objection = (
                f"session {record.number} ends {led_s:.3f} s after its leader began and {waited_s:.3f} s after "
                f"its last sign, at {self.index}"
            )

    def _open(self, attachment: int, body: bytes) -> None:
        opening = msgspec.msgpack.decode(body, type=Opening)
        number = max(self._next_session, self.now_ms << self._shift)
        self._next_session = number + 1
        self._records[number] = SessionRecord(number, attachment, opening.timeout_ms, opening.proof)
        self.machine.open(number)
        self.opened.setdefault(self.index, []).append(number)
        self.attached[number, self.index] = (0, Answer(self.index, True, b""))

    def _attach(self, number: int, record: SessionRecord | None, attachment: int, body: bytes) -> None:
        so_far = len(self.pushes.get(number, ()))
        if record is None:
            self.attached[number, self.index] = (so_far, Answer(self.index, False, "session-expired"))
            return
        claim = msgspec.msgpack.decode(body, type=Attaching)
        if claim.proof != record.proof:
            self.attached[number, self.index] = (so_far, Answer(self.index, False, "wrong-secret"))
            return
        record.attachment, record.left_s = attachment, None
        reply = self.machine.attach(number, claim.held)
        self.attached[number, self.index] = (so_far, Answer(self.index, True, reply))

    def _end(self, number: int) -> None:
        if self._records.pop(number, None) is not None:
            self.machine.expire(number)
