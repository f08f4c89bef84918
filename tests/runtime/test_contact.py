"""For how long a leader has heard no majority of its voters."""

from __future__ import annotations

import pytest

from disheap.kernel.types import Heartbeat, HeartbeatReply, Index, NodeId, Term
from disheap.runtime.replica.contact import Contact

OWN, TWO, THREE, FOUR, FIVE = (NodeId(number) for number in range(1, 6))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def reply(source: NodeId) -> HeartbeatReply:
    return HeartbeatReply(source, OWN, Term(1), 0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def contact(clock: Clock) -> Contact:
    contact = Contact(OWN, clock)
    contact.begin()
    return contact


def test_the_silence_begins_with_the_election(clock: Clock, contact: Contact) -> None:
    clock.now += 2
    assert contact.silence_s((OWN, TWO, THREE)) == 2


def test_one_of_two_followers_makes_a_majority(clock: Clock, contact: Contact) -> None:
    clock.now += 2
    contact.heard(reply(TWO))
    clock.now += 1
    assert contact.silence_s((OWN, TWO, THREE)) == 1
    assert contact.silence_s((OWN, TWO, THREE, FOUR)) == 3
    contact.heard(reply(FIVE))
    assert contact.silence_s((OWN, TWO, THREE, FOUR, FIVE)) == 1


def test_a_leader_alone_is_never_out_of_touch(clock: Clock, contact: Contact) -> None:
    clock.now += 100
    assert contact.silence_s((OWN,)) == 0


def test_a_leader_without_a_vote_needs_a_majority_of_the_others(clock: Clock, contact: Contact) -> None:
    clock.now += 2
    contact.heard(reply(TWO))
    assert contact.silence_s((TWO, THREE, FOUR)) == 2
    contact.heard(reply(THREE))
    assert contact.silence_s((TWO, THREE, FOUR)) == 0


def test_only_the_replies_of_followers_count(clock: Clock, contact: Contact) -> None:
    clock.now += 2
    contact.heard(Heartbeat(TWO, OWN, Term(1), Index(0), 0))
    assert contact.silence_s((OWN, TWO, THREE)) == 2


def test_every_other_member_has_to_answer_in_time(clock: Clock, contact: Contact) -> None:
    members = (OWN, TWO, THREE)
    contact.heard(reply(TWO))
    assert not contact.has_heard_all(members, 1.0), "one was never heard"
    clock.now += 0.9
    contact.heard(reply(THREE))
    assert contact.has_heard_all(members, 1.0)
    clock.now += 0.2
    assert not contact.has_heard_all(members, 1.0), "one has fallen silent"
