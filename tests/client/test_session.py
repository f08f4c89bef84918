"""The sans-IO session, by scripts (Raft dissertation §6.3: each command is applied once, however often it is sent)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap.client.core.events import Answered, Broken, Closed, Event, Lapsed, Moved, Postponed, Pushed, Ready
from disheap.client.core.session import ENTRY_NUMBER, TRANSIENTS_KEPT, Session, State
from disheap.errors import (
    ConnectionLost,
    DiskFull,
    FrameTooLarge,
    MalformedFrame,
    OutcomeUnknown,
    PayloadTooLarge,
    ProtocolError,
    UnknownGroup,
    WrongCluster,
    WrongVersion,
)
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Flags, Kind, SessionOptions
from disheap.protocol.handshake import Goodbye, Hello

from .fake_node import FakeCluster, FakePeer, limits_of


def opaque(number: int) -> bytes:
    """A body that no broker would understand."""
    return b"\xc1%d" % number


class Talk:
    """A session and a node, joined byte by byte at will."""

    def __init__(self, cluster: FakeCluster | None = None, session: Session | None = None) -> None:
        self.cluster = cluster or FakeCluster()
        self.session = session or Session(SessionOptions(9000))
        self.peer = FakePeer(self.cluster)
        self.events: list[Event] = []

    def connect(self) -> list[Event]:
        self.peer = FakePeer(self.cluster)
        self.session.connected()
        return self.exchange()

    def exchange(self) -> list[Event]:
        """Let both sides talk until neither has more to say."""
        start = len(self.events)
        while self.session.has_output:
            self.hear(self.peer.receive(self.session.take_output()))
        return self.events[start:]

    def hear(self, data: bytes) -> list[Event]:
        events = self.session.receive(data)
        self.events += events
        return events

    def disconnect(self) -> list[Event]:
        events = self.session.disconnected()
        self.events += events
        return events

    def call(self, number: int) -> int:
        return self.session.call(opaque(number), number)

    def answers(self) -> dict[Any, Any]:
        found = [event for event in self.events if isinstance(event, Answered)]
        assert len({event.waiter for event in found}) == len(found), "something was answered twice"
        return {event.waiter: event.error or event.body for event in found}


@pytest.fixture
def talk() -> Talk:
    talk = Talk()
    assert talk.connect() == [Ready(False)]
    return talk


# --- the handshake ---


def test_the_first_frame_is_a_hello_and_an_open_follows_the_welcome() -> None:
    session = Session(SessionOptions(9000, "me"), hello=Hello(client="tester"))
    session.connected()
    first = session.take_output()
    assert first[4] == Kind.HELLO
    peer = FakePeer(FakeCluster())
    session.receive(peer.receive(first))
    opened = frames.open_envelope(session.take_output())
    assert (opened.kind, opened.session) == (Kind.OPEN, 0)
    assert msgspec.msgpack.decode(opened.body, type=SessionOptions) == SessionOptions(9000, "me")
    assert peer.cluster.hellos[0].client == "tester"


def test_the_node_decides_the_session_timeout(talk: Talk) -> None:
    talk = Talk(FakeCluster(timeout_ms=1234))
    talk.connect()
    assert talk.session.timeout_ms == 1234


def test_a_node_that_does_not_lead_sends_the_client_to_the_leader() -> None:
    talk = Talk()
    talk.cluster.leads, talk.cluster.leader = False, "other:1"
    assert talk.connect() == [Moved("other:1")]
    assert talk.session.state is State.OFFLINE


def test_an_observer_asks_a_follower_and_opens_no_session() -> None:
    talk = Talk(session=Session(None))
    talk.cluster.leads = False
    talk.session.ask(Kind.ADMIN, msgspec.msgpack.encode({"op": "status"}), "status")
    talk.connect()
    assert msgspec.msgpack.decode(talk.answers()["status"]) == {"said": {"op": "status"}}
    assert talk.cluster.sessions == {}


def test_the_cluster_id_is_pinned_after_the_first_contact(talk: Talk) -> None:
    talk.disconnect()
    talk.session.connected()
    assert frames.open_plain(talk.session.take_output())[11:].count(b"wax") == 1
    stranger = FakePeer(FakeCluster("clay"))
    (refused,) = talk.hear(stranger.receive(handshake.hello(Kind.HELLO, Hello("wax"))))
    assert isinstance(refused, Broken) and isinstance(refused.error, WrongCluster)
    talk.session.connected()
    (broken,) = talk.hear(stranger_welcome("clay"))
    assert isinstance(broken, Broken) and "belongs to cluster clay" in str(broken.error)


WELCOME = handshake.Welcome("wax", 0, "n", True, "", [], "heap", 1, limits_of(1 << 16, 64))
OTHER_GROUP = msgspec.structs.replace(WELCOME, group=1)


def stranger_welcome(cluster_id: str) -> bytes:
    return FakePeer(FakeCluster(cluster_id)).receive(handshake.hello(Kind.HELLO, Hello()))


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", FrameTooLarge),
        (frames.plain(Kind.WELCOME, b"\xc1"), MalformedFrame),
        (frames.plain(Kind.WELCOME, b"\x02"), MalformedFrame),
        (handshake.welcome(Kind.WELCOME, 3, WELCOME), WrongVersion),
        (handshake.welcome(Kind.WELCOME, 2, OTHER_GROUP), UnknownGroup),
        (frames.plain(Kind.GOODBYE, b"\xc1"), MalformedFrame),
        (frames.plain(Kind.HELLO, b""), MalformedFrame),
        *(
            (frames.plain(Kind.GOODBYE, msgspec.msgpack.encode(Goodbye(kind.code, "no"))), kind)
            for kind in (ProtocolError, *ProtocolError.__subclasses__())
        ),
    ],
)
def test_a_node_that_is_none_is_an_error(said: bytes, error: type[Exception]) -> None:
    session = Session(SessionOptions(9000))
    session.connected()
    (broken,) = session.receive(said)
    assert isinstance(broken, Broken) and type(broken.error) is error


def test_what_was_answered_before_a_malformed_frame_counts(talk: Talk) -> None:
    talk.call(1)
    said = frames.reply(Kind.REPLY, 0, 1, 1, b"yes") + frames.plain(Kind.HELLO)
    assert [type(event) for event in talk.hear(said)] == [Answered, Broken]


def test_a_goodbye_moves_the_client_and_what_follows_it_is_not_heard(talk: Talk) -> None:
    goodbye = talk.peer.goodbye("not-leader", "next:1")
    assert talk.hear(goodbye + frames.push(1, b"late")) == [Moved("next:1", "not-leader", "a reason")]


# --- commands ---


def test_a_command_is_answered_by_its_reply(talk: Talk) -> None:
    talk.call(1)
    talk.exchange()
    assert talk.answers() == {1: b"echo " + opaque(1)}
    assert talk.session.unanswered == 0


def test_commands_given_before_the_connection_wait_for_it() -> None:
    talk = Talk()
    talk.call(1)
    assert talk.session.take_output() == b""
    talk.connect()
    assert talk.answers() == {1: b"echo " + opaque(1)}


def test_confirmed_grows_only_over_a_contiguous_prefix(talk: Talk) -> None:
    seqs = [talk.call(number) for number in range(5)]
    assert seqs == [1, 2, 3, 4, 5]
    replies = {seq: frames.reply(Kind.REPLY, 0, seq, 1, b"") for seq in seqs}
    for seq, confirmed in [(2, 0), (4, 0), (1, 2), (5, 2), (3, 5)]:
        talk.hear(replies[seq])
        assert talk.session.confirmed == confirmed


@given(st.permutations(list(range(1, 13))))
def test_confirmed_is_the_length_of_the_answered_prefix_in_any_order(order: list[int]) -> None:
    talk = Talk()
    talk.connect()
    for number in range(12):
        talk.call(number)
    answered: set[int] = set()
    for seq in order:
        talk.hear(frames.reply(Kind.REPLY, 0, seq, 1, b""))
        answered.add(seq)
        prefix = next(n for n in range(14) if n + 1 not in answered)
        assert talk.session.confirmed == prefix


def test_a_second_reply_to_the_same_command_is_not_an_answer(talk: Talk) -> None:
    talk.call(1)
    reply = frames.reply(Kind.REPLY, 0, 1, 1, b"yes")
    assert talk.hear(reply + reply) == [Answered(1, 1, b"yes")]


def test_the_window_holds_back_what_would_exceed_it() -> None:
    talk = Talk(FakeCluster(window=4))
    talk.connect()
    for number in range(10):
        talk.call(number)
    assert talk.session.room == -6
    sent = list(frames.FrameReader(1 << 20).frames(talk.session.take_output()))
    assert len(sent) == 4
    for _, frame in sent:
        talk.hear(talk.peer.receive(frame))
    talk.exchange()
    assert list(talk.answers()) == list(range(10))


def test_an_overloaded_node_gets_the_same_seq_again(talk: Talk) -> None:
    talk.cluster.overloaded = 2
    for number in (1, 2, 3):
        talk.call(number)
    events = talk.exchange()
    assert [type(event) for event in events] == [Postponed, Postponed, Answered]
    assert talk.session.confirmed == 0
    talk.session.retry()
    talk.exchange()
    assert [(seq, command) for _, seq, command in talk.cluster.applied] == [
        (3, opaque(3)),
        (1, opaque(1)),
        (2, opaque(2)),
    ]
    assert talk.session.confirmed == 3


def test_a_refusal_for_want_of_room_is_final_for_what_was_sent_once(talk: Talk) -> None:
    seq = talk.call(1)
    talk.session.take_output()
    fault = msgspec.msgpack.encode(frames.Fault("disk-full", "make room"))
    (event,) = talk.hear(frames.reply(Kind.REPLY, 1, seq, 0, fault))
    assert isinstance(event, Answered) and isinstance(event.error, DiskFull)
    assert talk.session.unanswered == 0 and talk.session.confirmed == seq


def test_a_refusal_for_want_of_room_decides_nothing_sent_on_another_connection(talk: Talk) -> None:
    """It may have been carried out then: the command is sent again until it is answered."""
    seq = talk.call(1)
    talk.session.take_output()
    talk.disconnect()
    talk.cluster.overloaded = 1
    talk.connect()
    talk.session.retry()
    talk.session.take_output()
    fault = msgspec.msgpack.encode(frames.Fault("disk-full", "make room"))
    assert [type(event) for event in talk.hear(frames.reply(Kind.REPLY, 1, seq, 0, fault))] == [Postponed]
    assert talk.session.unanswered == 1
    talk.session.retry()
    assert frames.open_envelope(talk.session.take_output()).seq == seq


def test_what_was_postponed_is_not_sent_twice_after_a_reconnection(talk: Talk) -> None:
    talk.cluster.overloaded = 1
    talk.call(1)
    talk.exchange()
    talk.disconnect()
    talk.session.connected()
    talk.hear(talk.peer.receive(b""))
    talk.peer = FakePeer(talk.cluster)
    for _ in range(2):
        talk.hear(talk.peer.receive(talk.session.take_output()))
    assert len(frames.open_envelope(talk.session.take_output()).body) == len(opaque(1))
    talk.session.retry()
    assert not talk.session.has_output


def test_a_retry_without_a_connection_waits_for_the_next_one(talk: Talk) -> None:
    talk.cluster.overloaded = 1
    talk.call(1)
    talk.exchange()
    talk.disconnect()
    talk.session.retry()
    assert not talk.session.has_output
    talk.connect()
    assert list(talk.answers()) == [1]


def test_a_not_leader_reply_moves_the_client_and_the_command_goes_along(talk: Talk) -> None:
    seq = talk.call(1)
    talk.session.take_output()
    fault = msgspec.msgpack.encode(frames.Fault("not-leader", "no"))
    assert [type(e) for e in talk.hear(frames.reply(Kind.REPLY, 1, seq, 0, fault))] == [Moved]
    talk.disconnect()
    talk.connect()
    assert talk.answers() == {1: b"echo " + opaque(1)}


def test_a_body_over_the_nodes_limit_is_refused_before_it_is_sent(talk: Talk) -> None:
    with pytest.raises(PayloadTooLarge, match="65536"):
        talk.session.call(b"x" * (1 << 16))
    assert talk.session.unanswered == 0


def test_what_was_given_before_a_node_said_its_limit_is_refused_when_it_does() -> None:
    """The session does not know the limit; what waits behind such a command moves up, and nothing is confirmed
    without an answer."""
    talk = Talk()
    talk.call(1)
    talk.session.call(b"x" * (1 << 16), "large")
    talk.call(2)
    talk.session.send_transient(b"x" * (1 << 16))
    talk.connect()
    answers = talk.answers()
    assert isinstance(answers.pop("large"), PayloadTooLarge)
    assert answers == {1: b"echo " + opaque(1), 2: b"echo " + opaque(2)}
    assert (talk.session.confirmed, talk.session.unanswered) == (2, 0)
    assert talk.cluster.transients == []


def test_a_question_over_the_nodes_limit_is_refused_before_it_is_sent(talk: Talk) -> None:
    """The node would close the connection, and the client with it."""
    with pytest.raises(PayloadTooLarge, match="65536 bytes for a frame"):
        talk.session.ask(Kind.QUERY, b"x" * (1 << 16))
    assert not talk.session.has_output and talk.session.unanswered == 0


def test_a_question_from_before_a_node_said_its_limit_is_refused_when_it_does() -> None:
    talk = Talk()
    talk.session.ask(Kind.QUERY, b"x" * (1 << 16), "large")
    talk.connect()
    assert isinstance(talk.answers().pop("large"), PayloadTooLarge)
    assert talk.session.unanswered == 0


def test_a_transient_command_is_sent_once_and_never_answered(talk: Talk) -> None:
    talk.session.send_transient(b"\xc1")
    frame = frames.open_envelope(talk.session.take_output())
    assert (frame.seq, frame.flags & Flags.TRANSIENT) == (0, Flags.TRANSIENT)
    talk.disconnect()
    talk.connect()
    assert talk.cluster.applied == [] and talk.cluster.transients == []


def test_a_transient_command_over_the_nodes_frame_is_refused_and_not_kept(talk: Talk) -> None:
    with pytest.raises(PayloadTooLarge, match="frame"):
        talk.session.send_transient(bytes(frames.FRAME_BYTES))
    assert talk.session.take_output() == b""


def test_transients_without_a_connection_are_kept_up_to_a_bound() -> None:
    session = Session(SessionOptions(9000))
    for number in range(TRANSIENTS_KEPT + 5):
        session.send_transient(opaque(number))
    session.connected()
    peer = FakePeer(FakeCluster())
    session.receive(peer.receive(session.take_output()))
    session.receive(peer.receive(session.take_output()))
    bodies = [frames.open_envelope(f).body for _, f in frames.FrameReader(1 << 20).frames(session.take_output())]
    assert bodies == [opaque(number) for number in range(5, TRANSIENTS_KEPT + 5)]


# --- lost connections ---


def test_an_unanswered_command_is_sent_again_with_its_seq_and_applied_once(talk: Talk) -> None:
    talk.call(1)
    talk.peer.receive(talk.session.take_output())  # applied; the reply is lost
    talk.disconnect()
    assert [type(event) for event in talk.connect()] == [Ready, Answered]
    assert talk.answers() == {1: b"echo " + opaque(1)}
    assert [seq for _, seq, _ in talk.cluster.applied] == [1]


def test_a_resumed_session_attaches_and_keeps_its_number(talk: Talk) -> None:
    number = talk.session.id
    talk.disconnect()
    (ready,) = talk.connect()
    assert isinstance(ready, Ready) and ready.resumed
    assert talk.session.id == number
    assert list(talk.cluster.sessions) == [number]


def test_replies_before_the_attach_are_answered_are_not_taken(talk: Talk) -> None:
    talk.call(1)
    talk.disconnect()
    talk.session.connected()
    talk.hear(FakePeer(talk.cluster).receive(talk.session.take_output()))
    assert talk.session.state is State.ENTERING
    assert talk.hear(frames.reply(Kind.REPLY, 0, 1, 9, b"another's")) == []


def test_entry_numbers_and_seqs_never_meet(talk: Talk) -> None:
    talk.disconnect()
    talk.session.connected()
    peer = FakePeer(talk.cluster)
    talk.hear(peer.receive(talk.session.take_output()))
    attach = frames.open_envelope(talk.session.take_output())
    assert attach.kind == Kind.ATTACH and attach.seq > ENTRY_NUMBER


def test_a_query_is_asked_again_and_a_transfer_is_reported_unknown(talk: Talk) -> None:
    talk.session.ask(Kind.QUERY, b"\x91\xcc\x83", "stats")
    talk.session.ask(Kind.ADMIN, msgspec.msgpack.encode({"op": "transfer"}), "transfer", repeat=False)
    talk.session.take_output()
    talk.disconnect()
    error = talk.answers()["transfer"]
    assert isinstance(error, OutcomeUnknown)
    assert "not repeated by itself" in str(error), "the session lives on"
    talk.connect()
    assert isinstance(talk.answers()["stats"], bytes)


def test_a_transfer_that_was_never_sent_is_not_unknown() -> None:
    talk = Talk()
    talk.session.ask(Kind.ADMIN, msgspec.msgpack.encode({"op": "transfer"}), "transfer", repeat=False)
    assert talk.disconnect() == []
    talk.connect()
    assert isinstance(talk.answers()["transfer"], bytes)


# --- the session's end ---


class Holding:
    """Something is held."""

    def __init__(self) -> None:
        self.held = True

    def encode_held(self) -> bytes:
        return b"\x92\x90\x90"

    def is_empty(self) -> bool:
        return not self.held

    def clear(self) -> None:
        self.held = False


def test_a_lapsed_session_that_held_nothing_is_reopened_silently(talk: Talk) -> None:
    old = talk.session.id
    talk.disconnect()
    talk.cluster.expire(old)
    talk.call(1)  # not sent yet: it belongs to the next session
    assert [type(event) for event in talk.connect()] == [Ready, Answered]
    assert talk.session.id != old


def test_a_lapsed_session_reports_only_what_was_sent_as_unknown(talk: Talk) -> None:
    talk.call(1)
    talk.peer.receive(talk.session.take_output())
    talk.disconnect()
    talk.cluster.expire(talk.session.id)
    talk.call(2)
    assert [type(event) for event in talk.connect()] == [Answered, Lapsed, Ready, Answered]
    answers = talk.answers()
    assert isinstance(answers[1], OutcomeUnknown) and answers[2] == b"echo " + opaque(2)


def test_a_new_session_counts_afresh(talk: Talk) -> None:
    """Replies that the old session got out of turn say nothing about the new one's."""
    for number in (1, 2, 3):
        talk.call(number)
    talk.session.take_output()
    talk.hear(frames.reply(Kind.REPLY, 0, 3, 1, b"third"))
    talk.disconnect()
    talk.cluster.expire(talk.session.id)
    talk.connect()
    talk.cluster.hold_replies = True
    for number in (4, 5, 6):
        talk.call(number)
    talk.exchange()
    first, second, _ = (frame for _, frame in frames.FrameReader(1 << 20).frames(talk.peer.release()))
    talk.hear(first + second)
    assert talk.session.confirmed == 2


