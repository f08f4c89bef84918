"""Sessions (Raft dissertation §6.3): each command is applied once, however often it is sent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory import peak_bytes

from disheap.errors import UnknownCommand, VersionTooOld, VersionUnsupported
from disheap.interfaces import Effects, MachineContext
from disheap.kernel.types import Entry, EntryKind, Index, Term
from disheap.logs import INTERVAL_S, LINES_AT_ONCE
from disheap.protocol import broker, frames
from disheap.protocol.frames import Attaching, Fault, Kind, Opening, Status
from disheap.runtime.state import state_format
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import REPLY_BYTES, SessionLimits, memory_of, proof_of
from disheap.runtime.state.sessions import DETACHED_AT_ONCE, PUSH_BYTES_AT_ONCE, UNITS_AT_ONCE, Sessions
from disheap.testing.counter import CounterMachine, CounterSettings
from disheap_heap.delivery.credit import CONSUMERS_PER_UNIT
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

SECRET = b"sixteen bytes ab"


class Recorder(ReplySink):
    """Keeps everything; a session that attaches gets a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[int, tuple[int, bytes]] = {}
        self.granted: dict[int, int] = {}
        self.ended: list[int] = []

    def attach(self, session: int, attachment: int) -> None:
        self.queues[session] = []

    def detach(self, session: int) -> None:
        self.queues.pop(session, None)
        self.ended.append(session)

    def grant(self, attachment: int, index: int, session: int, timeout_ms: int) -> None:
        self.granted[attachment] = session

    def answer(self, attachment: int, status: int, index: int, body: bytes) -> None:
        self.answers[attachment] = (status, body)

    def replies(self, session: int) -> list[tuple[int, int, bytes]]:
        """(seq, status, body), taken out."""
        found = [frames.open_reply(f) for f in self.queues[session] if f[4] == Kind.REPLY]
        self.queues[session] = [f for f in self.queues[session] if f[4] != Kind.REPLY]
        return [(seq, status, body) for status, seq, _, body in found]

    def pushes(self, session: int) -> list[bytes]:
        found = [frames.open_numbered(f)[1] for f in self.queues[session] if f[4] == Kind.PUSH]
        self.queues[session] = [f for f in self.queues[session] if f[4] != Kind.PUSH]
        return found


class Replica:
    """Sessions over a counter, fed with entries by hand."""

    def __init__(self, limits: SessionLimits | None = None, machine: type[CounterMachine] = CounterMachine) -> None:
        self.reply_sink = Recorder()
        self.limits = limits or SessionLimits(window=8)
        self.sessions = Sessions(machine(CounterSettings(), MachineContext()), self.limits, self.reply_sink)
        self.index = 0
        self.term = 1
        self.time_ms = 1000

    def entry(self, *envelopes: bytes, term: int | None = None) -> Entry:
        self.index += 1
        self.term = term or self.term
        return Entry(Term(self.term), Index(self.index), EntryKind.COMMANDS, self.time_ms, b"".join(envelopes))

    def apply(self, *envelopes: bytes, term: int | None = None) -> None:
        self.sessions.apply(self.entry(*envelopes, term=term))

    def open(self, attachment: int = 77, timeout_ms: int = 5000) -> int:
        self.apply(opening(attachment, timeout_ms))
        return self.reply_sink.granted[attachment]

    @property
    def total(self) -> int:
        machine = self.sessions.machine
        assert isinstance(machine, CounterMachine)
        return machine.total


def opening(attachment: int, timeout_ms: int = 5000, principal: str = "", address: str = "") -> bytes:
    content = Opening(timeout_ms, "", principal, address, proof_of(SECRET))
    return frames.envelope(Kind.OPEN, 0, 0, attachment, 0, msgspec.msgpack.encode(content))


def attaching(session: int, attachment: int, secret: bytes = SECRET, principal: str = "", address: str = "") -> bytes:
    content = msgspec.msgpack.encode(Attaching(principal, address, proof_of(secret)))
    return frames.envelope(Kind.ATTACH, 0, session, attachment, 0, content)


def command(session: int, seq: int, body: bytes = b"+1", confirmed: int = 0) -> bytes:
    return frames.envelope(Kind.COMMAND, 0, session, seq, confirmed, body)


