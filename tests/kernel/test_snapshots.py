"""Snapshots (Raft §7; dissertation §5): taking, sending in chunks, installing."""

from __future__ import annotations

from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    ChunkRead,
    ChunkWrite,
    Fetch,
    Index,
    Message,
    NodeId,
    Role,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
    Term,
    VoteRequest,
)

from .harness import ELECTION_TICKS, Cluster, group, log_of
from .solo import Solo, append, append_refusal, heartbeat, heartbeat_reply, only

META = SnapshotMeta(Index(10), Term(2), 50, group([1, 2, 3]))


def request(offset: int, data: bytes, done: bool, *, meta: SnapshotMeta = META, source: int = 2) -> SnapshotRequest:
    return SnapshotRequest(NodeId(source), NodeId(1), Term(3), meta, offset, data, done)


def behind(**settings: object) -> Cluster:
    """Node 3 missed what the others no longer have."""
    cluster = Cluster(**settings)  # type: ignore[arg-type]
    cluster.elect(1)
    cluster.crash(3)
    for number in range(10):
        cluster.propose(1, b"%d" % number)
    cluster.tick(2)
    for node in (1, 2):
        cluster[node].take_snapshot()
    cluster.restart(3)
    return cluster


def sender(first_index: int = 5) -> Solo:
    """A leader whose peer 2 needs a snapshot, the first chunk of which has been asked for."""
    node = Solo((1,) * 4)
    node.lead()
    node.acknowledge(3, 5)
    node.raft.fetched(NodeId(1), node.disk.read(1, 4, 1 << 20))
    node.run()
    meta = SnapshotMeta(Index(4), Term(1), 0, group([1, 2, 3]))
    node.raft.snapshot_taken(meta, Index(first_index))
    node.disk.keep_snapshot(meta)
    node.hear(append_refusal(2, node.raft.term, 4, (0, 0)))
    assert node.requests[-1] == ChunkRead(NodeId(2), Index(4), 0)
    return node


def test_a_peer_that_needs_what_is_gone_gets_a_snapshot_and_then_the_log() -> None:
    """§7."""
    cluster = behind()
    cluster.tick(5)
    assert cluster[3].disk.snapshot.index == 11
    cluster.propose(1, b"after")
    cluster.tick(2)
    assert cluster.data_applied(3) == cluster.data_applied(1)
    chunks = only(SnapshotRequest, cluster.delivered)
    assert len(chunks) > 1
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_a_kept_tail_of_the_log_saves_a_peer_from_the_snapshot() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.crash(3)
    for number in range(4):
        cluster.propose(1, b"%d" % number)
    cluster[1].take_snapshot(trailing=20)
    cluster.restart(3)
    cluster.tick(3)
    assert cluster.data_applied(3) == cluster.data_applied(1)
    assert only(SnapshotRequest, cluster.delivered) == []


def test_a_transfer_goes_on_after_a_lost_chunk() -> None:
    cluster = behind()
    lost: list[Message] = []

    def first_two(message: Message) -> bool:
        if isinstance(message, SnapshotRequest | SnapshotReply) and len(lost) < 2:
            lost.append(message)
            return True
        return False

    cluster.drop(first_two)
    cluster.tick(20)
    assert len(lost) == 2
    assert cluster[3].machine == cluster[1].machine


def test_a_transfer_survives_a_crash_of_the_receiver() -> None:
    cluster = behind()
    cluster.hold_disk(3)
    cluster.tick(2)
    cluster.restart(3)
    cluster.release_disk(3)
    cluster.tick(20)
    assert cluster[3].machine == cluster[1].machine


def test_a_receiver_says_which_byte_it_wants() -> None:
    node = Solo(term=3)
    (reply,) = only(SnapshotReply, node.hear(request(7, b"later", False)))
    assert (reply.index, reply.offset, reply.installed, reply.failed) == (10, 0, False, False)
    assert node.hear(request(0, b"abc", False)) == []
    assert node.requests == [ChunkWrite(META, 0, b"abc", False)]
    assert node.hear(request(0, b"abc", False)) == [], "still being written"
    node.raft.chunk_written(META, 0, True)
    (reply,) = only(SnapshotReply, node.run())
    assert reply.offset == 3
    (reply,) = only(SnapshotReply, node.hear(request(0, b"abc", False)))
    assert reply.offset == 3


def test_a_snapshot_beyond_an_ambiguous_end_does_not_end_the_ambiguity() -> None:
    """We acknowledged entries 3 to 12, which are committed so, and lost them. The leader's snapshot stands for ten of
    them; were the ambiguity over then, we could elect a node that has neither 11 nor 12."""
    node = Solo((1, 1), term=3, ambiguous_after=2)
    node.hear(request(0, b"abc", True))
    node.raft.chunk_written(META, 0, True)
    (reply,) = only(SnapshotReply, node.run())
    assert reply.installed and node.raft.last_index == 10
    node.disk.install(META)
    assert node.raft.is_ambiguous
    assert only(VoteRequest, node.tick(4 * ELECTION_TICKS)) == []
    node.hear(append(2, 3, (10, 2), log_of(3, first=11), commit=12))
    assert node.raft.is_ambiguous, "the leader has committed more than that"
    node.hear(append(2, 3, (11, 3), log_of(3, first=12), commit=12))
    assert not node.raft.is_ambiguous


