"""Who is still alive, as the leader's server sees it: proposals to end sessions, over a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.runtime.connections import UNREAD_S, ClientConnection
from disheap.runtime.server import EXPIRIES_AT_ONCE, SWEEP_S, Server, ServerLimits
from disheap.runtime.sessions import Session

LIMITS = ServerLimits(
    frame_bytes=1 << 20,
    session_window=8,
    connections=8,
    handshake_timeout_s=5.0,
    write_buffer_bytes=1 << 20,
    queries=8,
)
TIMEOUT_MS = 2000


class Loop:
    """A loop of which only the clock is asked."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: object) -> Any:
        return SimpleNamespace(cancel=lambda: None)


class Wire:
    """A client's `Connection`, which holds as much unsent as the test says."""

    remote, certificate_name = "test", None

    def __init__(self) -> None:
        self.unsent = 0
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.unsent += len(data)

    def buffered(self) -> int:
        return self.unsent

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


class Node:
    """A server over a session table of one, and what it proposes."""

    def __init__(self) -> None:
        self.loop: Any = Loop()
        self.session = Session(7, TIMEOUT_MS, "")
        self.table = {7: self.session}
        self.proposed: list[frames.Envelope] = []
        self.server = Server(SimpleNamespace(), LIMITS, loop=self.loop, draw=lambda: 1)  # type: ignore[arg-type]
        self.is_full = False
        self.server.serve(
            SimpleNamespace(  # type: ignore[arg-type]
                sessions=SimpleNamespace(table=self.table),
                submit=lambda envelope: self.proposed.append(frames.open_envelope(envelope)),
                full=lambda: self.is_full,
            )
        )

    def client(self) -> tuple[ClientConnection, Wire]:
        """Attached to the session; it says nothing from then on."""
        connection, wire = self.server.accept(), Wire()
        connection.connection_made(wire)  # type: ignore[arg-type]
        connection.session = connection.attachment = self.session.attachment = self.session.id
        self.server._attached[self.session.id] = connection
        self.server.of_session[self.session.id] = connection.queue
        return connection, wire

    def silence(self, seconds: float) -> None:
        """So much time passes, with sweeps as in a node that runs."""
        until = self.loop.now + seconds
        while self.loop.now < until:
            self.loop.now += SWEEP_S
            self.server.sweep()


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_new_leader_gives_every_session_its_whole_timeout_from_its_election_on(node: Node) -> None:
    node.server.lead(True)
    node.silence(TIMEOUT_MS / 1000 - SWEEP_S)
    assert node.proposed == []
    node.silence(2 * SWEEP_S)
    assert [(envelope.kind, envelope.session) for envelope in node.proposed] == [(Kind.EXPIRE, 7)]


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


def test_sessions_that_lapse_together_end_a_few_at_a_time(node: Node) -> None:
    """What one sweep proposes is one entry, and every replica applies it in one piece."""
    node.table.update({number: Session(number, TIMEOUT_MS, "") for number in range(100, 100 + 3 * EXPIRIES_AT_ONCE)})
    node.server.lead(True)
    node.silence(TIMEOUT_MS / 1000)
    for sweep in range(1, 4):
        node.silence(SWEEP_S)
        assert len(node.proposed) == sweep * EXPIRIES_AT_ONCE
    node.silence(SWEEP_S)
    assert {envelope.session for envelope in node.proposed} == set(node.table)


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


def test_a_client_that_reads_keeps_its_connection_and_its_session_however_much_waits_for_it(node: Node) -> None:
    """Two consumers' credit is more than the buffer of one connection; its pings wait behind what it is sent."""
    node.server.lead(True)
    connection, wire = node.client()
    connection.queue.append(bytes(4 * LIMITS.write_buffer_bytes))
    node.server.flush()
    connection.writing_paused()
    while wire.unsent > LIMITS.write_buffer_bytes:
        wire.unsent -= LIMITS.write_buffer_bytes // 10
        node.silence(TIMEOUT_MS / 2000)
    assert not wire.is_aborted
    assert node.proposed == []


def test_a_client_for_which_too_much_waits_and_that_takes_nothing_loses_its_connection(node: Node) -> None:
    node.server.lead(True)
    connection, wire = node.client()
    connection.queue.append(bytes(2 * LIMITS.write_buffer_bytes))
    node.server.flush()
    node.silence(UNREAD_S - SWEEP_S)
    assert not wire.is_aborted
    node.silence(2 * SWEEP_S)
    assert wire.is_aborted
    assert not node.server.slow


def test_a_client_for_which_little_waits_is_given_its_time(node: Node) -> None:
    node.session.timeout_ms = 1 << 30
    connection, wire = node.client()
    connection.queue.append(bytes(LIMITS.write_buffer_bytes // 2))
    node.server.flush()
    connection.writing_paused()
    node.silence(10 * UNREAD_S)
    assert not wire.is_aborted