def test_postponed_work_is_done_in_portions_between_turns_of_the_loop() -> None:
    """10,000 units in one call stopped the loop for 40 ms."""
    replica = Replica(SessionLimits(work=3 * UNITS_AT_ONCE))
    session = replica.open()
    machine, portions = replica.sessions.machine, []
    replica.apply(command(session, 1, b"w%d" % (5 * UNITS_AT_ONCE)))
    advance = machine.advance

    def watched(time_ms: int, limit: int) -> tuple[int, Effects]:
        portions.append(limit)
        return advance(time_ms, limit)

    machine.advance = watched  # type: ignore[method-assign]
    steps = replica.sessions.applying(replica.entry(frames.envelope(Kind.CONTINUE, 0, 0, 0, 0)))
    for expected in (1, 2, 3):
        next(steps)
        assert portions == [UNITS_AT_ONCE] * expected
    assert list(steps) == []
    assert len(portions) == 3
    assert machine.backlog()


def test_an_entry_is_left_after_a_costly_command() -> None:
    """Eight publishes to 10,000 topics each stopped the loop for 240 ms."""
    machine = HeapMachine(HeapSettings(), MachineContext())
    replica = Replica()
    replica.sessions = Sessions(machine, replica.limits, replica.reply_sink)
    session = replica.open()
    many = broker.encode(broker.EnqueueMany("t", [broker.NewMessage(b"x")] * UNITS_AT_ONCE))
    replica.apply(command(session, 1, broker.encode(broker.CreateTopic("t"))))
    steps = replica.sessions.applying(replica.entry(*(command(session, seq, many) for seq in range(2, 6))))
    totals = [machine.stats()["ready"] // UNITS_AT_ONCE for _ in steps]
    assert totals == [0, 1, 2, 3]


def test_a_new_term_detaches_sessions_in_slices() -> None:
    """10,000 sessions that each had consumers stopped the loop for 60 ms."""
    replica = Replica()
    sessions = [replica.open() for _ in range(3 * DETACHED_AT_ONCE)]
    steps = replica.sessions.applying(replica.entry(term=2))
    attached = []
    for _ in range(3):
        next(steps)
        attached.append(sum(replica.sessions.table[number].attachment > 0 for number in sessions))
    assert attached == [2 * DETACHED_AT_ONCE, DETACHED_AT_ONCE, 0]


def test_a_new_term_pauses_after_a_session_with_many_consumers() -> None:
    machine = HeapMachine(HeapSettings(), MachineContext())
    replica = Replica()
    replica.sessions = Sessions(machine, replica.limits, replica.reply_sink)
    sessions = [replica.open() for _ in range(3)]
    replica.apply(command(sessions[0], 1, broker.encode(broker.CreateTopic("t"))))
    subscribe = broker.encode(broker.Subscribe("t", 1))
    replica.apply(*[command(sessions[0], 0, subscribe) for _ in range(CONSUMERS_PER_UNIT * UNITS_AT_ONCE)])
    next(replica.sessions.applying(replica.entry(term=2)))
    assert [bool(replica.sessions.table[number].attachment) for number in sessions] == [False, True, True]


def test_postponed_work_of_one_entry_pushes_a_bounded_number_of_bytes() -> None:
    replica = Replica()
    machine, calls = replica.sessions.machine, []

    def advance(time_ms: int, limit: int) -> tuple[int, Effects]:
        calls.append(limit)
        return limit, [(1, bytes(PUSH_BYTES_AT_ONCE // 2))]

    machine.advance, machine.backlog = advance, lambda: True  # type: ignore[method-assign]
    replica.apply(frames.envelope(Kind.CONTINUE, 0, 0, 0, 0))
    assert len(calls) == 2


def test_a_command_sent_twice_is_applied_once_and_answered_twice_alike() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 1, b"+5"), command(session, 1, b"+5"))
    assert replica.total == 5
    assert replica.reply_sink.replies(session) == [(1, Status.OK, b"5"), (1, Status.OK, b"5")]


def test_a_refusal_is_kept_and_repeated_like_any_reply() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 1, b"x"))
    replica.apply(command(session, 1, b"+9"))
    first, second = replica.reply_sink.replies(session)
    assert first == second
    assert first[1] == Status.ERROR
    assert replica.total == 0


