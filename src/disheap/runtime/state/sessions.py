"""Sessions: each command is applied once, however often it is sent (Raft dissertation §6.3).

A layer around any state machine, and part of the replicated state. A command carries (session, seq, confirmed). It is a
duplicate if `seq <= confirmed` of its session, or if the reply table holds it: then the kept reply is given. Holes are
allowed. `confirmed` says that the client has every reply up to it, so those are forgotten.

A session outlives its connections. `ATTACH` is logged, so that "from this index on, pushes go to that connection" is a
place in the log. An attachment is named by a number that the leader drew. A new term ends all attachments, since the
connections of the leader before are gone.

This module decides what is replied and pushed. `ReplySink` decides where frames go. Only a leader sends them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import chain

import msgspec

from disheap.errors import (
    CommandRefused,
    InternalError,
    LimitReached,
    SessionExpired,
    WindowExceeded,
)
from disheap.interfaces import (
    Discarding,
    Effects,
    Hashing,
    MemoryEstimating,
    Principal,
    Relaying,
    StateMachine,
    WorkCounting,
)
from disheap.kernel.types import Entry
from disheap.logs import INTERVAL_S, LINES_AT_ONCE, get_logger
from disheap.protocol import frames
from disheap.protocol.frames import ENVELOPE, LOG_VERSIONS, Attaching, Kind, Opening, Status, fault
from disheap.runtime.state import state_format
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_hash import hashed_sessions
from disheap.runtime.state.session_table import (
    HINT,
    REFUSAL_BYTES,
    REPLY_BYTES,
    SESSION_BYTES,
    Kept,
    Session,
    SessionCounts,
    SessionLimits,
    granted,
    wrong_secret,
)
from disheap.runtime.state.state_format import Head, Row
from disheap.runtime.state.version_checks import (
    FIRST_MACHINE_VERSION,
    check_first_kind,
    check_kind,
    check_versions,
)

log = get_logger(__name__)

SESSION_TIME_SHIFT = 16  # session numbers: milliseconds, and room for 65,536 in each before they run ahead of time
_encode = msgspec.msgpack.encode
_opening = msgspec.msgpack.Decoder(Opening)
_attaching = msgspec.msgpack.Decoder(Attaching)

COMMANDS_AT_ONCE = 8
"""Commands between two looks at the clock. Each takes microseconds as a rule, and a machine bounds what one takes."""

UNITS_AT_ONCE = 500
"""Units of work between two looks at the clock, of commands or of what was put off: 1 to 5 ms."""

PUSH_BYTES_AT_ONCE = 8 << 20
"""How much the postponed work of one entry may push. The rest is left to the next entry, when these bytes may be
sent."""

DETACHED_AT_ONCE = 100
"""Sessions that lose their attachment between two looks at the clock, when a new term begins: 0.5 ms. After a session
with thousands of consumers, the units of work that the machine counts are the bound."""

DISCARDED_AT_ONCE = 5
"""Sessions that one slice frees: 1 ms, if each has as many replies as the window allows."""

DECIDES_REPLIES = {
    "SESSION_TIME_SHIFT": SESSION_TIME_SHIFT,
    "UNITS_AT_ONCE": UNITS_AT_ONCE,
    "PUSH_BYTES_AT_ONCE": PUSH_BYTES_AT_ONCE,
    "REPLY_BYTES": REPLY_BYTES,
    "REFUSAL_BYTES": REFUSAL_BYTES,
}
"""Constants that decide what a replica does, beside the settings. They are part of the digest that nodes compare, so
nodes of two releases that differ here refuse each other. `DETACHED_AT_ONCE`,
`DISCARDED_AT_ONCE` and `COMMANDS_AT_ONCE` decide pauses only."""

INTERNAL_ERROR = "the state machine failed on this command; its state is as before. See the node's log"


class Sessions:
    """The whole replicated state of a group: session table and machine."""

    def __init__(self, machine: StateMachine, limits: SessionLimits, reply_sink: ReplySink, group: int = 0) -> None:
        self.group = group
        self.machine = machine
        self.machine_version = machine.versions[0]
        self.is_version_known = self.machine_version <= FIRST_MACHINE_VERSION  # of what was and will be applied
        self.log_version = LOG_VERSIONS[0]
        self.table: dict[int, Session] = {}
        self.counts = SessionCounts()
        self.applied_commands = 0
        self.failed_commands = 0
        self.reply_bytes = 0  # of memory, for the replies of all sessions
        self._limits = limits
        self._reply_sink = reply_sink
        self._next_session = 1
        self._term = 0
        self._views = 0  # taken of the table
        self._failures_until_ms = self._failures_logged = 0  # of the machine, in an interval of log time
        self._work_done: Callable[[], int] = machine.work_done if isinstance(machine, WorkCounting) else _uncounted
        self.relay: Callable[[int, bytes], Effects | None] = (
            machine.relay if isinstance(machine, Relaying) else _relay_nothing
        )
        """What the machine relays of a transient command; None for what has to go through the log."""
        machine.set_version(self.machine_version)

    def memory_bytes(self) -> int:
        """An estimate of the session table's memory, with the kept replies."""
        return self.reply_bytes + SESSION_BYTES * len(self.table)

    def machine_bytes(self) -> int | None:
        """The machine's own estimate of its memory, or None if it makes none."""
        return self.machine.memory_bytes() if isinstance(self.machine, MemoryEstimating) else None

    # --- applying ----------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """One committed entry: time first, then its commands in order."""
        for _ in self.applying(entry):
            pass

    def applying(self, entry: Entry) -> Iterator[None]:
        """Applies an entry in steps. The caller may pause at each yield. Between two yields time passes, or a few
        commands are applied."""
        index = entry.index
        if entry.data and not self.is_version_known:
            check_first_kind(entry.data[frames.LENGTH_BYTES], index, self.machine.versions)
        if entry.term != self._term:
            yield from self._begin_term(entry.term, index)
        yield from self._pass_time(index, entry.time_ms)
        if entry.data:
            yield from self._apply_commands(index, entry.time_ms, entry.data)

    def _pass_time(self, index: int, time_ms: int) -> Iterator[None]:
        """Runs due timers and postponed work, in portions. Values that are the same on every replica decide when to
        stop. That is the limit, the bytes pushed, and whether the machine has a backlog."""
        left, pushed = self._limits.work, 0
        while True:
            portion = min(left, UNITS_AT_ONCE)
            _, effects = self.machine.advance(time_ms, portion)
            if effects:
                self._push(index, effects)
                pushed += sum(len(body) for _, body in effects)
            left -= portion
            yield
            if left <= 0 or pushed >= PUSH_BYTES_AT_ONCE or not self.machine.backlog():
                return

    def _apply_commands(self, index: int, time_ms: int, data: bytes) -> Iterator[None]:
        table, queues, views = self.table, self._reply_sink.queues, self._views
        unpack, header = ENVELOPE.unpack_from, ENVELOPE.size
        pack_reply, reply_rest = frames.REPLY.pack, frames.REPLY_REST
        command, reply_kind = int(Kind.COMMAND), frames.REPLY_KIND
        work_done, execute = self._work_done, self._execute
        position, size = 0, len(data)
        commands_left, pause_at = COMMANDS_AT_ONCE, work_done() + UNITS_AT_ONCE
        while position < size:
            commands_left -= 1
            if not commands_left or work_done() >= pause_at:
                yield
                commands_left, pause_at = COMMANDS_AT_ONCE, work_done() + UNITS_AT_ONCE
            length, kind, _, number, seq, confirmed = unpack(data, position)
            start, position = position + header, position + 4 + length
            body = data[start:position]
            if kind != command:
                self._control(kind, index, time_ms, number, seq, body)
                continue
            session = table.get(number)
            if session is None:
                continue  # it ended between the leader's receipt and now; the client learns it when it attaches
            if session.view != views:
                session = self._to_change(session)
            if confirmed > session.confirmed:
                self.reply_bytes -= session.confirm(confirmed)
            kept = session.replies.get(seq)
            if kept is not None:
                effects: Effects = ()
            elif seq and seq <= session.confirmed:
                continue
            else:
                kept, effects = execute(session, index, time_ms, seq, body)
            if seq:
                queue = queues.get(number)
                if queue is not None:  # the reply goes first: the client then knows the consumer a push names
                    if not queue:
                        self._reply_sink.pending.append(number)
                    replied_at, status, text = kept
                    queue.append(pack_reply(reply_rest + len(text), reply_kind, status, seq, replied_at) + text)
            if effects:
                self._push(index, effects)

    def _execute(self, session: Session, index: int, time_ms: int, seq: int, body: bytes) -> tuple[Kept, Effects]:
        """Apply one new command and keep its reply."""
        if seq - session.confirmed > self._limits.window:
            return (index, Status.ERROR, self._window_exceeded), ()
        limits = self._limits
        is_next = seq <= session.confirmed + 1  # its reply lets the client confirm those that are kept
        if not is_next and (session.reply_bytes >= limits.reply_bytes or self.reply_bytes >= limits.max_reply_bytes):
            return (index, Status.ERROR, self._refuse_reply(session)), ()
        kept, effects = self._carry_out(index, time_ms, session.id, body)
        if seq:
            self.reply_bytes += session.keep(seq, kept)
        return kept, effects

    def _may_log_failure(self, time_ms: int) -> bool:
        """A client may cause a failure with each command. The log takes a few in an interval of log time."""
        if time_ms >= self._failures_until_ms:
            self._failures_until_ms, self._failures_logged = time_ms + int(INTERVAL_S * 1000), 0
        self._failures_logged += 1
        return self._failures_logged <= LINES_AT_ONCE

    def _carry_out(self, index: int, time_ms: int, session: int, body: bytes) -> tuple[Kept, Effects]:
        """Have the machine apply a command. `session` is 0 for a NODE_COMMAND."""
        try:
            reply, effects = self.machine.apply(index, time_ms, session, body)
        except CommandRefused as error:
            kept = (index, Status.ERROR, fault(error))
        except MemoryError:
            raise  # this replica alone is short of memory: going on would make it differ from the others
        except Exception:
            if self._may_log_failure(time_ms):
                log.exception("the state machine failed on a command", group=self.group, index=index, session=session)
            kept = (index, Status.ERROR, fault(InternalError(INTERNAL_ERROR)))
        else:
            self.applied_commands += 1
            return (index, Status.OK, reply), effects
        self.failed_commands += 1
        return kept, ()

    @property
    def _window_exceeded(self) -> bytes:
        text = f"more than {self._limits.window} commands are unanswered; read replies before sending more"
        return fault(WindowExceeded(text))

    def _refuse_reply(self, session: Session) -> bytes:
        """Returns why one more reply of this session cannot be kept, or None. Then the command is not applied, and its
        number stays unused. The first command that the client has no reply to is never refused. So a client that reads
        its replies makes progress, command by command, whatever the others do."""
        limits = self._limits
        if session.reply_bytes >= limits.reply_bytes:
            who, limit, setting = "the client has", limits.reply_bytes, "limits.session_reply_bytes"
        else:
            who, limit, setting = "all clients together have", limits.max_reply_bytes, "limits.max_reply_bytes"
        text = f"the replies that {who} not confirmed take {limit} bytes ({setting}); read replies before sending more"
        return fault(WindowExceeded(text))

    def _push(self, index: int, effects: Effects) -> None:
        queues = self._reply_sink.queues
        if not queues:
            return
        for number, body in effects:
            queue = queues.get(number)
            if queue is not None:
                if not queue:
                    self._reply_sink.pending.append(number)
                queue.append(frames.push(index, body))

    # --- what happens to sessions themselves -------------------------------------------------------------------------

    def _begin_term(self, term: int, index: int) -> Iterator[None]:
        """Detaches every session. The caller may pause at each yield: there may be thousands of sessions, each with
        thousands of consumers."""
        self._term = term
        count, worked = 0, self._work_done()
        for session in list(self.table.values()):
            if not session.attachment:
                continue
            if count >= DETACHED_AT_ONCE or self._work_done() - worked >= UNITS_AT_ONCE:
                yield
                count, worked = 0, self._work_done()
            count += 1
            self._to_change(session).attachment = 0
            self._push(index, self.machine.session_detached(session.id))

    def _control(self, kind: int, index: int, time_ms: int, number: int, seq: int, body: bytes) -> None:
        check_kind(kind, index, self.log_version)
        match kind:
            case Kind.OPEN:
                self._open(index, time_ms, seq, body)
            case Kind.ATTACH:
                self._attach(index, number, seq, body)
            case Kind.CLOSE:
                self._end(index, number)
                self._reply_sink.answer(seq, Status.OK, index, b"")
            case Kind.DETACH:
                self._detach(index, number, seq)
            case Kind.EXPIRE:
                session = self.table.get(number)
                if session is not None and session.attachment == seq:
                    self._reply_sink.expired(number, session.facts.label)
                    self._end(index, number)
            case Kind.RAISE_VERSION:
                self._raise_versions(*frames.RAISED.unpack(body))
            case Kind.NODE_COMMAND:
                (_, status, reply), effects = self._carry_out(index, time_ms, 0, body)
                self._reply_sink.node_command(seq, status, reply)
                self._push(index, effects)
            case Kind.CONTINUE:
                pass  # the time of its entry was all there is to it

    def _open(self, index: int, time_ms: int, attachment: int, body: bytes) -> None:
        if len(self.table) >= self._limits.sessions:
            limit = self._limits.sessions
            refusal = LimitReached(f"the cluster has {limit} sessions, its limit (limits.sessions); {HINT}")
            self._reply_sink.answer(attachment, Status.ERROR, index, fault(refusal))
            return
        opening = _opening.decode(body)
        # The number is made of the entry's time. A node in memory may start anew, and a client of its earlier life may
        # still hold a number. If that was given out again, the client would attach to a stranger's session, and take
        # its deliveries.
        number = max(self._next_session, time_ms << SESSION_TIME_SHIFT)
        session = Session(granted(opening, number, time_ms, self._limits), opening.address, self._views)
        self._next_session = number + 1
        self.table[number] = session
        self.counts.opened(session)
        session.attachment = attachment
        self.machine.session_opened(number, Principal(opening.principal))
        self._reply_sink.attach(number, attachment)
        self._reply_sink.grant(attachment, index, number, session.facts.timeout_ms)

    def _attach(self, index: int, number: int, attachment: int, body: bytes) -> None:
        session, claim = self.table.get(number), _attaching.decode(body)
        if session is None:
            refusal = SessionExpired(f"session {number} lapsed; what it held was given back")
            self._reply_sink.answer(attachment, Status.ERROR, index, fault(refusal))
            return
        if not session.belongs_to(claim):
            self._reply_sink.answer(attachment, Status.ERROR, index, fault(wrong_secret(number)))
            return
        try:
            reply, effects = self.machine.session_attached(number, claim.held)
        except CommandRefused as refusal:
            self._reply_sink.answer(attachment, Status.ERROR, index, fault(refusal))
            return
        session = self._to_change(session)
        self.counts.moved(session, claim.address)
        session.attachment, session.address = attachment, claim.address
        self._reply_sink.attach(number, attachment)
        self._reply_sink.answer(attachment, Status.OK, index, reply)
        self._push(index, effects)

    def _detach(self, index: int, number: int, attachment: int) -> None:
        session = self.table.get(number)
        if session is not None and session.attachment == attachment:
            self._to_change(session).attachment = 0
            self._reply_sink.detached(number)
            self._push(index, self.machine.session_detached(number))

    def _end(self, index: int, number: int) -> None:
        session = self.table.pop(number, None)
        if session is not None:
            self.counts.ended(session)
            self.reply_bytes -= session.reply_bytes
            effects = self.machine.session_expired(number)
            self._reply_sink.detach(number)
            self._push(index, effects)

    def end_all(self, time_ms: int) -> None:
        """End every session at once, and do all work that this postpones. Nobody is told. For a state that begins a new
        cluster. No session gets what another one gives back: all are detached first."""
        for number in self.table:
            self.machine.session_detached(number)
        for number in list(self.table):
            self._end(0, number)
        while True:
            self.machine.advance(time_ms, self._limits.work)
            if not self.machine.backlog():
                return

    def _raise_versions(self, machine_version: int, log_version: int) -> None:
        check_versions(machine_version, log_version, self.machine.versions)
        self.is_version_known = True
        self.log_version = max(self.log_version, log_version)
        if machine_version > self.machine_version:
            self.machine_version = machine_version
            self.machine.set_version(machine_version)

    # --- snapshots (dissertation §5) ---------------------------------------------------------------------------------

    def snapshot(self) -> Iterator[bytes]:
        """Returns a view of this moment in constant time. A session is copied when it changes for the first time after
        that. Replies and machine records are immutable."""
        head = Head(
            state_format.FORMAT, self.machine_version, self.log_version, self._next_session, self._term, len(self.table)
        )
        return state_format.write(head, map(_row, self._view()), _begin(self.machine.snapshot()))

    def _view(self) -> list[Session]:
        self._views += 1
        return list(self.table.values())

    def _to_change(self, session: Session) -> Session:
        """Copy-on-write: returns a session that is safe to change. If a view holds the object, a copy takes its place
        in the table."""
        if session.view == self._views:
            return session
        mine = self.table[session.id] = session.copied(self._views)
        return mine

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Replace the whole state. Raises `SnapshotDamaged`, after which this object is of no use, and
        `VersionUnsupported`."""
        reader = state_format.Reader(chunks)
        head = reader.head()
        check_versions(head.machine_version, head.log_version, self.machine.versions)
        table: dict[int, Session] = {}
        reply_bytes = 0
        for _ in range(head.sessions):
            row = reader.row()
            session = table[row.facts.id] = Session(row.facts, row.address)
            session.attachment, session.confirmed = row.attachment, row.confirmed
            for seq, kept in row.replies:
                reply_bytes += session.keep(seq, kept)
        self.machine.restore(reader.rest())
        self.machine.set_version(head.machine_version)
        self.machine_version, self.log_version = head.machine_version, head.log_version
        self.is_version_known = True
        self._next_session, self._term = head.next_session, head.term
        self.table, self.counts, self.reply_bytes = table, SessionCounts(table.values()), reply_bytes

    def discarding(self) -> Iterator[None]:
        """Frees the whole state in slices. Another state has replaced it, and nothing is applied to it any more."""
        machine = self.machine
        yield from machine.discarding() if isinstance(machine, Discarding) else ()
        while self.table:
            for _ in range(min(DISCARDED_AT_ONCE, len(self.table))):
                self.reply_bytes -= self.table.popitem()[1].reply_bytes
            yield

    def state_hash(self) -> bytes:
        """16 bytes; equal at equal index on all replicas."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self._head())
        for piece in hashed_sessions(self.table.values()):
            digest.update(piece)
        digest.update(self.machine.state_hash())
        return digest.digest()

    def hashing(self) -> Iterator[bytes]:
        """Hashes the state of this moment in slices. The hash differs from that of `state_hash` if the machine has
        slices of its own."""
        machine = self.machine
        slices = _begin(machine.hashing()) if isinstance(machine, Hashing) else iter((machine.state_hash(),))
        return chain((self._head(),), hashed_sessions(self._view()), slices)

    def _head(self) -> bytes:
        return _encode((self.machine_version, self.log_version, self._next_session, self._term))


def _begin(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Makes the first piece now. A machine whose method is a generator function takes its view at the first `next`. If
    that came later, the view would show entries behind the index that it is stored under. A restart would then apply
    them a second time."""
    first = next(pieces, None)
    return iter(()) if first is None else chain((first,), pieces)


def _relay_nothing(time_ms: int, command: bytes) -> None:
    """Returns None: the machine lacks the power `Relaying`."""


def _uncounted() -> int:
    return 0


def _row(s: Session) -> Row:
    return Row(s.facts, s.address, s.attachment, s.confirmed, s.replies.items())
