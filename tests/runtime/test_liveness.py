"""Who is still alive, as the leader's server sees it: proposals to end sessions, over a clock that the test moves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from disheap.errors import Overloaded
from disheap.logs import LINES_AT_ONCE
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind, Status
from disheap.protocol.handshake import Hello
from disheap.runtime.clients.acceptor import SWEEP_S, Acceptor
from disheap.runtime.clients.connection import UNREAD_S, ClientConnection
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.clients.server import EXPIRIES_AT_ONCE, Server
from disheap.runtime.state.session_table import Session, SessionFacts, proof_of

LIMITS = ServerLimits(
    frame_bytes=1 << 20,
    session_window=8,
    handshake_timeout_s=5.0,
    idle_timeout_s=60.0,
    write_buffer_bytes=1 << 20,
    queries=8,
)
TIMEOUT_MS = 2000
REATTACH_MS = 500
SECRET = b"sixteen bytes ab"


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call = at, call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """A clock, and what is to be done when."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay_s, call))
        return self.timers[-1]

    def call_at(self, when: float, call: Callable[..., None], *arguments: object) -> Timer:
        return self.call_later(when - self.now, lambda: call(*arguments))

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now]
        for timer in due:
            if not timer.is_cancelled:
                timer.call()


class Wire:
    """A client's `Connection`, which holds as much unsent as the test says."""

    remote, certificate_names = "test", None

    def __init__(self) -> None:
        self.unsent = 0
        self.is_aborted = False
        self.farewell = b""

    def write(self, data: bytes) -> None:
        self.unsent += len(data)
        if data[4] == Kind.GOODBYE:
            self.farewell = data

    def buffered(self) -> int:
        return self.unsent

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


DIRECTORY = SimpleNamespace(
    cluster_id="c", name="n1", machine_name="heap", number=0, leader_address=lambda: "", client_addresses=list
)


def session(number: int) -> Session:
    return Session(SessionFacts(number, TIMEOUT_MS, REATTACH_MS, "", "", 0, proof_of(SECRET)))


class Node:
    """A server over a session table of one, and what it proposes."""

    def __init__(self, limits: ServerLimits = LIMITS) -> None:
        self.loop: Any = Loop()
        self.session = session(7)
        self.table = {7: self.session}
        self.proposed: list[frames.Envelope] = []
        self.servers: dict[int, Server] = {}
        self.cluster_id = "c"
        acceptor = Acceptor(self, limits, self.loop)
        self.server = self.servers[0] = Server(DIRECTORY, acceptor, draw=lambda: 1, entropy=bytes)  # type: ignore[arg-type]
        self.is_full = False
        self.quorum_silence_s = 0.0
        self.server.serve(
            SimpleNamespace(  # type: ignore[arg-type]
                sessions=SimpleNamespace(table=self.table, machine_version=1),
                submit=lambda envelope: self.proposed.append(frames.open_envelope(envelope)),
                full=lambda: self.is_full,
                contact=SimpleNamespace(quorum_silence_s=lambda: self.quorum_silence_s),
            )
        )

    def stranger(self) -> tuple[ClientConnection, Wire]:
        """Greeted, and without a session."""
        connection, wire = self.server.acceptor.accept(), Wire()
        connection.connection_made(wire)  # type: ignore[arg-type]
        connection.data_received(handshake.hello(Kind.HELLO, Hello()))
        wire.unsent = 0
        return connection, wire

    def client(self) -> tuple[ClientConnection, Wire]:
        """Attached to the session; it says nothing from then on."""
        connection, wire = self.stranger()
        self.session.attachment = self.session.id
        connection.attached(self.session.id, self.session.attachment)
        self.server._attached[self.session.id] = connection
        self.server.queues[self.session.id] = connection.queue
        return connection, wire

    def push(self, frame: bytes) -> None:
        """As while entries are applied."""
        self.server.queues[self.session.id].append(frame)
        self.server.pending.append(self.session.id)

    def silence(self, seconds: float) -> None:
        """Lets so much time pass, with sweeps as in a node that runs."""
        until = self.loop.now + seconds
        while self.loop.now < until:
            self.loop.move(SWEEP_S)
            self.server.acceptor.sweep()
            self.server.sweep()


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_new_leader_gives_every_session_its_whole_timeout(node: Node) -> None:
    node.server.lead(True)
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]


def test_a_new_leader_waits_for_the_clients_of_one_that_was_cut_off() -> None:
    """The former leader answers their pings until it notices that it has no majority. A session that is shorter than
    this would lapse, although its client can reach the majority (found by the simulator, seed 1183)."""
    takeover_s = 3 * TIMEOUT_MS / 1000
    node = Node(msgspec.structs.replace(LIMITS, takeover_s=takeover_s))
    node.server.lead(True)
    node.silence(takeover_s - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]
    node.silence(TIMEOUT_MS / 1000 + 2 * SWEEP_S)
    assert len(node.proposed) == 2, "the one that got lost is proposed again a timeout later"