def test_a_command_up_to_the_confirmed_number_is_a_duplicate_and_not_answered() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 1), command(session, 2, confirmed=1))
    replica.reply_sink.replies(session)
    replica.apply(command(session, 1))
    assert replica.reply_sink.replies(session) == []
    assert replica.total == 2


def test_confirmed_replies_are_forgotten_and_the_others_kept() -> None:
    replica = Replica()
    session = replica.open()
    for seq in range(1, 6):
        replica.apply(command(session, seq))
    replica.apply(command(session, 6, confirmed=4))
    assert list(replica.sessions.table[session].replies) == [5, 6]


def test_holes_are_allowed_up_to_the_window_and_no_number_beyond_it_is_used() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 8))
    replica.apply(command(session, 9))
    (_, ok, _), (seq, refused, body) = replica.reply_sink.replies(session)
    assert (ok, refused, seq) == (Status.OK, Status.ERROR, 9)
    assert msgspec.msgpack.decode(body, type=Fault).code == "window-exceeded"
    replica.apply(command(session, 9, confirmed=1))
    assert replica.reply_sink.replies(session) == [(9, Status.OK, b"2")]


def test_replies_that_are_not_confirmed_are_bounded_in_bytes_too() -> None:
    """What is refused leaves its number unused, as beyond the window."""
    replica = Replica(SessionLimits(window=8, reply_bytes=3 * (REPLY_BYTES + 1)))
    session = replica.open()
    replica.apply(*(command(session, seq) for seq in range(1, 5)))
    *_, (seq, refused, body) = replica.reply_sink.replies(session)
    assert (seq, refused) == (4, Status.ERROR)
    fault = msgspec.msgpack.decode(body, type=Fault)
    assert fault.code == "window-exceeded" and "limits.session_reply_bytes" in fault.message
    assert replica.total == 3
    assert replica.sessions.reply_bytes == 3 * (REPLY_BYTES + 1)
    replica.apply(command(session, 4, confirmed=2))
    assert replica.reply_sink.replies(session) == [(4, Status.OK, b"4")]
    assert replica.sessions.reply_bytes == 2 * (REPLY_BYTES + 1)


def test_the_replies_of_all_sessions_together_are_bounded() -> None:
    """Many sessions within their own bounds filled the memory of every node. A refused command is not applied."""
    replica = Replica(SessionLimits(window=8, max_reply_bytes=4 * (REPLY_BYTES + 1)))
    greedy, modest = replica.open(77), replica.open(78)
    replica.apply(*(command(greedy, seq) for seq in range(1, 6)))
    *_, (seq, refused, body) = replica.reply_sink.replies(greedy)
    fault = msgspec.msgpack.decode(body, type=Fault)
    assert (seq, refused, fault.code) == (5, Status.ERROR, "window-exceeded")
    assert "limits.max_reply_bytes" in fault.message and "all clients together" in fault.message
    assert replica.total == 4
    replica.apply(command(greedy, 2))
    assert replica.reply_sink.replies(greedy) == [(2, Status.OK, b"2")], "a repeated command has its reply"
    for seq in (1, 2, 3):
        replica.apply(command(modest, seq, confirmed=seq - 1))
    assert [status for _, status, _ in replica.reply_sink.replies(modest)] == [Status.OK] * 3, "who confirms goes on"
    replica.apply(command(modest, 4, confirmed=2))
    assert replica.reply_sink.replies(modest)[0][1] == Status.ERROR, "one reply for each session, no more"
    replica.apply(command(greedy, 5, confirmed=4), command(modest, 4, confirmed=2))
    assert replica.reply_sink.replies(greedy) == [(5, Status.OK, b"8")]
    assert replica.reply_sink.replies(modest) == [(4, Status.OK, b"9")]


