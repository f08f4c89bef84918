"""Membership changes (Raft §6; dissertation §4.1 to §4.2)."""

from __future__ import annotations

import random

import pytest

from disheap.errors import InvalidArgument, NotLeader, Overloaded, ProtocolError
from disheap.kernel.membership import Memberships, decode, encode, last_id_of
from disheap.kernel.raft import Raft
from disheap.kernel.types import (
    AppendRequest,
    EntryKind,
    Index,
    Membership,
    Role,
    SnapshotMeta,
    Term,
    TermRun,
    VoteRequest,
)

from .harness import ELECTION_TICKS, Cluster, blank, config, group, refused
from .solo import Solo, only


@pytest.mark.parametrize(
    "membership",
    [group([1]), group([1, 2, 3], [4, 5]), group([2**60]), Membership(()), group([1])._replace(last_id=7)],
)
def test_an_encoded_membership_is_read_back(membership: Membership) -> None:
    assert decode(encode(membership)) == membership


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x02\x00\x00\x00\x00", encode(group([1]))[:-1], encode(group([1])) + b"x", encode(group([1]))[:7]],
)
def test_damaged_memberships_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_the_encoding_of_a_membership_is_as_documented() -> None:
    assert encode(group([1], [2])) == (
        b"\x01\x00\x00\x00\x02"
        b"\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x02v1"
        b"\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x02l2"
    )


@pytest.mark.parametrize(
    "new",
    [
        group([1, 2, 3, 4, 5]),
        group([1]),
        group([1, 2, 4]),
        group([], [1, 2, 3]),
        Membership(tuple(reversed(group([1, 2, 3]).members))),
        Membership(group([1, 2, 3]).members + group([3]).members),
        group([0, 1, 2, 3]),
    ],
)
def test_more_than_one_voter_at_a_time_or_nonsense_is_refused(new: Membership) -> None:
    """Dissertation §4.1: majorities of neighbours must overlap."""
    cluster = Cluster()
    cluster.elect(1)
    assert refused(lambda: cluster.propose_change(1, new)) is InvalidArgument
    assert cluster[1].raft.membership == group([1, 2, 3])


def test_an_id_that_was_given_before_is_never_given_again() -> None:
    """An acknowledgement of the removed member that comes late would count for the new one."""
    cluster = Cluster(strangers=[4, 5])
    cluster.elect(1)
    cluster.propose_change(1, group([1, 2])._replace(last_id=3))
    for node in (1, 2):
        assert last_id_of(cluster[node].raft.membership) == 3
    assert refused(lambda: cluster.propose_change(1, group([1, 2, 3]))) is InvalidArgument
    assert refused(lambda: cluster.propose_change(1, group([1, 2, 4]))) is None


def test_only_a_leader_changes_the_membership() -> None:
    assert refused(lambda: Solo().raft.propose_change(group([1, 2]), 0)) is NotLeader


