"""The bugs that other Raft implementations had, one test at least for each that a kernel can show.

The number in a docstring is the row of the list. Rows 14 and 15 belong to storage, 26 and 29 to the runtime, and 30 to
the machine. `test_imports` covers 25 (a wall clock where a monotonic one belongs): the kernel has no clock at all.

    1  durable before the reply          12  a late confirmation counts overwritten entries
    2  the term before its entries       13  a single node and its own disk
    3  a vote cleared within its term    16  reads
    4  an earlier term's entries counted 17  snapshots and the log's tail
    5  a change before the no-op         18  the sender learns how it ended
    6  a membership active on apply      19  pre-vote with side effects
    7  a membership not rolled back      20  a heartbeat's reply and its term
    8  a stale membership and votes      21  a leader without a quorum
    9  truncation without conflict       22  a rejected append and the timer
    10 commit beyond what is verified    23  transfer
    11 stale and reordered replies       24, 27, 28  quorums, removed nodes, what never completes
"""

from __future__ import annotations

import pytest

from disheap.errors import InvalidArgument, Overloaded
from disheap.kernel.types import (
    NOBODY,
    AppendReply,
    AppendRequest,
    ChunkWrite,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Index,
    NodeId,
    Read,
    Role,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
    Term,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)

from .harness import ELECTION_TICKS, Cluster, Disk, group, log_of, refused
from .solo import (
    Solo,
    append,
    append_refusal,
    append_reply,
    heartbeat,
    heartbeat_reply,
    only,
    vote_reply,
    vote_request,
)


def test_a_vote_leaves_only_when_it_is_durable() -> None:
    """1."""
    node = Solo()
    node.raft.step(vote_request(2, 1))
    assert node.ready() == []
    (reply,) = only(VoteReply, node.persist())
    assert reply.granted
    assert node.disk.hard_state == HardState(Term(1), NodeId(2))


def test_a_vote_outlives_a_restart() -> None:
    """1."""
    node = Solo((1,), term=4, vote=2)
    assert [only(VoteReply, node.hear(vote_request(n, 4)))[0].granted for n in (3, 2)] == [False, True]


def test_an_acknowledgement_leaves_only_when_its_entries_are_durable() -> None:
    """1."""
    node = Solo(term=1)
    node.raft.step(append(2, 1, (0, 0), log_of(1)))
    assert node.ready() == []
    node.raft.step(append(2, 1, (0, 0), log_of(1, 1)))
    node.raft.step(append(2, 1, (0, 0), log_of(1)))
    assert node.ready() == [], "entry 1 is still on its way to the disk"
    replies = only(AppendReply, node.persist())
    assert {reply.index for reply in replies} == {1}, "entry 2 is not durable yet"
    assert [reply.index for reply in only(AppendReply, node.persist())] == [2]


def test_nothing_is_said_in_a_term_that_is_not_durable() -> None:
    """1, 2."""
    node = Solo(pre_vote=False)
    node.raft.step(heartbeat(2, 5))
    assert node.ready() == []
    node.raft.step(append(2, 5, (9, 9)))
    assert node.ready() == []
    released = node.persist()
    assert {type(message) for message in released} == {HeartbeatReply, AppendReply}
    campaigning = Solo(pre_vote=False)
    for _ in range(2 * ELECTION_TICKS):
        campaigning.raft.tick()
    assert campaigning.ready() == []
    assert len(only(VoteRequest, campaigning.persist())) == 2


def test_a_write_never_holds_entries_of_a_term_that_is_not_made_durable() -> None:
    """2."""
    node = Solo()
    node.raft.step(append(2, 3, (0, 0), log_of(3)))
    node.ready()
    assert node.pending is not None
    assert node.pending.write.hard_state == HardState(Term(3), NOBODY)
    assert node.pending.write.entries == log_of(3)


def test_a_candidate_that_steps_down_within_its_term_keeps_its_vote() -> None:
    """3."""
    node = Solo(pre_vote=False)
    node.time_out()
    term = node.raft.term
    node.hear(vote_reply(2, term, False))
    node.hear(vote_reply(3, term, False))
    assert node.raft.role is Role.FOLLOWER
    assert node.disk.hard_state == HardState(term, NodeId(1))
    (reply,) = only(VoteReply, node.hear(vote_request(2, term)))
    assert not reply.granted