@pytest.mark.parametrize("bound", ["reply_bytes", "max_reply_bytes"])
def test_the_first_awaited_command_is_applied_although_replies_are_full(bound: str) -> None:
    """A full memory refused it, and later commands of the session were applied. Their replies cannot be confirmed
    before the first one is answered (found by the simulator, seed 2432)."""
    replica = Replica(SessionLimits(window=8, **{bound: 3 * (REPLY_BYTES + 1)}))
    session = replica.open()
    replica.apply(*(command(session, seq) for seq in (1, 3, 4)))
    replica.apply(command(session, 5, confirmed=1), command(session, 6, confirmed=1))
    assert [status for _, status, _ in replica.reply_sink.replies(session)][-1] == Status.ERROR
    replica.apply(command(session, 2, confirmed=1))
    assert replica.reply_sink.replies(session)[0][:2] == (2, Status.OK)
    replica.apply(command(session, 6, confirmed=5))
    assert replica.reply_sink.replies(session)[0][:2] == (6, Status.OK)


def test_a_refusal_counts_the_same_whatever_its_text_says() -> None:
    """Another release may word it differently, and the count decides what is applied."""
    short, long = (frames.fault(UnknownCommand("no" * times)) for times in (1, 100))
    assert memory_of((1, Status.ERROR, short)) == memory_of((1, Status.ERROR, long))


def test_replicas_refuse_the_same_replies_after_a_restore() -> None:
    limits = SessionLimits(window=8, max_reply_bytes=3 * (REPLY_BYTES + 1))
    replica, twin = Replica(limits), Replica(limits)
    session, other = replica.open(77), replica.open(78)
    replica.apply(command(session, 1), command(session, 2), command(other, 1))
    twin.sessions.restore(replica.sessions.snapshot())
    for one in (replica, twin):
        one.sessions.apply(Entry(Term(1), Index(9), EntryKind.COMMANDS, 1000, command(other, 2) + command(session, 3)))
        one.sessions.apply(Entry(Term(1), Index(10), EntryKind.COMMANDS, 1000, command(other, 2, confirmed=1)))
    assert replica.sessions.state_hash() == twin.sessions.state_hash()
    assert replica.total == twin.total == 4


def test_what_kept_replies_take_is_known_after_a_restore() -> None:
    replica = Replica()
    session, other = replica.open(), replica.open()
    replica.apply(command(session, 1), command(session, 2), command(other, 1))
    twin = Replica()
    twin.sessions.restore(replica.sessions.snapshot())
    assert twin.sessions.reply_bytes == replica.sessions.reply_bytes == 3 * (REPLY_BYTES + 1)
    for one in (session, other):
        twin.apply(frames.envelope(Kind.CLOSE, 0, one, 9, 0))
    assert twin.sessions.reply_bytes == 0


def test_a_transient_command_is_applied_each_time_and_never_answered() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 0), command(session, 0))
    assert replica.total == 2
    assert replica.reply_sink.replies(session) == []


def test_a_reply_goes_before_the_pushes_of_its_command() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 1), command(session, 2))
    assert [frame[4] for frame in replica.reply_sink.queues[session]] == [Kind.REPLY, Kind.PUSH] * 2


def test_a_bug_in_the_machine_becomes_a_fixed_reply_and_nothing_stops() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 1, b"boom"), command(session, 2, b"+3"))
    (_, failed, body), (_, ok, _) = replica.reply_sink.replies(session)
    fault = msgspec.msgpack.decode(body, type=Fault)
    assert (failed, ok, fault.code) == (Status.ERROR, Status.OK, "internal-error")
    assert "a bug" not in fault.message, "the text is the same on every replica, whatever its release"
    assert replica.total == 3


def test_a_client_cannot_fill_the_log_with_the_tracebacks_of_a_machine(caplog: pytest.LogCaptureFixture) -> None:
    """The bound counts in log time: the next interval takes as many again."""
    replica = Replica(SessionLimits(window=64))
    session = replica.open()
    replica.apply(*(command(session, seq, b"boom") for seq in range(1, LINES_AT_ONCE + 5)))
    assert len(caplog.records) == LINES_AT_ONCE
    replica.time_ms += int(INTERVAL_S * 1000)
    replica.apply(command(session, LINES_AT_ONCE + 5, b"boom"))
    assert len(caplog.records) == LINES_AT_ONCE + 1