def test_one_change_waits_for_the_one_before() -> None:
    """Dissertation §4.1."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose_change(1, group([1, 2, 3], [4]))
    assert refused(lambda: cluster.propose_change(1, group([1, 2, 3], [4, 5]))) is Overloaded
    cluster.heal()
    cluster.tick(3)
    assert refused(lambda: cluster.propose_change(1, group([1, 2, 3], [4, 5]))) is None


def test_a_new_server_catches_up_as_a_learner_and_is_then_promoted() -> None:
    """Dissertation §4.2.1."""
    cluster = Cluster(strangers=[4])
    cluster.elect(1)
    for number in range(12):
        cluster.propose(1, b"%d" % number)
    cluster[1].take_snapshot()
    cluster.propose_change(1, group([1, 2, 3], [4]))
    cluster.tick(5)
    assert cluster.data_applied(4) == cluster.data_applied(1)
    assert cluster[4].raft.membership == group([1, 2, 3], [4])
    cluster.propose_change(1, group([1, 2, 3, 4]))
    cluster.tick(2)
    assert cluster[4].raft.membership == group([1, 2, 3, 4])
    cluster.check_liveness()


def test_a_learner_neither_campaigns_nor_counts() -> None:
    """Dissertation §4.2.1."""
    cluster = Cluster([1, 2], [3, 4])
    cluster.elect(1)
    cluster.partition([1, 3, 4], [2])
    index = cluster.propose(1, b"a")
    assert cluster[3].raft.last_index == index, "it receives"
    assert cluster[1].raft.commit < index
    learner = Solo((1,), voters=[1, 2], learners=[3], id=3)
    assert only(VoteRequest, learner.tick(6 * ELECTION_TICKS)) == []


def test_a_candidate_asks_voters_only() -> None:
    node = Solo(voters=[1, 2], learners=[3])
    assert {request.target for request in only(VoteRequest, node.time_out())} == {2}


def test_a_leader_feeds_a_new_member_from_the_moment_of_the_proposal() -> None:
    """Dissertation §4.1: in force when appended."""
    node = Solo(voters=[1])
    node.lead()
    node.raft.propose_change(group([1, 2]), 0)
    assert {request.target for request in only(AppendRequest, node.ready())} == {2}
    node.persist()
    assert node.raft.commit == 1, "two voters now, and one disk"
    node.acknowledge(2, 2)
    assert node.raft.commit == 2


def test_a_leader_that_is_removed_commits_that_and_steps_down() -> None:
    """Dissertation §4.2.2."""
    cluster = Cluster()
    cluster.elect(1)
    index = cluster.propose_change(1, group([2, 3]))
    assert cluster[1].raft.role is Role.FOLLOWER
    assert cluster[1].raft.commit >= index
    cluster.tick_until(lambda: cluster[2].raft.is_leader or cluster[3].raft.is_leader, 10 * ELECTION_TICKS)
    assert cluster[2].raft.commit >= index


def test_a_leader_without_a_vote_does_not_count_itself() -> None:
    """Dissertation §4.2.2."""
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.partition([1, 2], [3])
    index = cluster.propose_change(1, group([2, 3]))
    assert cluster[1].raft.is_leader
    assert cluster[1].raft.commit < index


def test_removing_a_slow_voter_commits_what_waited_for_it() -> None:
    cluster = Cluster([1, 2])
    cluster.elect(1)
    cluster.crash(2)
    cluster.propose(1, b"a")
    assert cluster.data_applied(1) == []
    cluster.propose_change(1, group([1]))
    assert cluster.data_applied(1) == [b"a"]


def test_what_waited_for_a_voter_is_committed_when_its_removal_is_proposed() -> None:
    """Dissertation §4.1: in force when appended. The next entry need not come first."""
    node = Solo(voters=[1, 2])
    node.lead()
    node.acknowledge(2, 1)
    node.raft.propose(EntryKind.COMMANDS, 0, b"a")
    node.run()
    assert node.raft.commit == 1
    node.raft.propose_change(group([1]), 0)
    assert node.raft.commit == 2, "it is on the disk of the only voter"


def test_a_member_that_gets_a_snapshot_goes_by_the_members_that_it_names() -> None:
    """They may be nowhere in its log (§7)."""
    cluster = Cluster(strangers=[4])
    cluster.elect(1)
    cluster.isolate(4)
    cluster.propose_change(1, group([1, 2, 3], [4]))
    for number in range(12):
        cluster.propose(1, b"%d" % number)
    cluster[1].take_snapshot()
    cluster.heal()
    cluster.tick(5)
    assert cluster[4].disk.snapshot.index >= 12
    assert cluster[4].raft.membership == group([1, 2, 3], [4])


def test_the_only_node_that_has_a_change_may_lead_though_it_loses_its_vote() -> None:
    """Dissertation §4.2.2: nobody else could win, and it alone can finish the change."""
    cluster = Cluster([1, 4])
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose_change(1, group([4], [1]))
    cluster.tick(3 * ELECTION_TICKS)
    cluster.check_liveness()
    assert cluster[4].raft.membership == group([4], [1])


def test_a_membership_survives_a_restart_before_and_after_a_snapshot() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.propose_change(1, group([1, 2, 3], [4]))
    cluster.restart(2)
    assert cluster[2].raft.membership == group([1, 2, 3], [4])
    cluster.tick(3)
    cluster[2].take_snapshot()
    cluster.restart(2)
    assert cluster[2].raft.membership == group([1, 2, 3], [4])
    assert cluster[2].disk.snapshot.membership == group([1, 2, 3], [4])


def test_the_membership_at_an_index_is_the_one_in_force_there() -> None:
    cluster = Cluster()
    cluster.elect(1)
    index = cluster.propose_change(1, group([1, 2, 3], [4]))
    raft = cluster[1].raft
    assert raft.membership_at(index - 1) == group([1, 2, 3])  # type: ignore[arg-type]
    assert raft.membership_at(index) == group([1, 2, 3], [4])


def test_a_snapshots_membership_replaces_those_before_it() -> None:
    """A log that reaches back before its snapshot may hold older ones."""
    restored = blank(
        group([1, 2]),
        snapshot=SnapshotMeta(Index(2), Term(1), 0, group([1, 2])),
        last_index=Index(2),
        runs=(TermRun(Index(1), Term(1)),),
        memberships=((Index(1), encode(group([9]))), (Index(7), encode(group([8])))),
    )
    assert Raft(config(1), restored, random.Random(1)).membership == group([1, 2])


def test_forgetting_keeps_what_was_in_force_at_the_snapshot() -> None:
    history = Memberships(Index(0), group([1]))
    history.append(Index(5), group([1, 2]))
    history.forget_before(Index(4))
    assert (history.at(Index(4)), history.at(Index(5))) == (group([1]), group([1, 2]))
    history.forget_before(Index(5))
    assert history.at(Index(5)) == history.current == group([1, 2])