def test_a_peer_with_a_new_snapshot_is_told_what_is_committed() -> None:
    node = sender()
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"abc", True)
    node.run()
    commit, last = node.raft.commit, node.raft.last_index
    reply = SnapshotReply(NodeId(2), NodeId(1), node.raft.term, Index(last), 0, True, False)
    assert [message.commit for message in only(AppendRequest, node.hear(reply))] == [commit]


def test_the_last_chunk_waits_until_the_disk_is_idle() -> None:
    """A write that comes after the installation would be of the old log."""
    node = Solo((1, 1), term=3)
    node.raft.step(append(2, 3, (2, 1), log_of(3, first=3)))
    node.ready()
    node.raft.step(request(0, b"abc", True))
    node.ready()
    assert node.requests == []
    node.persist()
    assert node.requests == [ChunkWrite(META, 0, b"abc", True)]


def test_nothing_touches_the_log_while_a_snapshot_is_being_installed() -> None:
    node = Solo((1, 1), term=3)
    node.hear(request(0, b"abc", True))
    assert only(AppendReply, node.hear(append(2, 3, (2, 1), log_of(3, first=3), commit=3))) == []
    assert (node.raft.last_index, node.raft.commit) == (2, 0)
    node.raft.step(heartbeat(2, 4, commit=2))
    assert node.ready() == []
    assert node.pending is None, "the new term waits too"
    node.raft.chunk_written(META, 0, True)
    node.ready()
    assert node.pending is not None
    assert node.pending.write.hard_state == (4, 0)
    (reply,) = only(SnapshotReply, node.persist())
    assert reply.installed
    assert (node.raft.last_index, node.raft.commit, node.raft.applied) == (10, 10, 10)


def test_an_installation_that_fails_is_said_and_changes_nothing() -> None:
    node = Solo((1, 1), term=3)
    node.hear(request(0, b"abc", True))
    node.raft.chunk_written(META, 0, False)
    (reply,) = only(SnapshotReply, node.run())
    assert reply.failed
    assert node.raft.last_index == 2
    (acknowledged,) = only(AppendReply, node.hear(append(2, 3, (2, 1), log_of(3, first=3))))
    assert acknowledged.success


def test_chunks_of_two_senders_are_never_mixed() -> None:
    """Their snapshots of one index need not be the same bytes."""
    node = Solo(term=3)
    node.hear(request(0, b"abc", False))
    node.raft.chunk_written(META, 0, True)
    node.run()
    (reply,) = only(SnapshotReply, node.hear(request(3, b"def", True, source=3)))
    assert reply.offset == 0


def test_the_membership_comes_with_the_snapshot() -> None:
    """§7."""
    node = Solo((1,), term=3)
    meta = META._replace(membership=group([1, 2], [3]))
    node.hear(request(0, b"abc", True, meta=meta))
    node.raft.chunk_written(meta, 0, True)
    node.run()
    assert node.raft.membership == group([1, 2], [3])


def test_one_chunk_is_in_flight_and_the_next_starts_where_the_receiver_says() -> None:
    node = sender()
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"abc", False)
    (chunk,) = only(SnapshotRequest, node.run())
    assert (chunk.offset, chunk.data, chunk.done) == (0, b"abc", False)
    node.hear(SnapshotReply(NodeId(2), NodeId(1), node.raft.term, Index(4), 3, False, False))
    assert node.requests[-1] == ChunkRead(NodeId(2), Index(4), 3)


def test_a_chunk_that_nobody_answers_is_sent_again() -> None:
    node = sender()
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"abc", False)
    node.run()
    before = len(node.requests)
    for _ in range(6):
        node.tick(1)
        node.hear(heartbeat_reply(3, node.raft.term))
    assert node.requests[before:] == [ChunkRead(NodeId(2), Index(4), 0)]


def test_an_unreadable_snapshot_is_tried_again_when_the_peer_is_heard() -> None:
    node = sender()
    node.raft.chunk_read_failed(NodeId(2), Index(4))
    node.run()
    before = len(node.requests)
    node.tick(2)
    assert len(node.requests) == before, "not in a circle"
    node.hear(heartbeat_reply(2, node.raft.term))
    assert node.requests[before:] == [ChunkRead(NodeId(2), Index(4), 0)]


def test_a_last_chunk_that_the_log_overtook_is_not_installed() -> None:
    """It waits for a write; by the time that is done, the log holds more than the snapshot."""
    node = Solo((1, 1), term=3)
    meta = META._replace(index=Index(4), term=Term(3))
    node.raft.step(append(2, 3, (2, 1), log_of(3, first=3)))
    node.ready()
    node.raft.step(request(0, b"abc", True, meta=meta))
    node.raft.step(append(2, 3, (3, 3), log_of(3, 3, first=4)))
    node.run()
    assert node.requests == []
    assert node.raft.last_index == 5
    (reply,) = only(SnapshotReply, node.hear(request(0, b"abc", True, meta=meta)))
    assert reply.installed