def test_a_client_that_came_to_the_new_leader_has_its_own_timeout() -> None:
    node = Node(msgspec.structs.replace(LIMITS, takeover_s=3 * TIMEOUT_MS / 1000))
    node.server.lead(True)
    node.client()
    node.silence(TIMEOUT_MS / 1000 + 2 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]


def test_a_session_whose_client_closed_its_connection_lapses_soon(node: Node) -> None:
    """A process that was killed: its kernel closes the connection."""
    node.server.lead(True)
    connection, _ = node.client()
    connection.connection_lost(None)
    node.proposed.clear()  # its DETACH
    node.silence(REATTACH_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]


def test_the_time_to_attach_begins_when_the_log_has_the_end_of_the_connection(node: Node) -> None:
    """A slow disk held it back."""
    node.server.lead(True)
    connection, _ = node.client()
    connection.connection_lost(None)
    node.proposed.clear()
    node.silence(REATTACH_MS / 2000)
    node.server.detached(7)
    node.silence(REATTACH_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]


def closed_by_node(connection: ClientConnection) -> None:
    connection.refuse(Overloaded("no more"))


def said_goodbye(connection: ClientConnection) -> None:
    connection.data_received(frames.plain(Kind.GOODBYE))


def read_nothing(connection: ClientConnection) -> None:
    connection.writing_paused()


@pytest.mark.parametrize("before", [closed_by_node, said_goodbye, read_nothing])
def test_a_connection_that_closes_without_a_word_leaves_the_whole_timeout(
    node: Node, before: Callable[[ClientConnection], None]
) -> None:
    node.server.lead(True)
    connection, _ = node.client()
    before(connection)
    connection.connection_lost(None)
    node.proposed.clear()
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert len(node.proposed) == 1


def test_a_client_that_comes_back_in_time_has_its_whole_timeout_again(node: Node) -> None:
    node.server.lead(True)
    connection, _ = node.client()
    connection.connection_lost(None)
    node.silence(REATTACH_MS / 2000)
    again, _ = node.stranger()
    node.server.attach_session(again, 1, 7, SECRET)
    node.server.attach(7, 1)
    node.proposed.clear()
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []


def test_an_attach_that_was_under_way_on_a_lost_connection_is_a_sign_of_life(node: Node) -> None:
    """The client came back and lost that connection as well, before the log had the ATTACH."""
    node.server.lead(True)
    node.client()[0].connection_lost(None)
    node.silence(REATTACH_MS / 1000 - SWEEP_S)
    again, _ = node.stranger()
    node.server.attach_session(again, 1, 7, SECRET)
    again.connection_lost(None)
    node.proposed.clear()
    node.silence(REATTACH_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [envelope.kind for envelope in node.proposed] == [Kind.EXPIRE]


def test_a_new_leader_gives_clients_with_closed_connections_the_whole_timeout(node: Node) -> None:
    node.server.lead(True)
    node.client()[0].connection_lost(None)
    node.server.lead(False)
    node.server.lead(True)
    node.proposed.clear()
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []


def test_a_wrong_secret_is_refused_before_the_log_and_counted(node: Node) -> None:
    node.server.lead(True)
    connection, wire = node.stranger()
    for number in range(20):
        node.server.attach_session(connection, number, 7, number.to_bytes(frames.SECRET_BYTES, "little"))
    assert node.server.wrong_secrets == 20
    assert node.proposed == []
    assert wire.unsent > 0


def test_an_expiry_that_got_lost_is_proposed_again_a_period_later(node: Node) -> None:
    node.server.lead(True)
    node.silence(2.2 * TIMEOUT_MS / 1000)
    assert len(node.proposed) == 2


def test_a_node_that_stood_still_itself_gives_everybody_their_time_again(node: Node) -> None:
    node.server.lead(True)
    node.loop.now += 3600
    node.server.sweep()
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []


def test_sessions_that_lapse_together_end_a_few_at_a_time(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """What one sweep proposes is one entry, and every replica applies it in one piece. The log has a line for few."""
    caplog.set_level(logging.INFO, "disheap.runtime.clients.server")
    node.table.update({number: session(number) for number in range(100, 100 + 3 * EXPIRIES_AT_ONCE)})
    node.server.lead(True)
    node.silence(TIMEOUT_MS / 1000)
    for sweep in range(1, 4):
        node.silence(SWEEP_S)
        assert len(node.proposed) == sweep * EXPIRIES_AT_ONCE
    node.silence(SWEEP_S)
    assert {envelope.session for envelope in node.proposed} == set(node.table)
    assert caplog.text.count("a session ends") == LINES_AT_ONCE


def test_a_leader_that_is_cut_off_ends_no_session_and_gives_all_their_time(node: Node) -> None:
    """Its proposal would be in the log of the next leader, which may be this node itself. The client looks for another
    leader meanwhile, and there is none (found by the simulator, seed 2215)."""
    node.server.lead(True)
    node.client()
    node.quorum_silence_s = LIMITS.contact_s + 0.1
    node.silence(2 * TIMEOUT_MS / 1000)
    assert node.proposed == []
    node.quorum_silence_s = 0.0
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(3 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]


def test_only_a_leader_ends_sessions(node: Node) -> None:
    node.silence(3600)
    assert node.proposed == []


def test_a_client_that_was_not_listened_to_has_its_whole_timeout_from_then_on(node: Node) -> None:
    """The log was full for long. The sweep comes before the first look at its socket."""
    node.server.lead(True)
    connection, _ = node.client()
    node.is_full = True
    node.server.submit(connection, frames.envelope(Kind.COMMAND, 0, 7, 1, 0))
    node.proposed.clear()
    node.silence(10 * TIMEOUT_MS / 1000)
    node.is_full = False
    node.server.flush()
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [envelope.kind for envelope in node.proposed] == [Kind.EXPIRE]


def test_a_client_that_is_not_read_from_hears_that_its_node_lives(node: Node) -> None:
    """Its pings wait with its commands, and it would look for another node."""
    node.server.lead(True)
    connection, wire = node.client()
    node.is_full = True
    node.server.submit(connection, frames.envelope(Kind.COMMAND, 0, 7, 1, 0))
    for _ in range(4):
        before = wire.unsent
        node.silence(SWEEP_S)
        assert wire.unsent - before == len(frames.plain(Kind.PONG))
    node.is_full = False
    node.server.flush()
    before = wire.unsent
    node.silence(SWEEP_S)
    assert wire.unsent == before


def test_a_client_that_reads_keeps_its_session_however_much_waits_for_it(node: Node) -> None:
    """Two consumers' credit is more than the buffer of one connection; its pings wait behind what it is sent."""
    node.server.lead(True)
    connection, wire = node.client()
    node.push(bytes(4 * LIMITS.write_buffer_bytes))
    node.server.flush()
    connection.writing_paused()
    while wire.unsent > LIMITS.write_buffer_bytes:
        wire.unsent -= LIMITS.write_buffer_bytes // 10
        node.silence(TIMEOUT_MS / 2000)
    assert not wire.is_aborted
    assert node.proposed == []


def test_a_client_that_takes_nothing_of_too_much_loses_its_connection(node: Node) -> None:
    node.server.lead(True)
    _, wire = node.client()
    node.push(bytes(2 * LIMITS.write_buffer_bytes))
    node.server.flush()
    node.silence(UNREAD_S - SWEEP_S)
    assert not wire.is_aborted
    node.silence(2 * SWEEP_S)
    assert wire.is_aborted
    assert not node.server.acceptor._slow


def test_a_client_for_which_little_waits_is_given_its_time(node: Node) -> None:
    node.session.facts = msgspec.structs.replace(node.session.facts, timeout_ms=1 << 30)
    connection, wire = node.client()
    node.push(bytes(LIMITS.write_buffer_bytes // 2))
    node.server.flush()
    connection.writing_paused()
    node.silence(10 * UNREAD_S)
    assert not wire.is_aborted


class Untouchable:
    """The queue of a connection that has nothing to send."""

    def __bool__(self) -> bool:
        raise AssertionError("nothing was gathered for it, and it is looked at")


def test_a_flush_visits_only_connections_for_which_something_was_gathered(node: Node) -> None:
    """There may be thousands that have nothing to send."""
    idle, _ = node.stranger()
    idle.queue = Untouchable()  # type: ignore[assignment]
    node.server._attached[8] = idle
    connection, wire = node.client()
    node.push(b"pushed")
    node.server.flush()
    assert (wire.unsent, connection.queue, node.server.pending) == (len(b"pushed"), [], [])


def test_whoever_has_no_session_and_says_nothing_keeps_no_place(node: Node) -> None:
    _, wire = node.stranger()
    node.silence(LIMITS.idle_timeout_s - SWEEP_S)
    assert not wire.farewell
    node.silence(2 * SWEEP_S)
    assert b"no frame for 60 s" in wire.farewell
    assert not node.loop.timers


def test_whoever_has_no_session_and_pings_now_and_then_keeps_its_place(node: Node) -> None:
    connection, wire = node.stranger()
    for _ in range(4):
        node.silence(LIMITS.idle_timeout_s - SWEEP_S)
        connection.data_received(frames.plain(Kind.PING))
    assert not wire.farewell


def test_whoever_waits_for_an_answer_keeps_its_place_until_it_is_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer, or the hash of a large state."""
    connection, wire = node.stranger()
    monkeypatch.setattr(node.server, "admin", lambda *question: None)
    connection.data_received(frames.request(Kind.ADMIN, 1, b""))
    node.silence(3 * LIMITS.idle_timeout_s)
    assert not wire.farewell
    connection.send(Kind.ANSWER, Status.OK, 1, 0, b"")
    node.silence(2 * LIMITS.idle_timeout_s + SWEEP_S)
    assert wire.farewell


def test_a_session_keeps_its_connection_however_long_its_timeout_is(node: Node) -> None:
    node.session.facts = msgspec.structs.replace(node.session.facts, timeout_ms=1 << 30)
    connection, wire = node.client()
    node.silence(3 * LIMITS.idle_timeout_s)
    assert not wire.farewell
    connection.session_ended()
    node.silence(2 * LIMITS.idle_timeout_s)
    assert wire.farewell