def test_a_machine_out_of_memory_stops_the_replica() -> None:
    replica = Replica()
    session = replica.open()

    def starve(*_: object) -> None:
        raise MemoryError

    replica.sessions.machine.apply = starve  # type: ignore[method-assign,assignment]
    with pytest.raises(MemoryError):
        replica.apply(command(session, 1))


def test_a_command_of_a_session_that_has_ended_does_nothing() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(frames.envelope(Kind.EXPIRE, 0, session, 77, 0))
    replica.apply(command(session, 1))
    assert replica.total == 0
    assert replica.reply_sink.ended == [session]


def test_an_expiry_proposed_before_the_client_came_back_does_nothing() -> None:
    replica = Replica()
    session = replica.open(attachment=1)
    replica.apply(attaching(session, 2))
    replica.apply(frames.envelope(Kind.EXPIRE, 0, session, 1, 0))
    assert session in replica.sessions.table


def test_a_detach_of_an_earlier_connection_does_nothing() -> None:
    replica = Replica()
    session = replica.open(attachment=1)
    replica.apply(attaching(session, 2))
    replica.apply(frames.envelope(Kind.DETACH, 0, session, 1, 0))
    assert replica.sessions.table[session].attachment == 2


def test_attaching_a_lapsed_session_is_refused_with_its_reason() -> None:
    replica = Replica()
    replica.apply(attaching(99, 5))
    status, body = replica.reply_sink.answers[5]
    assert status == Status.ERROR
    assert msgspec.msgpack.decode(body, type=Fault).code == "session-expired"


@pytest.mark.parametrize(
    ("secret", "principal"), [(b"another secret..", "w1"), (b"", "w1"), (SECRET, "w2"), (SECRET, "")]
)
def test_an_attach_without_the_secret_or_name_is_refused_and_changes_nothing(secret: bytes, principal: str) -> None:
    replica = Replica()
    replica.apply(opening(1, principal="w1"))
    session = replica.reply_sink.granted[1]
    before = replica.sessions.state_hash()
    replica.apply(attaching(session, 2, secret, principal))
    status, body = replica.reply_sink.answers[2]
    fault = msgspec.msgpack.decode(body, type=Fault)
    assert (status, fault.code) == (Status.ERROR, "wrong-secret")
    assert "new session" in fault.message
    assert replica.sessions.state_hash() == before
    replica.apply(attaching(session, 3, SECRET, "w1"))
    assert replica.reply_sink.answers[3][0] == Status.OK


def test_a_snapshot_holds_no_secret() -> None:
    replica = Replica()
    replica.open()
    stream = b"".join(replica.sessions.snapshot())
    assert SECRET not in stream
    assert proof_of(SECRET) in stream


def test_a_copied_hash_opens_nothing() -> None:
    """The copy may come from a log or a backup: the hash is not the secret."""
    replica = Replica()
    session = replica.open()
    replica.apply(attaching(session, 2, proof_of(SECRET)))
    assert replica.reply_sink.answers[2][0] == Status.ERROR


def test_sessions_are_counted_by_where_they_attached_last_and_by_name() -> None:
    replica = Replica()
    for attachment, address in enumerate(("a", "a", "b"), 1):
        replica.apply(opening(attachment, principal="w", address=address))
    counts = replica.sessions.counts
    assert counts.by_address == {"a": 2, "b": 1}
    replica.apply(attaching(replica.reply_sink.granted[1], 4, SECRET, "w", "b"))
    assert counts.by_address == {"a": 1, "b": 2}
    replica.apply(frames.envelope(Kind.EXPIRE, 0, replica.reply_sink.granted[2], 2, 0))
    copy = Replica()
    copy.sessions.restore(replica.sessions.snapshot())
    for sessions in (replica.sessions, copy.sessions):
        assert (sessions.counts.by_address, sessions.counts.by_principal) == ({"b": 2}, {"w": 2})
        assert sessions.counts.total() == 2


@pytest.mark.parametrize(("timeout_ms", "reattach_ms"), [(60_000, 3000), (2000, 1000), (86_400_000, 3000)])
def test_a_short_session_timeout_shortens_the_time_for_a_new_attach(timeout_ms: int, reattach_ms: int) -> None:
    replica = Replica()
    assert replica.sessions.table[replica.open(timeout_ms=timeout_ms)].facts.reattach_ms == reattach_ms