def test_a_leader_that_loses_its_quorum_keeps_its_vote() -> None:
    """3."""
    node = Solo()
    node.lead()
    term = node.raft.term
    node.tick(ELECTION_TICKS)
    assert node.disk.hard_state == HardState(term, NodeId(1))
    assert not only(VoteReply, node.hear(vote_request(2, term)))[0].granted


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """4, Raft Figure 8."""
    node = Solo((1, 2), term=3)
    node.lead()
    node.acknowledge(2, 2)
    assert node.raft.commit == 0, "a majority has entry 2, and node 5 of the figure may still overwrite it"
    node.acknowledge(2, 3)
    assert node.raft.commit == 3


def test_no_change_is_taken_before_the_leaders_own_no_op_is_committed() -> None:
    """5."""
    node = Solo((1,))
    node.lead()
    assert refused(lambda: node.raft.propose_change(group([1, 2]), 0)) is Overloaded
    node.acknowledge(2, 2)
    assert refused(lambda: node.raft.propose_change(group([1, 2]), 0)) is None


def test_a_change_is_in_force_at_a_follower_before_it_is_committed() -> None:
    """6."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.drop(lambda message: isinstance(message, AppendReply))
    index = cluster.propose_change(1, group([1, 2]))
    assert cluster[1].raft.commit < index
    assert cluster[2].raft.membership == group([1, 2])
    assert cluster[3].raft.membership == group([1, 2, 3]), "no longer a peer"


def test_a_candidate_asks_by_the_last_membership_in_its_log() -> None:
    """6."""
    cluster = Cluster(strangers=[4])
    cluster.elect(1)
    cluster.drop(lambda message: isinstance(message, AppendReply))
    cluster.propose_change(1, group([1, 2, 3, 4]))
    raft = cluster[2].raft
    assert raft.commit < raft.last_index
    for _ in range(3 * ELECTION_TICKS):
        raft.tick()
    requests = only(VoteRequest, raft.ready().messages)
    assert {request.target for request in requests} == {1, 3, 4}


def test_a_change_that_is_overwritten_is_no_longer_in_force() -> None:
    """7."""
    cluster = Cluster(strangers=[4])
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose_change(1, group([1, 2, 3, 4]))
    assert cluster[1].raft.membership == group([1, 2, 3, 4])
    cluster.tick_until(lambda: cluster[2].raft.is_leader or cluster[3].raft.is_leader, 10 * ELECTION_TICKS)
    cluster.heal()
    cluster.tick(3)
    assert cluster[1].raft.membership == group([1, 2, 3])
    cluster.restart(1)
    assert cluster[1].raft.membership == group([1, 2, 3])


def test_a_change_in_the_log_is_in_force_after_a_restart() -> None:
    """7."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose_change(1, group([1, 2, 3], [4]))
    cluster.restart(1)
    assert cluster[1].raft.membership == group([1, 2, 3], [4])


@pytest.mark.parametrize(("own", "candidate"), [(4, 2), (1, 9), (4, 9)])
def test_a_node_votes_whatever_its_own_membership_says(own: int, candidate: int) -> None:
    """8: that membership may be the stale one."""
    node = Solo((1,), id=own)
    (reply,) = only(VoteReply, node.hear(vote_request(candidate, 5, target=own)))
    assert reply.granted


def test_a_node_without_any_membership_votes_and_follows() -> None:
    """8."""
    node = Solo(voters=[], id=4)
    assert only(VoteReply, node.hear(vote_request(2, 5, target=4)))[0].granted
    assert only(AppendReply, node.hear(append(2, 5, (0, 0), log_of(5), target=4)))[0].success


def test_a_delayed_append_does_not_cut_off_what_came_after_it() -> None:
    """9."""
    node = Solo(term=1)
    node.hear(append(2, 1, (0, 0), log_of(1, 1, 1, 1)))
    (reply,) = only(AppendReply, node.hear(append(2, 1, (0, 0), log_of(1, 1))))
    assert (reply.success, reply.index) == (True, 2)
    assert node.raft.last_index == 4
    node.hear(append(2, 1, (0, 0)))
    assert node.raft.last_index == 4


def test_a_follower_commits_no_further_than_the_message_verified() -> None:
    """10: entries 2 and 3 may differ from the leader's."""
    node = Solo((1, 1, 1))
    node.hear(append(2, 4, (1, 1), commit=3))
    assert node.raft.commit == 1
    node.hear(append(2, 4, (1, 1), log_of(4, first=2), commit=9))
    assert node.raft.commit == 2


