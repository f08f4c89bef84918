"""Leadership transfer (dissertation §3.10)."""

from __future__ import annotations

import pytest

from disheap.errors import InvalidArgument, NotLeader, Overloaded
from disheap.kernel.types import NOBODY, NodeId, Role, TimeoutNow, VoteRequest

from .harness import ELECTION_TICKS, Cluster, group, refused
from .solo import Solo, heartbeat, only


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


def test_nobody_in_particular_is_another_one_after_a_transfer_that_came_to_nothing() -> None:
    """One that is in doubt about its log is up to date, and may not lead."""
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
    assert {(request.pre, request.transfer, request.term) for request in requests} == {(False, True, 2)}


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