def test_a_new_term_ends_every_attachment() -> None:
    replica = Replica()
    session = replica.open()
    machine = replica.sessions.machine
    assert isinstance(machine, CounterMachine)
    assert machine.attached == [session]
    replica.apply(term=2)
    assert replica.sessions.table[session].attachment == 0
    assert machine.attached == []


def test_a_cluster_that_starts_anew_gives_out_no_number_of_its_earlier_life() -> None:
    """In memory nothing is left of the first life, and a client of it still holds its number."""
    earlier, later = Replica(), Replica()
    numbers = {earlier.open(attachment=number) for number in range(1, 5)}
    later.time_ms = earlier.time_ms + 1
    assert not numbers & {later.open(attachment=number) for number in range(1, 5)}


def test_one_session_too_many_is_refused_and_the_others_go_on() -> None:
    replica = Replica(SessionLimits(sessions=1))
    session = replica.open(attachment=1)
    replica.apply(opening(2))
    status, body = replica.reply_sink.answers[2]
    assert status == Status.ERROR
    assert msgspec.msgpack.decode(body, type=Fault).code == "limit-reached"
    replica.apply(command(session, 1))
    assert replica.total == 1


@pytest.mark.parametrize(("asked", "granted"), [(1, 1000), (5000, 5000), (10**12, 86_400_000)])
def test_a_session_timeout_is_kept_within_the_bounds(asked: int, granted: int) -> None:
    replica = Replica()
    session = replica.open(timeout_ms=asked)
    assert replica.sessions.table[session].facts.timeout_ms == granted


def test_a_version_beyond_this_release_stops_the_replica_before_it_is_applied() -> None:
    replica = Replica()
    with pytest.raises(VersionUnsupported, match="machine_version 9"):
        replica.apply(frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0, b"\x09\x01"))
    assert replica.sessions.machine_version == 1


class LaterCounter(CounterMachine):
    """A release that no longer runs version 1."""

    versions = (2, 3)

    def set_version(self, version: int) -> None: ...


def stated(version: int) -> bytes:
    return frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0, bytes((version, 1)))


@pytest.mark.parametrize("first", [opening(77), stated(1)], ids=["a command", "the first version"])
def test_a_log_that_begins_at_version_1_is_refused_by_a_release_without_it(first: bytes) -> None:
    """It would carry out commands of version 1 as those of version 2, and differ from the other replicas."""
    replica = Replica(machine=LaterCounter)
    with pytest.raises(VersionUnsupported, match=r"machine_version 1, and this release runs 2 to 3.*an older release"):
        replica.apply(first)
    assert replica.sessions.table == {} and replica.sessions.machine_version == 2


def test_a_release_without_version_1_takes_a_log_that_names_a_later_one() -> None:
    replica, other = Replica(machine=LaterCounter), Replica(machine=LaterCounter)
    replica.apply()
    replica.apply(stated(2), opening(77))
    other.sessions.restore(replica.sessions.snapshot())
    for one in (replica, other):
        one.apply(command(replica.reply_sink.granted[77], 1))
        assert (one.total, one.sessions.machine_version) == (1, 2)


def test_the_hash_does_not_depend_on_how_a_refusal_is_worded() -> None:
    one, other = Replica(), Replica()
    for replica, text in ((one, "no such command"), (other, "unknown command")):
        session = replica.open()
        replica.apply(command(session, 1, b"x"))
        index, status, _ = replica.sessions.table[session].replies[1]
        kept = (index, status, msgspec.msgpack.encode(Fault("unknown-command", text)))
        replica.sessions.table[session].replies[1] = kept
    assert one.sessions.state_hash() == other.sessions.state_hash()
    other.sessions.table[session].replies[1] = (index, status, msgspec.msgpack.encode(Fault("lease-lost", text)))
    assert one.sessions.state_hash() != other.sessions.state_hash()