def test_the_commit_index_never_goes_back() -> None:
    """10."""
    node = Solo((1, 1, 1))
    node.hear(append(2, 1, (3, 1), commit=3))
    node.hear(append(2, 1, (1, 1), commit=1))
    node.hear(heartbeat(2, 1, commit=0))
    assert node.raft.commit == 3


def test_a_heartbeat_promises_no_more_than_the_follower_is_known_to_hold() -> None:
    """10."""
    node = Solo((1, 1))
    node.lead()
    node.acknowledge(2, 3)
    assert node.raft.commit == 3
    beats = {message.target: message.commit for message in only(Heartbeat, node.tick(1))}
    assert beats == {2: 3, 3: 0}


def test_with_an_ambiguous_end_a_follower_commits_only_what_its_leader_sent() -> None:
    """10: it acknowledged entries 4 and 5 of term 3, lost them with its last write, and holds again what these had
    superseded. The leader still counts it to 5."""
    node = Solo((1, 1, 1, 2, 2, 2), term=3, ambiguous_after=6)
    node.hear(heartbeat(2, 3, commit=5))
    assert node.raft.commit == 0
    node.hear(append(2, 3, (3, 1), log_of(3, first=4), commit=5))
    assert node.raft.commit == 4
    node.hear(heartbeat(2, 3, commit=5))
    assert (node.raft.commit, node.raft.last_index) == (4, 4)


def test_what_one_leader_sent_says_nothing_about_the_log_of_the_next() -> None:
    """10, with an ambiguous end: entry 4 came from the leader of term 3. The next one may have another."""
    node = Solo((1, 1, 1), term=3, ambiguous_after=9)
    node.hear(append(2, 3, (3, 1), log_of(3, first=4)))
    node.hear(heartbeat(3, 4, commit=4))
    assert node.raft.commit == 0


def test_late_replies_move_nothing_back() -> None:
    """11."""
    node = Solo((1, 1, 1))
    node.lead()
    node.acknowledge(2, 4)
    node.acknowledge(2, 1)
    node.hear(append_refusal(2, node.raft.term, 3, (0, 0)))
    peer = next(peer for peer in node.raft.peers() if peer.id == 2)
    assert (peer.match, peer.next, peer.state) == (4, 5, "replicate")
    assert node.raft.commit == 4


def test_a_reply_of_an_earlier_term_moves_nothing_forward() -> None:
    """11."""
    node = Solo((1, 1, 1), term=4)
    node.lead()
    node.hear(append_reply(2, 1, 4, 4))
    assert [peer.match for peer in node.raft.peers()] == [0, 0]
    assert node.raft.commit == 0


def test_a_peer_that_lost_the_end_of_its_log_is_sent_it_again() -> None:
    """11, the other way: what it no longer has is not counted, and it is not left without it."""
    node = Solo((1, 1), voters=[1, 2, 3])
    node.lead()
    node.acknowledge(2, 3)
    node.raft.unreachable(NodeId(2))
    (probe,) = only(AppendRequest, node.run())
    assert probe.previous_index == 3
    (again,) = only(AppendRequest, node.hear(append_refusal(2, node.raft.term, 3, (1, 1))))
    assert (again.previous_index, len(again.entries)) == (1, 2)
    assert next(peer for peer in node.raft.peers() if peer.id == 2).match == 1


def test_a_peer_that_lost_its_end_is_asked_again_though_nothing_is_proposed() -> None:
    """11, the other way: the one question was lost with the link, and the leader has nothing else to send."""
    cluster = Cluster((1, 2, 3))
    cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"%d" % number)
    last = cluster[1].raft.last_index
    cluster.crash(3)
    del cluster[3].disk.entries[-3:]
    cluster[1].raft.unreachable(NodeId(3))
    cluster[1].pump()
    cluster.network = [message for message in cluster.network if message.target != 3]
    cluster.restart(3, ambiguous_after=Index(last - 3))
    cluster.tick_until(lambda: cluster[3].raft.last_index == last, 20)


def test_a_late_confirmation_does_not_count_entries_that_were_overwritten() -> None:
    """12: the write of term 1's entries is in flight when the leader of term 2 replaces them."""
    node = Solo(term=1)
    node.raft.step(append(2, 1, (0, 0), log_of(1, 1, 1)))
    node.ready()
    node.raft.step(append(3, 2, (1, 1), log_of(2, 2, first=2)))
    node.ready()
    released = node.persist()
    current = [reply for reply in only(AppendReply, released) if reply.term == 2]
    assert current == [], "2 and 3 of term 2 are not durable by the first write"
    (reply,) = only(AppendReply, node.persist())
    assert (reply.term, reply.index) == (2, 3)
    assert [entry.term for entry in node.disk.entries] == [1, 2, 2]