def test_a_node_does_not_campaign_while_it_installs_a_snapshot() -> None:
    """It would lead with a log that is about to be replaced."""
    node = Solo((1, 1), term=3)
    node.hear(request(0, b"abc", True))
    assert node.tick(6 * ELECTION_TICKS) == []
    assert node.raft.role is Role.FOLLOWER
    node.raft.chunk_written(META, 0, False)
    assert only(VoteRequest, node.time_out())


def test_entries_read_before_an_installation_are_not_applied_after_it() -> None:
    node = Solo((1,) * 9, term=3)
    node.hear(heartbeat(2, 3, commit=5))
    (fetch,) = only(Fetch, node.requests)
    node.hear(request(0, b"abc", True))
    node.raft.fetched(NodeId(1), node.disk.read(fetch.first, fetch.last, fetch.max_bytes))
    node.run()
    assert node.applied == []


def test_a_chunk_is_never_written_while_another_is() -> None:
    """A chunk of another snapshot has to wait as well: the answer could not be told apart."""
    node = Solo(term=3)
    node.hear(request(0, b"abc", False))
    assert node.hear(request(0, b"xyz", False, source=3)) == []
    assert node.requests == [ChunkWrite(META, 0, b"abc", False)]


def test_a_snapshot_answered_late_ends_the_one_that_replaced_it() -> None:
    """The peer has installed entry 3's while entry 4's is on its way, and the log goes on from there."""
    node = sender(first_index=4)
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"four", True)
    node.run()
    reply = SnapshotReply(NodeId(2), NodeId(1), node.raft.term, Index(3), 0, True, False)
    sent = only(AppendRequest, node.hear(reply))
    assert [request.previous_index for request in sent if request.target == 2] == [3]
    assert {peer.id: peer.state for peer in node.raft.peers()}[NodeId(2)] == "replicate"
    assert {peer.id: peer.state for peer in node.raft.peers()}[NodeId(2)] == "replicate"


def test_a_snapshot_answered_late_changes_nothing_where_the_log_does_not_reach() -> None:
    node = sender()
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"four", True)
    node.run()
    node.hear(SnapshotReply(NodeId(2), NodeId(1), node.raft.term, Index(2), 0, True, False))
    assert {peer.id: peer.state for peer in node.raft.peers()}[NodeId(2)] == "snapshot"


def test_an_acknowledgement_that_comes_late_ends_a_snapshot_that_is_not_needed() -> None:
    node = sender()
    node.acknowledge(2, 4)
    assert {peer.id: peer.state for peer in node.raft.peers()}[NodeId(2)] == "replicate"


def test_an_acknowledgement_that_comes_late_ends_a_probe() -> None:
    """Probing at entry 5 without an answer: that the peer holds entry 3 is enough to go on from there."""
    node = Solo((1,) * 4)
    node.lead()
    sent = only(AppendRequest, node.acknowledge(2, 3))
    assert {peer.id: peer.state for peer in node.raft.peers()}[NodeId(2)] == "replicate"
    assert [request.previous_index for request in sent if request.target == 2] == [3]


def test_a_receiver_whose_log_has_caught_up_says_so_at_once() -> None:
    """The last chunk waits for the disk; meanwhile the log reaches the snapshot by itself."""
    node = Solo((1,) * 4, term=3)
    node.hear(heartbeat(2, 3))
    meta = SnapshotMeta(Index(5), Term(3), 0, group([1, 2, 3]))
    entries = log_of(3, first=5)
    node.raft.step(append(2, 3, (4, 1), entries))
    node.ready()  # the write is in flight
    node.raft.step(SnapshotRequest(NodeId(2), NodeId(1), Term(3), meta, 0, b"all", True))
    replies = only(SnapshotReply, [*node.ready(), *node.run()])
    assert [(reply.index, reply.installed) for reply in replies] == [(5, True)]


def test_a_peer_gets_a_newer_snapshot_where_the_log_has_gone_on_without_it() -> None:
    """While entry 4's was on its way, the leader has taken entry 5's and dropped its log up to there."""
    node = sender()
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"four", True)
    node.acknowledge(3, 5)
    meta = SnapshotMeta(Index(5), node.raft.term, 0, group([1, 2, 3]))
    node.raft.snapshot_taken(meta, Index(6))
    node.disk.keep_snapshot(meta)
    node.hear(SnapshotReply(NodeId(2), NodeId(1), node.raft.term, Index(4), 0, True, False))
    assert ChunkRead(NodeId(2), Index(5), 0) in node.requests


def test_a_snapshot_that_the_peer_already_holds_ends_with_its_answer() -> None:
    """Nothing moves: it was sent because the log had gone that should follow."""
    node = sender()
    node.raft._state.progress[NodeId(2)].match = Index(4)
    node.raft.chunk_read(NodeId(2), Index(4), 0, b"four", True)
    node.run()
    node.hear(SnapshotReply(NodeId(2), NodeId(1), node.raft.term, Index(4), 0, True, False))
    assert {peer.id: peer.state for peer in node.raft.peers()}[NodeId(2)] == "replicate"