def test_time_passes_before_the_commands_of_an_entry() -> None:
    replica = Replica()
    session = replica.open()
    replica.apply(command(session, 1, b"@50"))
    replica.time_ms += 50
    replica.apply(command(session, 2, b"+1"))
    assert replica.reply_sink.pushes(session) == [b"ring", b"1"]


Step = tuple[str, int, int, bytes]

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("command"), st.integers(1, 3), st.integers(0, 12), st.sampled_from([b"+1", b"-2", b"x"])),
        st.tuples(st.just("confirm"), st.integers(1, 3), st.integers(1, 12), st.just(b"+4")),
        st.tuples(st.just("attach"), st.integers(1, 4), st.integers(1, 9), st.sampled_from([b"", b"", b"wrong"])),
        st.tuples(st.just("detach"), st.integers(1, 3), st.integers(1, 9), st.just(b"")),
        st.tuples(st.just("expire"), st.integers(1, 3), st.integers(1, 9), st.just(b"")),
        st.tuples(st.just("term"), st.just(0), st.integers(2, 9), st.just(b"")),
    ),
    max_size=30,
)


def _carry_out(replica: Replica, steps: Sequence[Step], opened: Sequence[int]) -> None:
    """Steps count sessions from 1; one beyond those opened is a session that nobody knows."""
    kinds = {"detach": Kind.DETACH, "expire": Kind.EXPIRE}
    for what, position, number, body in steps:
        session = opened[position - 1] if position <= len(opened) else 4
        if what == "term":
            replica.apply(term=max(number, replica.term))
        elif what == "attach":
            replica.apply(attaching(session, number, body or SECRET))
        elif what in kinds:
            replica.apply(frames.envelope(kinds[what], 0, session, number, 0, body))
        elif what == "confirm":
            replica.apply(command(session, number, body, confirmed=number - 1))
        else:
            replica.apply(command(session, number, body))


@given(_steps, st.integers(0, 30), st.randoms(use_true_random=False))
def test_a_snapshot_at_any_moment_goes_on_exactly_as_the_original(
    steps: list[Step], cut: int, random: random.Random
) -> None:
    replica = Replica()
    opened = [replica.open(attachment) for attachment in (1, 2, 3)]
    _carry_out(replica, steps[:cut], opened)
    view = replica.sessions.snapshot()
    copy = Replica()
    stream = b"".join(view)
    size = random.randint(1, 40)
    copy.sessions.restore(iter([stream[at : at + size] for at in range(0, len(stream), size)]))
    copy.index, copy.term = replica.index, replica.term
    assert copy.sessions.state_hash() == replica.sessions.state_hash()
    _carry_out(replica, steps[cut:], opened)
    _carry_out(copy, steps[cut:], opened)
    assert copy.sessions.state_hash() == replica.sessions.state_hash()
    assert copy.total == replica.total


@given(_steps, _steps)
def test_a_snapshot_does_not_show_what_was_applied_after_it_was_taken(steps: list[Step], more: list[Step]) -> None:
    """What is hashed in slices does not show it either, and neither does the older of two views."""
    replica = Replica()
    session = replica.open(1)
    replica.apply(command(session, 1))
    views = []
    for then in (steps, more):
        now = b"".join(replica.sessions.hashing())
        views.append((replica.sessions.state_hash(), replica.sessions.snapshot(), now, replica.sessions.hashing()))
        _carry_out(replica, then, [session])
    for before, view, hashed, slices in views:
        copy = Replica()
        copy.sessions.restore(view)
        assert copy.sessions.state_hash() == before
        assert b"".join(slices) == hashed


class LateCounter(CounterMachine):
    """Its `snapshot` and `hashing` are generator functions: nothing in them runs before the first `next`."""

    def snapshot(self) -> Iterator[bytes]:
        yield from super().snapshot()

    def hashing(self) -> Iterator[bytes]:
        yield self.state_hash()


def test_the_view_of_a_machine_with_generator_functions_is_of_the_call() -> None:
    """A restart put a confirmed total of 2048 back as 2056: the entries behind the view's index were applied twice."""
    late = Replica()
    late.sessions = Sessions(LateCounter(CounterSettings(), MachineContext()), late.limits, late.reply_sink)
    session = late.open(1)
    late.apply(command(session, 1, b"+5"))
    then, view, slices = late.sessions.state_hash(), late.sessions.snapshot(), late.sessions.hashing()
    hashed = b"".join(late.sessions.hashing())
    late.apply(command(session, 2, b"+3"))
    restored = Replica()
    restored.sessions.restore(view)
    assert (restored.total, restored.sessions.state_hash()) == (5, then)
    assert b"".join(slices) == hashed