def test_an_acknowledgement_held_for_overwritten_entries_is_never_sent() -> None:
    """12."""
    node = Solo(term=1)
    node.raft.step(append(2, 1, (0, 0), log_of(1)))
    node.ready()
    node.raft.step(append(2, 1, (1, 1), log_of(1, first=2)))
    node.raft.step(append(3, 2, (1, 1), log_of(2, first=2)))
    released = [*node.ready(), *node.persist(), *node.persist()]
    assert [(reply.term, reply.index) for reply in only(AppendReply, released)] == [(1, 1), (2, 2)]


def test_a_confirmation_of_another_write_is_ignored() -> None:
    """12."""
    node = Solo(voters=[1])
    node.lead()
    node.raft.propose(EntryKind.COMMANDS, 0, b"")
    node.ready()
    assert node.pending is not None
    node.raft.persisted(node.pending.write.number - 1)
    node.ready()
    assert node.raft.commit == 1


def test_a_single_node_commits_only_after_its_own_fsync() -> None:
    """13."""
    node = Solo(voters=[1])
    node.lead()
    node.raft.propose(EntryKind.COMMANDS, 0, b"a")
    node.ready()
    assert (node.raft.commit, len(node.applied)) == (1, 1)
    node.persist()
    assert (node.raft.commit, len(node.applied)) == (2, 2)


def test_a_candidate_counts_its_own_vote_only_after_its_own_fsync() -> None:
    """13, 1."""
    node = Solo(voters=[1])
    node.raft.tick()
    node.ready()
    assert node.raft.role is Role.CANDIDATE
    node.persist()
    assert node.raft.is_leader


def test_a_read_waits_for_the_leaders_own_no_op() -> None:
    """16."""
    node = Solo((1, 1))
    node.lead()
    node.raft.read_index(1)
    beats = only(Heartbeat, node.run())
    for peer in (2, 3):
        node.hear(heartbeat_reply(peer, node.raft.term, max([0, *(beat.read for beat in beats)])))
    assert node.reads == []
    node.acknowledge(2, 3)
    round = max(beat.read for beat in only(Heartbeat, node.tick(1)))
    node.hear(heartbeat_reply(2, node.raft.term, round))
    assert node.reads == [Read(1, Index(3), True)]


def test_a_reused_context_is_not_confirmed_by_an_old_round() -> None:
    """16."""
    node = Solo((1,))
    node.lead()
    node.acknowledge(2, 2)
    node.raft.read_index(7)
    old = only(Heartbeat, node.run())[0].read
    node.hear(heartbeat_reply(2, node.raft.term, old))
    node.raft.read_index(7)
    node.run()
    node.hear(heartbeat_reply(3, node.raft.term, old))
    assert len(node.reads) == 1