def test_what_the_next_session_has_not_sent_survives_its_lapse_too(talk: Talk) -> None:
    for number in (1, 2, 3):
        talk.call(number)
    talk.exchange()
    for number in (4, 5):
        talk.disconnect()
        talk.cluster.expire(talk.session.id)
        talk.call(number)
        talk.connect()
        assert talk.answers()[number] == b"echo " + opaque(number)


def test_a_lapsed_session_that_held_something_says_so() -> None:
    holding = Holding()
    talk = Talk(session=Session(SessionOptions(9000), holding))
    talk.connect()
    talk.disconnect()
    talk.cluster.expire(talk.session.id)
    assert [type(event) for event in talk.connect()] == [Lapsed, Ready]
    assert not holding.held


def test_a_session_that_lapses_under_a_live_connection_is_found_out(talk: Talk) -> None:
    talk.cluster.expire(talk.session.id)
    talk.call(1)
    assert [type(event) for event in talk.exchange()] == [Moved]
    talk.disconnect()
    assert [type(event) for event in talk.connect()] == [Answered, Lapsed, Ready]
    assert isinstance(talk.answers()[1], OutcomeUnknown)


def test_closing_ends_the_session_after_the_commands_before_it(talk: Talk) -> None:
    talk.call(1)
    talk.session.close()
    assert [type(event) for event in talk.exchange()] == [Answered, Closed]
    assert talk.cluster.sessions == {}


def test_abandoning_answers_everything(talk: Talk) -> None:
    talk.call(1)
    talk.session.ask(Kind.QUERY, b"\x91\xcc\x83", "stats")
    error = ConnectionLost("over")
    assert talk.session.abandon(error) == [Answered(1, 0, b"", error), Answered("stats", 0, b"", error)]
    assert talk.session.unanswered == 0


def test_pushes_come_through_in_order(talk: Talk) -> None:
    said = frames.push(1, b"a") + frames.push(2, b"b")
    assert talk.hear(said[:11]) == []
    assert talk.hear(said[11:]) == [Pushed(1, b"a"), Pushed(2, b"b")]


def test_a_ping_is_answered_with_a_pong(talk: Talk) -> None:
    talk.hear(frames.plain(Kind.PING))
    assert talk.session.take_output() == frames.plain(Kind.PONG)
    talk.session.ping()
    assert talk.session.take_output() == frames.plain(Kind.PING)