def test_a_view_of_the_table_costs_nothing_and_is_written_in_small_pieces() -> None:
    """1000 sessions with 2000 small replies each stopped the loop for 0.4 s."""
    replica = Replica()
    opened = [replica.open(attachment) for attachment in range(1, 41)]
    for number in opened:
        replica.sessions.table[number].replies = dict.fromkeys(range(1, 2001), (1, Status.OK, b"r"))
    views: list[Iterator[bytes]] = []
    for take in (replica.sessions.snapshot, replica.sessions.hashing):
        assert peak_bytes(lambda take=take: views.append(take())) < 20_000  # type: ignore[misc]
    assert peak_bytes(lambda: replica.apply(command(opened[0], 2001))) < 300_000, "one session is copied, not all"
    for view in views:
        assert max(map(len, view)) < 40_000


def test_an_envelope_of_an_unknown_kind_stops_the_replica() -> None:
    """To pass over what another release carries out would make the replicas differ (pitfall 30)."""
    replica = Replica()
    with pytest.raises(VersionUnsupported, match="kind 15"):
        replica.apply(frames.envelope(15, 0, 0, 0, 0))


def test_an_envelope_of_a_later_log_version_is_refused_though_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(frames.ENVELOPES_SINCE, Kind.CONTINUE, 2)
    replica = Replica()
    with pytest.raises(VersionUnsupported, match=f"kind {Kind.CONTINUE:d}.*log_version 1"):
        replica.apply(frames.envelope(Kind.CONTINUE, 0, 0, 0, 0))
    replica.sessions.log_version = 2
    replica.apply(frames.envelope(Kind.CONTINUE, 0, 0, 0, 0))


@pytest.mark.parametrize("name", ["machine_version", "log_version"])
def test_a_snapshot_of_a_later_version_is_not_restored(name: str) -> None:
    replica, other = Replica(), Replica()
    setattr(replica.sessions, name, 9)
    before = other.sessions.state_hash()
    with pytest.raises(VersionUnsupported, match=f"{name} 9, and this release runs 1 to 1"):
        other.sessions.restore(replica.sessions.snapshot())
    assert other.sessions.state_hash() == before


def test_a_snapshot_of_a_newer_format_is_refused_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica, other = Replica(), Replica()
    before, format = other.sessions.state_hash(), state_format.FORMAT
    with monkeypatch.context() as later:
        later.setattr(state_format, "FORMAT", format + 1)
        pieces = list(replica.sessions.snapshot())
    with pytest.raises(VersionUnsupported, match=rf"format {format + 1}.*reads format {format}. Install the newer"):
        other.sessions.restore(iter(pieces))
    assert other.sessions.state_hash() == before


def test_a_command_that_the_clusters_version_does_not_know_is_refused_as_such() -> None:
    replica = Replica()
    session = replica.open()

    def apply(*_: object) -> tuple[bytes, Effects]:
        raise VersionTooOld("not before machine_version 2")

    replica.sessions.machine.apply = apply  # type: ignore[method-assign, assignment]
    replica.apply(command(session, 1))
    ((_, status, body),) = replica.reply_sink.replies(session)
    assert (status, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, "version-too-old")


def test_no_piece_of_a_snapshot_is_longer_than_a_storage_has_to_take() -> None:
    replica = Replica(SessionLimits(window=8192))
    session = replica.open()
    table = replica.sessions.table[session]
    table.replies = {seq: (1, Status.OK, bytes(1000 if seq else 3_000_000)) for seq in range(2000)}
    pieces = list(replica.sessions.snapshot())
    assert max(map(len, pieces)) <= 1 << 20
    assert len(pieces) < 30, "small records go together"
    copy = Replica()
    copy.sessions.restore(iter(pieces))
    assert copy.sessions.table[session].replies == table.replies
