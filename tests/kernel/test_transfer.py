"""Leadership transfer (dissertation §3.10)."""

from __future__ import annotations

import pytest

from disheap.errors import InvalidArgument, NotLeader, Overloaded
from disheap.kernel import membership as memberships
from disheap.kernel.types import (
    NOBODY,
    Entry,
    EntryKind,
    Heartbeat,
    Index,
    Message,
    NodeId,
    Role,
    Term,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)

from .harness import ELECTION_TICKS, Cluster, group, refused
from .solo import Solo, append, heartbeat, only, vote_reply, vote_request


def hand_over(cluster: Cluster, leader: int, target: int) -> None:
    cluster[leader].raft.transfer_leadership(NodeId(target))
    cluster[leader].pump()
    cluster.settle()


def test_the_target_leads_at_once_though_the_leader_is_alive() -> None:
    cluster = Cluster()
    cluster.elect(1)
    hand_over(cluster, 1, 3)
    assert cluster[3].raft.is_leader
    assert cluster[1].raft.role is Role.FOLLOWER
    cluster.check_liveness()


def test_nobody_in_particular_is_the_most_caught_up_voter() -> None:
    cluster = Cluster([1, 2, 3], [4])
    cluster.elect(1)
    cluster.cut(1, 2)
    cluster.propose(1, b"a")
    hand_over(cluster, 1, NOBODY)
    assert cluster[3].raft.is_leader


def test_another_target_is_chosen_after_a_transfer_that_came_to_nothing() -> None:
    """One with an ambiguous end is up to date, and may not lead."""
    node = Solo()
    node.lead()
    asked = []
    for _ in range(3):
        node.raft.transfer_leadership(NOBODY)
        asked.append(node.raft.transferee)
        while node.raft.transferee != NOBODY:
            node.tick(1)
            for peer in (2, 3):
                node.acknowledge(peer, node.raft.last_index)
    assert asked == [2, 3, 2]


def test_a_target_that_lags_is_brought_up_to_date_first() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut(1, 3)
    cluster.propose(1, b"a")
    hand_over(cluster, 1, 3)
    assert only(TimeoutNow, cluster.delivered) == []
    cluster.heal()
    cluster.tick(2)
    assert cluster[3].raft.is_leader
    cluster.tick()
    assert cluster.data_applied(3) == [b"a"]


def test_proposals_wait_while_leadership_is_handed_over() -> None:
    node = Solo()
    node.lead()
    node.raft.transfer_leadership(NodeId(2))
    assert node.raft.transferee == 2
    assert refused(lambda: node.raft.propose_change(group([1, 2]), 0)) is Overloaded


@pytest.mark.parametrize("target", [4, 9])
def test_a_node_without_a_vote_is_refused(target: int) -> None:
    node = Solo(learners=[4])
    node.lead()
    assert refused(lambda: node.raft.transfer_leadership(NodeId(target))) is InvalidArgument


def test_a_single_voter_has_nobody_to_hand_over_to() -> None:
    node = Solo(voters=[1], learners=[2])
    node.lead()
    assert refused(lambda: node.raft.transfer_leadership(NOBODY)) is InvalidArgument


def test_handing_over_to_oneself_changes_nothing() -> None:
    node = Solo()
    node.lead()
    node.raft.transfer_leadership(NodeId(1))
    assert node.raft.transferee == NOBODY


def test_only_a_leader_hands_over() -> None:
    assert refused(lambda: Solo().raft.transfer_leadership(NodeId(2))) is NotLeader


def test_a_target_campaigns_only_for_the_leader_it_follows() -> None:
    node = Solo((1,))
    node.hear(heartbeat(2, 1))
    assert only(VoteRequest, node.hear(TimeoutNow(NodeId(3), NodeId(1), node.raft.term))) == []
    requests = only(VoteRequest, node.hear(TimeoutNow(NodeId(2), NodeId(1), node.raft.term)))
    assert {(request.pre, request.transfer, request.term) for request in requests} == {(True, True, 2)}
    assert node.raft.term == 1


def test_a_learner_does_not_campaign_when_told_to() -> None:
    node = Solo((1,), voters=[1, 2], learners=[3], id=3)
    node.hear(heartbeat(2, 1, target=3))
    assert node.hear(TimeoutNow(NodeId(2), NodeId(3), node.raft.term)) == []


def test_a_transfer_that_fails_ends_after_an_election_timeout() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.drop(lambda message: isinstance(message, TimeoutNow))
    hand_over(cluster, 1, 3)
    assert refused(lambda: cluster.propose(1)) is Overloaded
    cluster.tick(ELECTION_TICKS)
    assert refused(lambda: cluster.propose(1)) is None


# --- a transfer that was given up is no transfer any more ----------------------------------------------------------


