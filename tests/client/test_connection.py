"""The decisions about a client's connection, without a socket and without a clock that runs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from disheap.client.core import keepalive
from disheap.client.core.broker_session import SessionLost
from disheap.client.core.connection import Connector
from disheap.client.core.handshake import Handshake
from disheap.client.core.url import BrokerUrl
from disheap.errors import ConfigError, ConnectionLost, DisheapError, WrongCluster
from disheap.protocol import broker, frames
from disheap.protocol.frames import Kind

from .fake_node import FakeCluster, FakePeer

ADDRESSES = ("a:1", "b:1", "c:1")


class Line:
    """A `Channel` to a node of a fake cluster."""

    def __init__(self, address: str, handshake: Handshake, cluster: FakeCluster) -> None:
        self.address, self.handshake = address, handshake
        self.peer = FakePeer(cluster)
        self.said: bytes | None = None  # the farewell, once it has ended

    def end(self, farewell: bytes = b"") -> None:
        assert self.said is None, "ended twice"
        self.said = farewell


class Client(Connector[Line]):
    """A driver without I/O: what it is told is kept in lists."""

    def __init__(self, cluster: FakeCluster, url: BrokerUrl | None = None) -> None:
        super().__init__(
            url or BrokerUrl(ADDRESSES),
            observer=False,
            client="test",
            opaque=False,
            generator=random.Random(1),
            last_nodes=None,
        )
        self.cluster = cluster
        self.now = 100.0
        self.lines: list[Line] = []
        self.refusing: dict[str, Exception] = {}
        self.answers: list[tuple[Any, Any]] = []
        self.pushes: list[Any] = []
        self.moves: list[tuple[Line | None, Line | None]] = []
        self.ended: list[DisheapError] = []

    def dialled(self) -> list[str]:
        return [line.address for line in self.lines]

    def hear(self, line: Line, data: bytes | None = None) -> None:
        """What the node answers, or `data`, and all that follows from it."""
        answer = line.peer.receive(line.handshake.hello) if data is None else data
        while answer:
            self._received(line, answer)
            answer = line.peer.receive(self._take_output()) if line is self._channel else b""

    def opened(self) -> Line:
        """With a session."""
        self._search()
        line = self.lines[-1]
        self.hear(line)
        assert self.session_id and self._channel is line
        return line

    def _now(self) -> float:
        return self.now

    def _dial(self, address: str, handshake: Handshake) -> Line:
        if address in self.refusing:
            raise self.refusing[address]
        self.lines.append(Line(address, handshake, self.cluster))
        return self.lines[-1]

    def _flush(self) -> None:
        pass

    def _resolve(self, waiter: Any, result: Any) -> None:
        self.answers.append((waiter, result))

    def _deliver(self, push: broker.Push) -> None:
        self.pushes.append(push)

    def _session_lost(self, event: SessionLost) -> None:
        self.pushes.append(event)

    def _channel_changed(self, before: Line | None, after: Line | None) -> None:
        assert before is None or before.said is None, "it is told before the channel is closed"
        self.moves.append((before, after))

    def _ended(self, error: DisheapError) -> None:
        self.ended.append(error)


@pytest.fixture
def client() -> Client:
    return Client(FakeCluster())


def test_the_first_attempt_that_is_let_in_ends_the_others(client: Client) -> None:
    client._search()
    client.now += 0.3
    client._search()
    first, second = client.lines
    client.hear(second)
    assert client._channel is second and client.session_id
    assert (first.said, second.said) == (b"", None) and client.moves == [(None, second)]
    client.hear(first)
    assert client._channel is second, "a late answer changes nothing"


def test_an_attempt_without_an_answer_is_given_up_and_the_search_goes_on(client: Client) -> None:
    client._search()
    client.now += client.url.connect_timeout_s
    client._search()
    assert client.lines[0].said == b"" and len(client.lines) > 1
    assert "no answer within 5 s" in client._route.why()


@pytest.mark.parametrize(("timeout_ms", "attempt_s"), [(1000, 0.25), (8000, 2.0), (60_000, 5.0)])
def test_an_attempt_to_save_a_session_takes_a_part_of_its_timeout(timeout_ms: int, attempt_s: float) -> None:
    """A packet that was lost to a cut is sent again by TCP after 1 s, 3 s and 7 s. A session of 1 s is over by then."""
    client = Client(FakeCluster(timeout_ms=timeout_ms), BrokerUrl(ADDRESSES[:1]))
    client.opened()
    client._drop("the test wants it")
    client._search()
    client.now += attempt_s - 0.001
    client._search()
    assert client.lines[1].said is None
    client.now += 0.002
    client._search()
    assert client.lines[1].said == b"" and f"no answer within {attempt_s:g} s" in client._route.why()


def test_the_first_attempt_has_its_whole_time_however_short_the_session_is() -> None:
    client = Client(FakeCluster(), BrokerUrl(ADDRESSES[:1], session_timeout_ms=1000))
    client._search()
    client.now += 4.9
    client._search()
    assert client.lines[0].said is None


def test_a_node_that_does_not_lead_sends_the_client_to_the_one_that_does(client: Client) -> None:
    client.cluster.leads, client.cluster.leader = False, "d:1"
    client._search()
    client.hear(client.lines[0])
    client.cluster.leads = True
    client._search()
    assert client.dialled()[1] == "d:1" and client.lines[0].said == b""
    client.hear(client.lines[1])
    assert client.session_id


def test_an_address_that_cannot_be_dialled_is_one_of_several(client: Client) -> None:
    client.refusing = dict.fromkeys(ADDRESSES[:2], ConnectionLost("refused"))
    for _ in range(3):
        client._search()
        client.now += 0.3
    assert client.dialled() == ["c:1"]


def test_unusable_settings_are_raised_for_an_address_of_the_url_alone(client: Client) -> None:
    client.cluster.leads, client.cluster.leader = False, "d:1"
    client.refusing = {"d:1": ConfigError("no such port")}
    client._search()
    client.hear(client.lines[0])
    client._search()
    assert "d:1: no such port" in client._route.why()
    other = Client(client.cluster)
    other.refusing = dict.fromkeys(ADDRESSES, ConfigError("no such file"))
    with pytest.raises(ConfigError, match="no such file"):
        other._search()


def test_a_lost_connection_gets_a_goodbye_and_the_session_goes_on_elsewhere(client: Client) -> None:
    line = client.opened()
    session = client.session_id
    client._broker.send(broker.CreateTopic("jobs"), "waiter")
    client._drop("the test wants it")
    assert line.said is not None and line.said[4] == Kind.GOODBYE
    client._search()
    client.hear(client.lines[-1])
    assert client.session_id == session and [waiter for waiter, _ in client.answers] == ["waiter"]
    assert client.moves[1:] == [(line, None), (None, client.lines[-1])]


def test_the_pause_before_a_new_attempt_doubles_and_begins_anew_after_a_while(client: Client) -> None:
    line = client.opened()
    client.cluster.overloaded = 4
    client._broker.send(broker.CreateTopic("jobs"), "waiter")
    pauses = []
    client.hear(line, line.peer.receive(client._take_output()))
    while client._retry_at is not None:
        pauses.append(round(client._retry_at - client.now, 3))
        client.now = client._retry_at
        client._retry()
        client.hear(line, line.peer.receive(client._take_output()))
    assert pauses == [0.01, 0.02, 0.04, 0.08]
    assert [waiter for waiter, _ in client.answers] == ["waiter"]
    client.now += keepalive.RETRY_QUIET_S + 0.1
    client._put_off(client.now)
    assert client._retry_at == client.now + keepalive.RETRY_FIRST_S


def test_a_silent_node_is_pinged_and_then_left(client: Client) -> None:
    line = client.opened()
    for _ in range(3):
        client.now += keepalive.CHECK_EVERY_S
        client._check(client.now)
    assert client._take_output() == frames.plain(Kind.PING)
    while client._channel is line:
        client.now += keepalive.CHECK_EVERY_S
        client._check(client.now)
    assert 1.5 < client.now - 100.0 <= 2.0


def test_a_session_that_may_have_lapsed_is_attached_before_anything_is_sent(client: Client) -> None:
    line = client.opened()
    client.now += client.session_timeout_ms / 1000 * 2 / 3
    client._drop_if_lapsed(client.now)
    assert client._channel is line
    client.now += 0.1
    client._drop_if_lapsed(client.now)
    assert client._channel is None and client.session_id


def test_a_wrong_cluster_at_every_address_is_the_end(client: Client) -> None:
    client.opened()
    client._broker.send(broker.CreateTopic("jobs"), "waiter")
    client._drop("the test wants it")
    client.cluster.cluster_id = "other"
    while not client.is_over:
        client._search()
        for line in [line for line in client.lines if line.said is None]:
            client.hear(line)
        client.now += 0.5
    assert [type(error) for error in client.ended] == [WrongCluster]
    ((waiter, result),) = client.answers
    assert waiter == "waiter" and isinstance(result, ConnectionLost)
    assert all(line.said is not None for line in client.lines)
    with pytest.raises(WrongCluster):
        client._check_open()
    before = len(client.lines)
    client._search()
    assert len(client.lines) == before, "nothing is dialled any more"


def test_a_client_that_ends_leaves_without_a_goodbye(client: Client) -> None:
    """A GOODBYE says that the session goes on at another node."""
    line = client.opened()
    client._fail(ConnectionLost("closed"))
    client._fail(ConnectionLost("closed again"))
    assert line.said == b"" and [str(error) for error in client.ended] == ["closed"]
