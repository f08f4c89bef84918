"""Leader election (Raft §5.2, §5.4.1; pre-vote and stickiness: dissertation §4.2.3, §9.6)."""

from __future__ import annotations

import pytest

from disheap.kernel.types import (
    NOBODY,
    AppendReply,
    AppendRequest,
    HardState,
    HeartbeatReply,
    Index,
    NodeId,
    Role,
    Term,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)

from .harness import ELECTION_TICKS, Cluster, log_of, roles
from .solo import Solo, append, heartbeat, only, vote_reply, vote_request


def test_a_follower_that_hears_nothing_campaigns_within_two_election_timeouts() -> None:
    """§5.2."""
    node = Solo(pre_vote=False)
    assert node.tick(ELECTION_TICKS - 1) == []
    requests = only(VoteRequest, node.tick(ELECTION_TICKS + 1))
    assert {request.target for request in requests} == {2, 3}
    assert all(request.term >= 1 and not request.pre for request in requests)
    assert node.raft.role is Role.CANDIDATE


def test_a_leaders_messages_keep_a_follower_from_campaigning() -> None:
    """§5.2."""
    node = Solo((1,))
    for _ in range(6 * ELECTION_TICKS):
        node.tick(1)
        assert only(HeartbeatReply, node.hear(heartbeat(2, 1)))
    assert (node.raft.role, node.raft.leader) == (Role.FOLLOWER, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_size_of_cluster_elects_one_leader_that_commits(size: int) -> None:
    """§5.2."""
    cluster = Cluster(range(1, size + 1))
    cluster.tick_until(lambda: cluster.leader is not None, 10 * ELECTION_TICKS)
    assert list(roles(cluster).values()).count(Role.LEADER) == 1
    cluster.check_liveness()


def test_a_node_that_is_the_only_voter_leads_from_its_first_tick() -> None:
    cluster = Cluster([1], learners=[2])
    cluster.tick()
    assert cluster[1].raft.is_leader


def test_a_candidate_that_hears_a_leader_of_its_term_follows_it() -> None:
    """§5.2."""
    node = Solo((1,), pre_vote=False)
    node.time_out()
    node.hear(append(2, node.raft.term, (1, 1)))
    assert (node.raft.role, node.raft.leader, node.raft.term) == (Role.FOLLOWER, 2, 2)


def test_a_split_vote_ends_in_another_election() -> None:
    """§5.2: timeouts are drawn anew."""
    cluster = Cluster([1, 2], pre_vote=False)
    cluster.tick_one(1, 2 * ELECTION_TICKS)
    cluster.tick_one(2, 2 * ELECTION_TICKS)
    cluster.settle()
    assert cluster.leader is None
    cluster.tick_until(lambda: cluster.leader is not None, 20 * ELECTION_TICKS)


@pytest.mark.parametrize(
    ("last", "granted"),
    [((3, 2), True), ((4, 2), True), ((1, 3), True), ((2, 2), False), ((9, 1), False)],
)
def test_a_voter_refuses_a_candidate_whose_log_is_behind(last: tuple[int, int], granted: bool) -> None:
    """§5.4.1."""
    node = Solo((1, 2, 2))
    (reply,) = only(VoteReply, node.hear(vote_request(2, 5, last)))
    assert (reply.granted, reply.term) == (granted, 5)


def test_a_voter_votes_once_in_a_term_and_says_so_again_when_asked_again() -> None:
    """§5.2."""
    node = Solo()
    first = only(VoteReply, node.hear(vote_request(2, 1)))
    again = only(VoteReply, node.hear(vote_request(2, 1)))
    other = only(VoteReply, node.hear(vote_request(3, 1)))
    assert [reply.granted for reply in first + again + other] == [True, True, False]


def test_a_vote_from_an_earlier_term_is_refused_in_ours() -> None:
    """§5.1."""
    node = Solo(term=4)
    (reply,) = only(VoteReply, node.hear(vote_request(2, 3)))
    assert (reply.granted, reply.term) == (False, 4)


def test_granting_a_vote_restarts_the_timer_and_refusing_one_does_not() -> None:
    """§5.2: else a candidate that nobody wants would keep the others from campaigning."""
    granting, refusing = Solo((1,)), Solo((1,))
    for node in (granting, refusing):
        node.tick(ELECTION_TICKS - 1)
    granting.hear(vote_request(2, 2))
    refusing.hear(vote_request(2, 2, (0, 0)))
    assert only(VoteRequest, granting.tick(ELECTION_TICKS - 1)) == []
    assert only(VoteRequest, refusing.tick(ELECTION_TICKS + 1))


def test_a_vote_counts_once_however_often_it_arrives() -> None:
    """§5.2."""
    node = Solo(voters=[1, 2, 3, 4, 5], pre_vote=False)
    node.time_out()
    for _ in range(5):
        node.hear(vote_reply(2, node.raft.term, True))
    assert node.raft.role is Role.CANDIDATE
    node.hear(vote_reply(3, node.raft.term, True))
    assert node.raft.is_leader


def test_a_refusal_of_the_majority_ends_the_campaign() -> None:
    node = Solo(pre_vote=False)
    node.time_out()
    node.hear(vote_reply(2, node.raft.term, False))
    node.hear(vote_reply(3, node.raft.term, False))
    assert node.raft.role is Role.FOLLOWER


def test_pre_vote_changes_neither_term_nor_vote_on_either_side() -> None:
    """Dissertation §9.6."""
    asking, asked = Solo((1,)), Solo((1,), id=2)
    requests = only(VoteRequest, asking.time_out())
    assert asking.raft.role is Role.PRECANDIDATE
    assert {(request.term, request.pre) for request in requests} == {(2, True)}
    (reply,) = only(VoteReply, asked.hear(next(request for request in requests if request.target == 2)))
    assert (reply.granted, reply.pre, reply.term) == (True, True, 2)
    assert asking.disk.hard_state == asked.disk.hard_state == HardState(1, NOBODY)


def test_a_node_cut_off_comes_back_without_disturbing_anybody() -> None:
    """Dissertation §9.6: its term has not grown."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(10 * ELECTION_TICKS)
    cluster.heal()
    cluster.tick(4 * ELECTION_TICKS)
    assert cluster[1].raft.is_leader
    assert {node.raft.term for node in cluster.nodes.values()} == {1}


@pytest.mark.parametrize("pre", [True, False])
def test_a_follower_of_a_live_leader_ignores_candidates(pre: bool) -> None:
    """Dissertation §4.2.3: neither an answer nor a new term."""
    node = Solo((1,))
    node.hear(heartbeat(2, 1))
    assert node.hear(vote_request(3, 9, pre=pre)) == []
    assert (node.raft.term, node.raft.leader) == (1, 2)
    node.tick(ELECTION_TICKS)
    (reply,) = only(VoteReply, node.hear(vote_request(3, 9, pre=pre)))
    assert reply.granted


def test_a_leader_of_an_earlier_term_is_told_and_steps_down() -> None:
    """§5.1."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(1)
    cluster.tick_one(2, 4 * ELECTION_TICKS)
    cluster.tick_one(3, ELECTION_TICKS)
    cluster.tick_until(lambda: cluster[2].raft.is_leader or cluster[3].raft.is_leader, 10 * ELECTION_TICKS)
    cluster.heal()
    cluster.tick(3)
    assert cluster[1].raft.role is Role.FOLLOWER
    assert list(roles(cluster).values()).count(Role.LEADER) == 1


def test_a_stale_leader_gets_an_answer_in_the_newer_term() -> None:
    """§5.1."""
    node = Solo(term=6)
    for stale in (append(2, 5, (0, 0)), heartbeat(2, 5)):
        (reply,) = only(AppendReply, node.hear(stale))
        assert (reply.term, reply.success, reply.target) == (6, False, 2)
    assert node.raft.leader == NOBODY


def test_a_node_that_may_have_lost_its_end_takes_no_part_until_it_is_past_it() -> None:
    """Protocol-aware recovery: what it acknowledged may be missing, and its vote would let that be overwritten."""
    node = Solo((1, 1), ambiguous_after=2)
    assert only(VoteRequest, node.tick(6 * ELECTION_TICKS)) == []
    (refused,) = only(VoteReply, node.hear(vote_request(2, 4)))
    assert not refused.granted
    node.hear(append(2, 4, (2, 1), commit=2))
    assert only(VoteRequest, node.tick(4 * ELECTION_TICKS)) == []
    node.hear(append(2, 4, (2, 1), log_of(4, first=3), commit=4))
    assert only(VoteRequest, node.tick(4 * ELECTION_TICKS)) == [], "the leader has committed more than that"
    assert node.raft.is_ambiguous
    node.hear(append(2, 4, (3, 4), log_of(4, first=4), commit=4))
    assert not node.raft.is_ambiguous
    assert only(VoteRequest, node.tick(2 * ELECTION_TICKS + 1))


def test_a_leader_without_a_commit_in_its_term_cannot_say_nothing_is_missing() -> None:
    """Entries 3 to 5 were committed with our acknowledgement and lost. The leader was restarted, knows of commit 3 by
    its snapshot, and sends 3 and 4 first. If the ambiguity were over then, we would vote for a node that has none of
    them."""
    node = Solo((1, 1), ambiguous_after=2)
    node.hear(append(2, 4, (2, 1), log_of(1, 1, first=3), commit=3))
    assert node.raft.is_ambiguous
    node.hear(append(2, 4, (4, 1), log_of(1, 4, first=5), commit=3))
    assert node.raft.is_ambiguous, "it holds all that there is, and has not heard so"
    node.hear(append(2, 4, (6, 4), commit=6))
    assert not node.raft.is_ambiguous


def test_a_new_leader_appends_an_entry_of_its_term_with_the_time_of_the_last() -> None:
    """§8."""
    node = Solo((1, 1))
    requests = only(AppendRequest, node.lead())
    assert {request.target for request in requests} == {2, 3}
    (noop,) = requests[0].entries
    assert (noop.term, noop.index, noop.kind.name, noop.time_ms) == (2, 3, "NOOP", 0)


def test_a_follower_that_lost_the_leaders_connection_soon_asks_the_others() -> None:
    """A process that dies closes its connections: waiting out the silence would only cost time."""
    node = Solo((1,))
    node.hear(heartbeat(2, 1))
    node.raft.unreachable(NodeId(2))
    requests = only(VoteRequest, node.tick(ELECTION_TICKS // 2))
    assert {request.target for request in requests} == {2, 3}
    assert all(request.pre for request in requests)
    assert (node.raft.term, node.raft.leader) == (1, NOBODY)


def test_a_follower_whose_connection_broke_follows_again_and_disturbs_nobody() -> None:
    """Dissertation §9.6: the others hear the leader and refuse the pre-vote."""
    node = Solo((1,))
    node.hear(heartbeat(2, 1))
    node.raft.unreachable(NodeId(2))
    node.tick(ELECTION_TICKS // 2)
    node.hear(vote_reply(3, 1, granted=False, pre=True))
    node.hear(heartbeat(2, 1))
    assert (node.raft.role, node.raft.leader, node.raft.term) == (Role.FOLLOWER, 2, 1)


def test_without_pre_vote_a_lost_connection_starts_no_election() -> None:
    node = Solo((1,), pre_vote=False)
    node.hear(heartbeat(2, 1))
    node.raft.unreachable(NodeId(2))
    assert only(VoteRequest, node.tick(ELECTION_TICKS - 1)) == []
    assert node.raft.leader == 2


def test_the_loss_of_a_peer_that_does_not_lead_changes_nothing_for_a_follower() -> None:
    node = Solo((1,))
    node.hear(heartbeat(2, 1))
    node.raft.unreachable(NodeId(3))
    assert node.raft.leader == 2


def test_an_answer_to_an_earlier_pre_vote_is_not_counted() -> None:
    """The term is the same, and the leader was heard in between."""
    node = Solo((1,))
    (first, _) = only(VoteRequest, node.time_out())
    node.hear(heartbeat(2, 1))
    (second, _) = only(VoteRequest, node.time_out())
    assert first.term == second.term
    node.hear(vote_reply(3, first.term, True, pre=True, round=first.round))
    assert node.raft.role is Role.PRECANDIDATE
    node.hear(vote_reply(3, second.term, True, pre=True, round=second.round))
    assert node.raft.role is Role.CANDIDATE


def test_every_answer_to_a_pre_vote_names_its_round() -> None:
    node = Solo((1,))
    for term in (2, 0):
        request = VoteRequest(NodeId(2), NodeId(1), Term(term), Index(9), Term(9), True, False, 7)
        (reply,) = only(VoteReply, node.hear(request))
        assert reply.round == 7


def test_a_node_that_is_held_back_votes_and_follows_and_begins_no_campaign() -> None:
    node = Solo((1,))
    node.raft.hold_back(True)
    assert node.tick(4 * ELECTION_TICKS) == []
    (reply,) = only(VoteReply, node.hear(vote_request(3, 2)))
    assert reply.granted
    node.hear(heartbeat(3, 2, transferee=1))
    assert node.hear(TimeoutNow(NodeId(3), NodeId(1), Term(2))) == []
    node.raft.hold_back(False)
    assert only(VoteRequest, node.time_out())
