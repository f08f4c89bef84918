"""Who is still alive, as the leader's server sees it: proposals to end sessions, over a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.runtime.server import SWEEP_S, Server, ServerLimits
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


class Node:
    """A server over a session table of one, and what it proposes."""

    def __init__(self) -> None:
        self.loop: Any = Loop()
        self.session = Session(7, TIMEOUT_MS, "")
        self.proposed: list[frames.Envelope] = []
        self.server = Server(SimpleNamespace(), LIMITS, loop=self.loop, draw=lambda: 1)  # type: ignore[arg-type]
        self.server.serve(
            SimpleNamespace(  # type: ignore[arg-type]
                sessions=SimpleNamespace(table={7: self.session}),
                submit=lambda envelope: self.proposed.append(frames.open_envelope(envelope)),
            )
        )

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


def test_only_a_leader_ends_sessions(node: Node) -> None:
    node.silence(3600)
    assert node.proposed == []
