"""For how long a leader has heard no majority of its voters."""

from __future__ import annotations

import pytest

from disheap.kernel.types import Heartbeat, HeartbeatReply, Index, Member, Membership, NodeId, Term
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


class Kernel:
    id = OWN

    def __init__(self) -> None:
        self.set_voters(OWN, TWO, THREE)

    def set_voters(self, *voters: NodeId) -> None:
        self.membership = Membership(tuple(Member(voter, True, b"") for voter in voters))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def contact(clock: Clock, kernel: Kernel) -> Contact:
    contact = Contact(kernel, clock, touch_s=1.0)
    contact.begin()
    return contact


def test_the_silence_begins_with_the_election(clock: Clock, contact: Contact) -> None:
    clock.now += 2
    assert contact.quorum_silence_s() == 2


def test_one_of_two_followers_makes_a_majority(clock: Clock, kernel: Kernel, contact: Contact) -> None:
    clock.now += 2
    contact.heard(reply(TWO))
    clock.now += 1
    assert contact.quorum_silence_s() == 1
    kernel.set_voters(OWN, TWO, THREE, FOUR)
    assert contact.quorum_silence_s() == 3
    contact.heard(reply(FIVE))
    kernel.set_voters(OWN, TWO, THREE, FOUR, FIVE)
    assert contact.quorum_silence_s() == 1


def test_a_leader_alone_is_never_out_of_touch(clock: Clock, kernel: Kernel, contact: Contact) -> None:
    clock.now += 100
    kernel.set_voters(OWN)
    assert contact.quorum_silence_s() == 0


def test_a_leader_without_a_vote_needs_a_majority_of_the_others(clock: Clock, kernel: Kernel, contact: Contact) -> None:
    clock.now += 2
    contact.heard(reply(TWO))
    kernel.set_voters(TWO, THREE, FOUR)
    assert contact.quorum_silence_s() == 2
    contact.heard(reply(THREE))
    assert contact.quorum_silence_s() == 0


def test_only_the_replies_of_followers_count(clock: Clock, contact: Contact) -> None:
    clock.now += 2
    contact.heard(Heartbeat(TWO, OWN, Term(1), Index(0), 0))
    assert contact.quorum_silence_s() == 2


def test_every_other_member_has_to_answer_in_time(clock: Clock, contact: Contact) -> None:
    contact.heard(reply(TWO))
    assert not contact.hears_all_members(), "one was never heard"
    clock.now += 0.9
    contact.heard(reply(THREE))
    assert contact.hears_all_members()
    clock.now += 0.2
    assert not contact.hears_all_members(), "one has fallen silent"