def test_a_leader_that_was_replaced_during_a_transfer_answers_no_read() -> None:
    """16."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut(3, 1)
    cluster[1].raft.transfer_leadership(NodeId(3))
    cluster[1].pump()
    cluster.settle()
    assert cluster[3].raft.is_leader
    assert cluster[1].raft.is_leader, "it does not know yet"
    cluster[1].raft.read_index(1)
    cluster[1].pump()
    cluster.settle()
    assert [read.ok for read in cluster[1].reads] == [False]


def test_learners_and_strangers_confirm_no_read() -> None:
    """16, 24."""
    node = Solo((1,), learners=[4])
    node.lead()
    node.acknowledge(2, 2)
    node.raft.read_index(1)
    round = only(Heartbeat, node.run())[0].read
    for peer in (4, 9):
        node.hear(heartbeat_reply(peer, node.raft.term, round))
    assert node.reads == []


def snapshot(index: int, term: int, current: int = 5) -> SnapshotRequest:
    meta = SnapshotMeta(Index(index), Term(term), 0, group([1, 2]))
    return SnapshotRequest(NodeId(2), NodeId(1), Term(current), meta, 0, b"abc", True)


def test_a_snapshot_leaves_no_conflicting_tail_behind_it() -> None:
    """17."""
    node = Solo((1, 1, 1, 1), term=5)
    message = snapshot(2, 3)
    node.hear(message)
    node.raft.chunk_written(message.snapshot, 0, True)
    node.run()
    assert (node.raft.last_index, node.raft.term_at(Index(2))) == (2, 3)
    assert node.raft.membership == group([1, 2])


def test_a_conflicting_tail_on_the_disk_is_not_restored() -> None:
    """17: a crash between installing the snapshot and dropping the log."""
    membership = group([1, 2, 3])
    disk = Disk.holding(membership, log_of(1, 1, 1, 1), (5, 0))
    disk.snapshot = SnapshotMeta(Index(2), Term(3), 0, membership)
    cluster = Cluster(disks={1: disk})
    assert (cluster[1].raft.last_index, cluster[1].raft.commit) == (2, 2)


@pytest.mark.parametrize("index", [2, 3])
def test_an_old_snapshot_cuts_nothing_off_a_good_log(index: int) -> None:
    """17."""
    node = Solo((1, 1, 1, 1), term=5)
    node.hear(append(2, 5, (2, 1), commit=2))
    (reply,) = only(SnapshotReply, node.hear(snapshot(index, 1)))
    assert (reply.installed, reply.index) == (True, index)
    assert (node.raft.last_index, node.raft.commit) == (4, index)
    assert only(ChunkWrite, node.requests) == []


def test_the_sender_learns_of_every_end() -> None:
    """18: installed, failed, connection lost; a timeout is among the tests of snapshots."""
    for end, state in [
        (SnapshotReply(NodeId(2), NodeId(1), Term(2), Index(4), 0, True, False), "replicate"),
        (SnapshotReply(NodeId(2), NodeId(1), Term(2), Index(4), 0, False, True), "probe"),
        (None, "snapshot"),
    ]:
        node = Solo((1,) * 4, log_cache_bytes=1 << 20)
        node.lead()
        node.acknowledge(3, 5)
        node.raft.fetched(NodeId(1), node.disk.read(1, 4, 1 << 20))
        node.run()
        node.raft.snapshot_taken(SnapshotMeta(Index(4), Term(1), 0, group([1, 2, 3])), Index(5))
        node.hear(append_refusal(2, 2, 4, (0, 0)))
        assert node.raft.peers()[0].state == "snapshot"
        if end is not None:
            node.hear(end)
        else:
            node.raft.unreachable(NodeId(2))
            asked = len(node.requests)
            node.run()
            assert len(node.requests) == asked + 1, "begun again"
        assert node.raft.peers()[0].state == state


def test_a_pre_vote_refused_names_our_term_and_one_granted_the_term_asked_for() -> None:
    """19."""
    node = Solo((1, 3), term=6)
    (granted,) = only(VoteReply, node.hear(vote_request(2, 9, pre=True)))
    assert (granted.granted, granted.term) == (True, 9)
    (refusal,) = only(VoteReply, node.hear(vote_request(2, 9, (1, 1), pre=True)))
    assert (refusal.granted, refusal.term) == (False, 6)
    assert node.disk.hard_state == HardState(Term(6), NOBODY)


def test_a_pre_vote_refused_in_a_later_term_brings_the_asker_up_to_it() -> None:
    """19."""
    node = Solo((1,))
    node.time_out()
    node.hear(vote_reply(2, 8, False, pre=True))
    assert (node.raft.term, node.raft.role) == (8, Role.FOLLOWER)


def test_granted_pre_votes_are_no_votes() -> None:
    """19."""
    node = Solo((1,), voters=[1, 2, 3, 4, 5])
    node.time_out()
    node.hear(vote_reply(2, 2, True, pre=True))
    node.hear(vote_reply(3, 2, True, pre=True))
    assert (node.raft.role, node.raft.term) == (Role.CANDIDATE, 2)
    node.hear(vote_reply(4, 2, True, pre=True))
    node.hear(vote_reply(5, 2, True, pre=True))
    assert node.raft.role is Role.CANDIDATE


def test_pre_vote_and_stickiness_do_not_hold_back_a_transfer() -> None:
    """19."""
    node = Solo((1,))
    node.hear(heartbeat(2, 1, transferee=3))
    (reply,) = only(VoteReply, node.hear(vote_request(3, 2, pre=True, transfer=True)))
    assert reply.granted
    (reply,) = only(VoteReply, node.hear(vote_request(3, 2, transfer=True)))
    assert reply.granted


def test_a_leader_steps_down_at_a_later_term_in_a_heartbeats_reply() -> None:
    """20."""
    node = Solo()
    node.lead()
    node.hear(heartbeat_reply(2, 9))
    assert (node.raft.role, node.raft.term) == (Role.FOLLOWER, 9)


def test_a_leader_that_only_one_node_still_hears_makes_way() -> None:
    """21: a bridge; node 2 hears both sides."""
    cluster = Cluster([1, 2, 3, 4, 5])
    cluster.elect(1)
    for node in (3, 4, 5):
        cluster.cut(1, node)
        cluster.cut(node, 1)
    cluster.tick_until(lambda: cluster.leader is not None and cluster.leader.id != 1, 40 * ELECTION_TICKS)
    leader = cluster.leader
    assert leader is not None
    index = cluster.propose(leader.id, b"a")
    assert leader.raft.commit >= index
    cluster.tick(2 * ELECTION_TICKS)
    assert not cluster[1].raft.is_leader


def test_a_leader_that_hears_nobody_steps_down_though_it_can_send() -> None:
    """21: one way."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut(2, 1)
    cluster.cut(3, 1)
    cluster.tick(2 * ELECTION_TICKS)
    assert not cluster[1].raft.is_leader
    cluster.check_liveness()


