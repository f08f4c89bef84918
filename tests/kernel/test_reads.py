"""Linearizable reads (ReadIndex; dissertation §6.4)."""

from __future__ import annotations

from disheap.errors import NotLeader
from disheap.kernel.types import Heartbeat, Read, Role

from .harness import Cluster, refused
from .solo import Solo, heartbeat, heartbeat_reply, only


def leader() -> Solo:
    node = Solo((1, 1))
    node.lead()
    node.acknowledge(2, 3)
    assert node.raft.commit == 3
    return node


def test_a_read_is_answered_when_a_majority_still_follows() -> None:
    cluster = Cluster()
    cluster.elect(1)
    index = cluster.propose(1, b"a")
    cluster[1].raft.read_index(7)
    cluster[1].pump()
    assert cluster[1].reads == []
    cluster.settle()
    assert cluster[1].reads == [Read(7, index, True)]


def test_only_a_leader_is_asked() -> None:
    assert refused(lambda: Solo().raft.read_index(1)) is NotLeader


def test_reads_that_arrive_together_share_a_round() -> None:
    node = leader()
    for context in range(100):
        node.raft.read_index(context)
    (first, second) = only(Heartbeat, node.run())
    assert first.read == second.read
    node.hear(heartbeat_reply(2, node.raft.term, first.read))
    assert node.reads == [Read(context, 3, True) for context in range(100)]


def test_the_only_voter_answers_at_once() -> None:
    node = Solo(voters=[1])
    node.lead()
    node.raft.read_index(1)
    node.run()
    assert node.reads == [Read(1, 1, True)]


def test_an_answer_to_an_earlier_round_confirms_no_later_read() -> None:
    node = leader()
    node.raft.read_index(1)
    round = only(Heartbeat, node.run())[0].read
    node.raft.read_index(2)
    node.run()
    node.hear(heartbeat_reply(2, node.raft.term, round))
    assert node.reads == [Read(1, 3, True)]


def test_a_lost_round_is_asked_again_with_the_next_heartbeat() -> None:
    node = leader()
    node.raft.read_index(1)
    round = only(Heartbeat, node.run())[0].read
    assert {message.read for message in only(Heartbeat, node.tick(1))} == {round}
    node.hear(heartbeat_reply(3, node.raft.term, round))
    assert len(node.reads) == 1


def test_every_read_is_answered_badly_when_leadership_is_lost() -> None:
    node = leader()
    node.raft.read_index(1)
    node.run()
    node.raft.read_index(2)
    node.hear(heartbeat(2, node.raft.term + 1))
    assert node.raft.role is Role.FOLLOWER
    assert [(read.context, read.ok) for read in node.reads] == [(1, False), (2, False)]