def given_up(cluster: Cluster, target: int) -> TimeoutNow:
    """Node 1 leads, hands over to a target that is frozen, and gives it up. Returns what the target has not read."""
    cluster.elect(1)
    unread: list[TimeoutNow] = []

    def is_frozen(message: Message) -> bool:
        if isinstance(message, TimeoutNow):
            unread.append(message)
        return target in (message.target, message.source)

    cluster[1].raft.transfer_leadership(NodeId(target))
    cluster.drop(is_frozen)
    cluster[1].pump()
    cluster.tick(ELECTION_TICKS)
    assert (cluster[1].raft.is_leader, cluster[1].raft.transferee) == (True, NOBODY)
    return unread[0]


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_removed_member_that_reads_timeout_now_late_deposes_nobody(pre_vote: bool) -> None:
    """The target was frozen, the transfer given up, and the target removed."""
    cluster = Cluster([1, 2, 3, 4], pre_vote=pre_vote)
    late = given_up(cluster, 4)
    cluster.propose_change(1, group([1, 2, 3]))
    term = cluster[1].raft.term
    cluster.filters.clear()
    cluster.inject(late)
    cluster.tick(3)
    assert (cluster[1].raft.is_leader, cluster[1].raft.term) == (True, term)
    assert [cluster[node].raft.term for node in (2, 3)] == [term, term]


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_member_that_reads_timeout_now_late_deposes_nobody(pre_vote: bool) -> None:
    """It is a member still, so a term of its own would make the leader step down."""
    cluster = Cluster([1, 2, 3, 4], pre_vote=pre_vote)
    late = given_up(cluster, 4)
    term = cluster[1].raft.term
    cluster.filters.clear()
    cluster.inject(late)
    cluster.tick(3)
    assert (cluster[1].raft.is_leader, cluster[1].raft.term) == (True, term)
    assert cluster[4].raft.leader == 1


def test_voters_are_told_of_a_transfer_and_of_its_end() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.drop(lambda message: isinstance(message, TimeoutNow))
    hand_over(cluster, 1, 3)
    assert only(Heartbeat, cluster.delivered)[-1].transferee == 3
    cluster.tick(ELECTION_TICKS)
    assert only(Heartbeat, cluster.delivered)[-1].transferee == NOBODY


@pytest.mark.parametrize(("named", "source", "is_answered"), [(3, 3, True), (0, 3, False), (2, 3, False)])
def test_a_lease_is_given_up_for_the_named_node_alone(named: int, source: int, is_answered: bool) -> None:
    node = Solo((1,))
    node.hear(heartbeat(2, 1, transferee=3))
    node.hear(heartbeat(2, 1, transferee=named))
    for pre in (True, False):
        answers = only(VoteReply, node.hear(vote_request(source, 2, pre=pre, transfer=True)))
        assert bool(answers) is is_answered


def test_a_new_leader_has_not_named_the_successor_of_the_old_one() -> None:
    node = Solo((1,))
    node.hear(heartbeat(2, 1, transferee=3))
    node.hear(heartbeat(4, 2))
    assert node.hear(vote_request(3, 3, transfer=True)) == []


def test_a_leader_that_hands_over_to_another_keeps_its_lease() -> None:
    node = Solo()
    node.lead()
    for peer in (2, 3):
        node.acknowledge(peer, node.raft.last_index)
    node.raft.transfer_leadership(NodeId(2))
    node.run()
    assert node.hear(vote_request(3, node.raft.term + 1, transfer=True)) == []
    node.hear(vote_request(2, node.raft.term + 1, transfer=True))
    assert not node.raft.is_leader


def test_a_target_that_knows_of_its_removal_does_not_campaign() -> None:
    """Even while the change is not committed, and an ordinary campaign would be allowed (dissertation §4.2.2)."""
    node = Solo((1,), voters=[1, 2, 3, 4])
    change = Entry(Term(1), Index(2), EntryKind.MEMBERSHIP, 0, memberships.encode(group([2, 3, 4], [1])))
    node.hear(append(2, 1, (1, 1), (change,)))
    node.hear(TimeoutNow(NodeId(2), NodeId(1), Term(1)))
    assert node.raft.role is Role.FOLLOWER
    assert only(VoteRequest, node.time_out())


def test_heartbeats_of_the_transfer_do_not_end_the_campaign_for_it() -> None:
    """A round trip may be longer than a heartbeat's interval."""
    node = Solo((1,))
    node.hear(heartbeat(2, 1, transferee=1))
    node.hear(TimeoutNow(NodeId(2), NodeId(1), Term(1)))
    node.hear(heartbeat(2, 1, transferee=1))
    assert node.raft.role is Role.PRECANDIDATE
    node.hear(vote_reply(2, 2, True, pre=True))
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 2)
    node = Solo((1,))
    node.hear(heartbeat(2, 1, transferee=1))
    node.hear(TimeoutNow(NodeId(2), NodeId(1), Term(1)))
    node.hear(heartbeat(2, 1))
    assert (node.raft.role, node.raft.leader) == (Role.FOLLOWER, 2)


def test_the_target_is_asked_again_where_the_voters_had_not_heard_yet() -> None:
    cluster = Cluster()
    cluster.elect(1)
    lost: list[Message] = []

    def first_requests(message: Message) -> bool:
        if isinstance(message, VoteRequest) and message.source == 3 and len(lost) < 2:
            lost.append(message)
            return True
        return False

    cluster.drop(first_requests)
    hand_over(cluster, 1, 3)
    assert len(lost) == 2
    cluster.tick(2)
    assert cluster[3].raft.is_leader


def test_voters_that_hear_of_a_transfer_late_are_asked_again_in_its_round() -> None:
    """Five voters: the leader's own answer is no majority, and a new round would throw it away each time."""
    node = Solo((1,), voters=[1, 2, 3, 4, 5])
    node.hear(heartbeat(2, 1, transferee=1))
    order = TimeoutNow(NodeId(2), NodeId(1), Term(1))
    first = only(VoteRequest, node.hear(order))
    node.hear(vote_reply(2, 2, True, pre=True))
    assert only(VoteRequest, node.hear(order)) == first
    node.hear(vote_reply(3, 2, True, pre=True))
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 2)