def test_a_rejected_append_restarts_the_timer() -> None:
    """22."""
    node = Solo((1,))
    for _ in range(4 * ELECTION_TICKS):
        node.tick(1)
        assert node.raft.role is Role.FOLLOWER
        (reply,) = only(AppendReply, node.hear(append(2, 1, (9, 1))))
        assert not reply.success


def test_the_mark_of_a_transfer_does_not_outlive_it() -> None:
    """23."""
    node = Solo((1,))
    node.hear(heartbeat(2, 1))
    node.hear(TimeoutNow(NodeId(2), NodeId(1), Term(1)))
    later = only(VoteRequest, node.time_out())
    assert later
    assert all(request.pre and not request.transfer for request in later)


def test_a_transfer_ends_with_its_leadership_and_with_its_timeout() -> None:
    """23."""
    node = Solo()
    node.lead()
    node.raft.transfer_leadership(NodeId(2))
    node.hear(heartbeat(3, node.raft.term + 1))
    assert node.raft.transferee == NOBODY
    node = Solo()
    node.lead()
    node.raft.transfer_leadership(NodeId(2))
    for _ in range(ELECTION_TICKS):
        node.tick(1)
        node.hear(heartbeat_reply(2, node.raft.term))
    assert (node.raft.is_leader, node.raft.transferee) == (True, NOBODY)


def test_a_learner_is_no_target_of_a_transfer() -> None:
    """23."""
    node = Solo(learners=[4])
    node.lead()
    assert refused(lambda: node.raft.transfer_leadership(NodeId(4))) is InvalidArgument


def test_half_of_an_even_cluster_commits_nothing() -> None:
    """24."""
    cluster = Cluster([1, 2, 3, 4], learners=[5])
    cluster.elect(1)
    cluster.partition([1, 2, 5], [3, 4])
    index = cluster.propose(1, b"a")
    assert cluster[1].raft.commit < index
    cluster.tick(4 * ELECTION_TICKS)
    assert cluster.leader is None


def test_a_removed_node_that_still_runs_disturbs_nobody() -> None:
    """27."""
    cluster = Cluster([1, 2, 3, 4], pre_vote=False)
    cluster.elect(1)
    cluster.propose_change(1, group([1, 2, 3]))
    term = cluster[1].raft.term
    cluster.tick(20 * ELECTION_TICKS)
    assert cluster[4].raft.term > term, "it campaigns"
    assert cluster[1].raft.is_leader
    assert {cluster[node].raft.term for node in (1, 2, 3)} == {term}


def test_the_answers_of_a_removed_node_are_not_heard() -> None:
    """27."""
    node = Solo()
    node.lead()
    node.hear(heartbeat_reply(9, 99))
    node.hear(append_reply(9, 1, 99, 1))
    node.hear(vote_reply(9, 99, False))
    assert (node.raft.is_leader, node.raft.term) == (True, 1)


def test_a_read_that_waits_for_the_no_op_is_answered_when_leadership_is_lost() -> None:
    """28."""
    node = Solo()
    node.lead()
    node.raft.read_index(1)
    node.tick(ELECTION_TICKS)
    assert node.raft.role is not Role.LEADER
    assert node.reads == [Read(1, Index(0), False)]


def test_entries_that_replace_durable_ones_are_not_durable_yet() -> None:
    """12."""
    node = Solo((1, 1, 1))
    node.raft.step(append(3, 2, (1, 1), log_of(2, 2, first=2), commit=3))
    node.ready()
    assert [entry.index for entry in node.applied] == [1]
    node.persist()
    assert [(entry.index, entry.term) for entry in node.applied] == [(1, 1), (2, 2), (3, 2)]
