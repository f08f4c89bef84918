"""What a client holds, and how it comes through a lost connection (docs/explanation/sessions.md)."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.client.core.broker_session import Arrived, BrokerSession, OpaquePush, Replied, SessionLost
from disheap.client.core.broker_state import BrokerState
from disheap.client.core.events import Broken, Event, Moved, Ready
from disheap.errors import MalformedFrame, OutcomeUnknown
from disheap.protocol import broker, frames
from disheap.protocol.frames import Kind, SessionOptions

from .fake_node import FakeCluster, FakePeer


class Talk:
    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.session = BrokerSession(SessionOptions(9000))
        self.peer = FakePeer(self.cluster)
        self.connect()

    def connect(self) -> list[Event]:
        self.peer = FakePeer(self.cluster)
        self.session.connected()
        return self.exchange()

    def exchange(self) -> list[Event]:
        events: list[Event] = []
        while self.session.session.has_output:
            events += self.session.receive(self.peer.receive(self.session.session.take_output()))
        return events

    def send(self, command: Any) -> list[Event]:
        self.session.send(command, type(command).__name__)
        return self.exchange()

    def send_and_lose_the_reply(self, command: Any) -> None:
        self.session.send(command, type(command).__name__)
        self.peer.receive(self.session.session.take_output())
        self.session.disconnected()

    def pushes(self, events: list[Event]) -> list[Any]:
        return [event.push for event in events if isinstance(event, Arrived)]

    def deliver(self, credit: int = 10) -> tuple[int, int]:
        """A consumer, and one message delivered to it: its token."""
        self.send(broker.Subscribe("jobs", credit))
        (push,) = self.pushes(self.send(broker.Enqueue("jobs", broker.NewMessage(b"x"))))
        return (push.id, push.epoch)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_replies_come_decoded_with_their_waiter(talk: Talk) -> None:
    assert talk.send(broker.Enqueue("jobs", broker.NewMessage(b"x"))) == [Replied("Enqueue", broker.Enqueued(1))]


def test_a_delivery_is_held_until_the_reply_to_its_ack(talk: Talk) -> None:
    token = talk.deliver()
    assert list(talk.session.held.tokens) == [token]
    talk.session.send(broker.Ack([token]))
    assert list(talk.session.held.tokens) == [token]
    talk.exchange()
    assert talk.session.held.tokens == {}


def test_an_ack_whose_reply_was_lost_does_not_bring_the_message_back(talk: Talk) -> None:
    token = talk.deliver()
    talk.send_and_lose_the_reply(broker.Ack([token]))
    events = talk.connect()
    assert talk.pushes(events) == []
    assert Replied("Ack", broker.Settled(1, [])) in events
    assert talk.cluster.topics["jobs"] == []


def test_a_lease_is_held_until_the_reply_to_the_batch_that_settles_it(talk: Talk) -> None:
    token = talk.deliver()
    talk.session.send(broker.Batch([broker.Enqueue("done", broker.NewMessage(b"y")), broker.Ack([token])]))
    assert list(talk.session.held.tokens) == [token]
    talk.exchange()
    assert talk.session.held.tokens == {}


def test_a_batch_whose_reply_was_lost_is_carried_out_once(talk: Talk) -> None:
    token = talk.deliver()
    talk.send_and_lose_the_reply(broker.Batch([broker.Ack([token]), broker.Enqueue("done", broker.NewMessage(b"y"))]))
    events = talk.connect()
    assert talk.pushes(events) == []
    (reply,) = [event for event in events if isinstance(event, Replied)]
    assert isinstance(reply.result, broker.Batched)
    assert talk.session.held.tokens == {}
    assert len(talk.cluster.topics["done"]) == 1


def test_an_ack_that_never_arrived_does_not_bring_the_message_back_either(talk: Talk) -> None:
    token = talk.deliver()
    talk.session.send(broker.Ack([token]), "late")
    talk.session.session.take_output()  # lost on its way
    talk.session.disconnected()
    events = talk.connect()
    assert talk.pushes(events) == []
    assert Replied("late", broker.Settled(1, [])) in events


def test_a_delivery_that_was_lost_on_its_way_comes_with_the_resumed_session(talk: Talk) -> None:
    talk.send(broker.Subscribe("jobs", 10))
    talk.send_and_lose_the_reply(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    (push,) = talk.pushes(talk.connect())
    assert push.payload == b"x" and (push.id, push.epoch) in talk.session.held.tokens


def test_a_delivery_that_is_held_is_not_delivered_again(talk: Talk) -> None:
    token = talk.deliver()
    again = frames.push(9, broker.encode(broker.Deliver(1, *token, 0, 5, b"x")))
    assert talk.session.receive(again) == []


def test_a_delivery_without_acks_is_never_held(talk: Talk) -> None:
    push = broker.Deliver(1, 5, 0, 0, 5, b"x")
    said = frames.push(9, broker.encode(push))
    assert talk.session.receive(said + said) == [Arrived(push), Arrived(push)]
    assert talk.session.held.tokens == {}


def test_a_stale_token_is_let_go(talk: Talk) -> None:
    token = talk.deliver()
    talk.cluster.sessions[talk.session.session.id].leases.clear()  # its time ran out at the node
    talk.send(broker.Extend([token], 1000))
    assert talk.session.held.tokens == {}


def test_a_recover_lets_go_what_was_held_when_it_was_sent(talk: Talk) -> None:
    talk.deliver()
    (consumer,) = talk.session.held.consumers
    talk.send(broker.Recover([consumer]))
    assert talk.session.held.tokens == {}


@pytest.mark.parametrize("give_back", [False, True])
def test_a_cancelled_consumer_keeps_its_leases_unless_they_are_given_back(talk: Talk, give_back: bool) -> None:
    talk.deliver()
    (consumer,) = talk.session.held.consumers
    talk.send(broker.Cancel(consumer, give_back))
    assert talk.session.held.consumers == {}
    assert bool(talk.session.held.tokens) is not give_back


def test_a_consumer_that_ended_unheard_is_reported_when_the_session_resumes(talk: Talk) -> None:
    talk.send(broker.Subscribe("jobs", 10))
    (consumer,) = talk.session.held.consumers
    talk.send_and_lose_the_reply(broker.DeleteTopic("jobs"))
    assert talk.pushes(talk.connect()) == [broker.ConsumerEnded(consumer, "gone")]
    assert talk.session.held.consumers == {}


def test_a_pop_that_ended_while_its_reply_was_lost_is_found_by_attaching(talk: Talk) -> None:
    """The first ATTACH cannot name the ticket, for the client has not heard of it."""
    talk.send(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    talk.send_and_lose_the_reply(broker.Pop("jobs"))
    events = talk.connect()
    (push,) = talk.pushes(events)
    assert isinstance(push, broker.Deliver)
    assert isinstance(events[-1], Moved) and events[-1].leader == "wax:1"
    talk.session.disconnected()
    assert talk.pushes(talk.connect()) == [broker.PopDone(push.consumer, 0)]
    assert talk.session.held.tickets == {}


def test_a_pop_that_ends_at_once_is_not_waited_for(talk: Talk) -> None:
    events = talk.send(broker.Pop("jobs"))
    assert [type(push) for push in talk.pushes(events)] == [broker.PopDone]
    assert talk.session.held.tickets == {}


def test_an_end_that_comes_before_its_reply_counts(talk: Talk) -> None:
    talk.session.send(broker.Pop("jobs"), "pop")
    done = frames.push(1, broker.encode(broker.PopDone(77, 0)))
    reply = frames.reply(Kind.REPLY, 0, 1, 1, broker.encode(broker.Subscribed(77)))
    talk.session.receive(done + reply)
    assert talk.session.held.tickets == {}


def test_a_session_with_a_consumer_does_not_lapse_in_silence(talk: Talk) -> None:
    talk.send(broker.Subscribe("jobs", 10))
    talk.session.disconnected()
    talk.cluster.expire(talk.session.session.id)
    assert [type(event) for event in talk.connect()] == [SessionLost, Ready]
    assert talk.session.held.is_empty()


def test_a_session_that_owns_a_topic_does_not_lapse_in_silence(talk: Talk) -> None:
    talk.send(broker.CreateTopic("mine", broker.TopicSettings(exclusive=True)))
    assert not talk.session.held.is_empty()
    talk.send(broker.DeleteTopic("mine"))
    assert talk.session.held.is_empty()


def test_an_ack_that_was_under_way_when_the_session_lapsed_is_unknown(talk: Talk) -> None:
    token = talk.deliver()
    talk.send_and_lose_the_reply(broker.Ack([token]))
    talk.cluster.expire(talk.session.session.id)
    events = talk.connect()
    assert isinstance(events[0], Replied) and isinstance(events[0].result, OutcomeUnknown)
    assert [type(event) for event in events[1:]] == [SessionLost, Ready]


def test_a_push_that_this_version_cannot_read_ends_it_after_what_was_answered(talk: Talk) -> None:
    talk.session.send(broker.Bind("x", "jobs"), "bind")
    reply = frames.reply(Kind.REPLY, 0, 1, 1, broker.encode(broker.Done()))
    answered, broken = talk.session.receive(frames.push(1, b"\x91\xcc\xff") + reply)
    assert answered == Replied("bind", broker.Done())
    assert isinstance(broken, Broken) and isinstance(broken.error, MalformedFrame)


def test_a_reply_that_this_version_cannot_read_is_an_unknown_outcome(talk: Talk) -> None:
    talk.session.send(broker.Ack([(1, 1)]), "ack")
    (replied,) = talk.session.receive(frames.reply(Kind.REPLY, 0, 1, 1, b"\x91\xcc\xff"))
    assert isinstance(replied, Replied) and isinstance(replied.result, OutcomeUnknown)


def test_another_machines_pushes_come_as_they_are() -> None:
    talk = Talk()
    talk.session = BrokerSession(SessionOptions(9000), opaque=True)
    talk.connect()
    assert talk.session.receive(frames.push(1, b"anything")) == [OpaquePush(b"anything")]


def test_an_attach_names_the_newest_leases_as_many_as_a_node_reads() -> None:
    held = BrokerState()
    for number in range(broker.HELD_MAX + 2):
        assert held.delivered(broker.Deliver(1, number, 1, 0, 0, b""))
    claim = broker.decode_held.decode(held.encode_held())
    assert len(claim.tokens) == broker.HELD_MAX
    assert claim.tokens[-1] == (broker.HELD_MAX + 1, 1)
    assert not held.delivered(broker.Deliver(1, 0, 1, 0, 0, b"")), "what is sent again is not taken for new"
