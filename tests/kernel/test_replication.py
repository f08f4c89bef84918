"""Log replication (Raft §5.3, §5.4; dissertation §10.2.1), flow control, and what is asked of storage."""

from __future__ import annotations

import copy
import random

import pytest

from disheap.errors import InvalidArgument, NotLeader, Overloaded
from disheap.kernel.log import size_of
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    EntryKind,
    Fetch,
    Heartbeat,
    Index,
    NodeId,
    Ready,
    Role,
)

from .harness import ELECTION_TICKS, Cluster, Disk, WriteJob, group, log_of, refused
from .solo import Solo, append, append_refusal, append_reply, heartbeat, heartbeat_reply, only


def leader(*terms: int, **settings: object) -> Solo:
    """A leader of three whose no-op, behind entries of these terms, is acknowledged by all and committed."""
    node = Solo(terms, **settings)  # type: ignore[arg-type]
    node.lead()
    for peer in (2, 3):
        node.acknowledge(peer, node.raft.last_index)
    assert node.raft.commit == node.raft.last_index
    return node


def propose(node: Solo, data: bytes = b"x") -> list[AppendRequest]:
    node.raft.propose(EntryKind.COMMANDS, 5, data)
    return only(AppendRequest, node.ready())


def test_what_is_proposed_is_committed_and_applied_everywhere_in_order() -> None:
    """§5.3."""
    cluster = Cluster()
    cluster.elect(1)
    for number in range(20):
        cluster.propose(1, b"%d" % number)
    cluster.tick(2)
    for node in (1, 2, 3):
        assert cluster.data_applied(node) == [b"%d" % number for number in range(20)]


def test_only_a_leader_takes_proposals() -> None:
    assert refused(lambda: Solo().raft.propose(EntryKind.COMMANDS, 0, b"")) is NotLeader


def test_a_membership_is_not_proposed_as_data() -> None:
    assert refused(lambda: leader().raft.propose(EntryKind.MEMBERSHIP, 0, b"")) is InvalidArgument


def test_the_leaders_appends_do_not_wait_for_its_own_disk() -> None:
    """Dissertation §10.2.1."""
    node = leader()
    requests = propose(node)
    assert {request.target for request in requests} == {2, 3}
    assert node.pending is not None


def test_the_leader_commits_without_its_own_disk_when_a_majority_has_the_entry() -> None:
    """Dissertation §10.2.1: and does not count itself until its write is done."""
    node = Solo(voters=[1, 2, 3])
    node.lead()
    node.acknowledge(2, 1)
    propose(node)
    node.raft.step(append_reply(2, 1, node.raft.term, 2))
    node.ready()
    assert node.raft.commit == 1
    node.raft.step(append_reply(3, 1, node.raft.term, 2))
    node.ready()
    assert node.raft.commit == 2
    assert [entry.index for entry in node.applied] == [1], "applied when it is durable here"
    node.persist()
    assert [entry.index for entry in node.applied] == [1, 2]


@pytest.mark.parametrize(
    "terms",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
)
def test_the_leader_makes_every_log_of_figure_7_like_its_own(terms: tuple[int, ...]) -> None:
    """§5.3, Figure 7."""
    membership = group([1, 2, 3])
    own = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    disks = {
        1: Disk.holding(membership, log_of(*own), (7, 0)),
        2: Disk.holding(membership, log_of(*terms), (7, 0)),
        3: Disk.holding(membership, log_of(*own), (7, 0)),
    }
    cluster = Cluster([1, 2, 3], disks=disks)
    cluster.elect(1)
    cluster.tick(2)
    assert cluster[2].disk.entries == cluster[1].disk.entries
    assert cluster[2].machine == 11


def test_backtracking_takes_a_round_for_each_term_and_not_for_each_entry() -> None:
    """§5.3."""
    membership = group([1, 2])
    disks = {
        1: Disk.holding(membership, log_of(*[1] * 50, 4), (4, 0)),
        2: Disk.holding(membership, log_of(*[1] * 10, *[2] * 40, *[3] * 40), (3, 0)),
    }
    cluster = Cluster([1, 2], disks=disks, log_cache_bytes=1 << 20, append_bytes=1 << 20)
    cluster.elect(1)
    cluster.tick()
    rounds = [m for m in cluster.delivered if isinstance(m, AppendReply) and not m.success]
    assert cluster[2].raft.commit >= 51
    assert 1 <= len(rounds) <= 3


@pytest.mark.parametrize(
    ("previous", "success"), [((3, 2), True), ((2, 2), True), ((3, 1), False), ((4, 2), False), ((0, 0), True)]
)
def test_a_follower_accepts_only_what_continues_its_log(previous: tuple[int, int], success: bool) -> None:
    """§5.3."""
    node = Solo((1, 2, 2))
    (reply,) = only(AppendReply, node.hear(append(2, 2, previous)))
    assert (reply.success, reply.index) == (success, previous[0])


def test_a_refusal_names_where_the_logs_may_agree() -> None:
    """§5.3."""
    node = Solo((1, 1, 3, 3))
    (beyond,) = only(AppendReply, node.hear(append(2, 5, (9, 5))))
    (other,) = only(AppendReply, node.hear(append(2, 5, (4, 2))))
    assert (beyond.hint_index, beyond.hint_term) == (4, 3)
    assert (other.hint_index, other.hint_term) == (2, 1)


def test_a_conflicting_tail_is_replaced() -> None:
    """§5.3."""
    node = Solo((1, 2, 2, 2))
    node.hear(append(3, 3, (1, 1), log_of(3, first=2)))
    assert [entry.term for entry in node.disk.entries] == [1, 3]


def test_entries_gather_while_a_write_is_in_flight_and_are_written_together() -> None:
    """Group commit."""
    node = leader()
    for _ in range(3):
        propose(node)
    assert node.pending is not None
    assert len(node.pending.write.entries) == 1
    node.persist()
    assert node.pending is not None
    assert len(node.pending.write.entries) == 2


def test_proposals_between_two_readies_share_a_message() -> None:
    node = leader(inflight_bytes=1 << 20, append_bytes=1 << 20)
    for _ in range(10):
        node.raft.propose(EntryKind.COMMANDS, 0, b"")
    requests = only(AppendRequest, node.ready())
    assert [len(request.entries) for request in requests] == [10, 10]


def test_the_window_bounds_messages_in_flight() -> None:
    node = leader()
    sent = [request for _ in range(9) for request in propose(node) if request.target == 2]
    assert len(sent) == 3
    node.acknowledge(2, sent[0].entries[-1].index)
    assert [peer.state for peer in node.raft.peers()] == ["replicate", "replicate"]


def test_the_window_bounds_bytes_in_flight() -> None:
    node = leader(inflight_messages=100)
    sent = [request for _ in range(9) for request in propose(node, b"." * 250) if request.target == 2]
    assert len(sent) == 2


def test_one_message_holds_no_more_than_append_bytes_but_always_an_entry() -> None:
    node = leader(append_bytes=200, inflight_bytes=1 << 20)
    assert all(len(request.entries) == 1 for request in propose(node, b"." * 900))


def test_proposals_beyond_the_uncommitted_limit_are_refused_until_some_commit() -> None:
    node = leader(uncommitted_bytes=1000)
    propose(node, b"." * 900)
    assert refused(lambda: propose(node, b"." * 900)) is Overloaded
    node.persist()
    node.acknowledge(2, node.raft.last_index)
    assert refused(lambda: propose(node, b"." * 900)) is None


def test_one_entry_over_the_limit_is_taken_when_nothing_else_waits() -> None:
    node = leader(uncommitted_bytes=100)
    assert refused(lambda: propose(node, b"." * 900)) is None


def test_a_lost_append_is_made_up_for_after_the_next_heartbeat() -> None:
    """§5.3: the leader retries indefinitely."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.drop(lambda message: isinstance(message, AppendRequest) and message.target == 3)
    for number in range(10):
        cluster.propose(1, b"%d" % number)
    cluster.heal()
    cluster.tick(4)
    assert cluster.data_applied(3) == cluster.data_applied(1)


def test_a_follower_that_lags_is_fed_from_storage() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.crash(3)
    for number in range(30):
        cluster.propose(1, b"%d" % number + b"." * 90)
    cluster.restart(3)
    cluster.tick(4)
    assert cluster.data_applied(3) == cluster.data_applied(1)


def test_storage_is_asked_for_what_memory_no_longer_holds() -> None:
    node = Solo((1,) * 9)  # of which three are in memory
    node.lead()
    node.hear(append_refusal(2, 2, 9, (2, 1)))
    node.acknowledge(2, 2)
    (fetch,) = only(Fetch, node.requests)
    assert (fetch.reader, fetch.first, fetch.last) == (2, 3, 6)
    node.raft.fetched(NodeId(2), node.disk.read(3, 6, 1 << 20))
    sent = [request for request in only(AppendRequest, node.run()) if request.entries]
    assert [(request.previous_index, len(request.entries)) for request in sent[:2]] == [(2, 4), (6, 4)]


def test_entries_from_storage_go_out_as_many_as_a_message_holds() -> None:
    """Storage counts data alone: of very small entries it gives more than a frame between nodes can take."""
    node = Solo((1,) * 9, append_bytes=200, log_cache_bytes=1)
    node.lead()
    node.hear(append_refusal(2, 2, 9, (2, 1)))
    node.acknowledge(2, 2)
    (fetch,) = only(Fetch, node.requests)
    node.requests.clear()
    entries = node.disk.read(fetch.first, fetch.last, 1 << 20)
    node.raft.fetched(NodeId(2), entries)
    sent = only(AppendRequest, node.ready())
    assert 0 < len(sent[0].entries) < len(entries)
    assert sum(map(size_of, sent[0].entries)) <= 200
    (again,) = only(Fetch, node.requests)
    assert again.first == sent[0].entries[-1].index + 1


def test_entries_from_storage_that_are_no_longer_wanted_are_dropped() -> None:
    node = Solo((1,) * 9)
    node.lead()
    node.hear(append_refusal(2, 2, 9, (2, 1)))
    node.acknowledge(2, 2)
    node.raft.unreachable(NodeId(2))
    node.ready()
    node.raft.fetched(NodeId(2), node.disk.read(3, 6, 1 << 20))
    assert only(AppendRequest, node.ready()) == []


def test_a_restarted_node_asks_storage_for_what_it_must_apply() -> None:
    """Figure 2: lastApplied starts at the snapshot."""
    node = Solo((1,) * 9)
    node.hear(heartbeat(2, 1, commit=8))
    (fetch,) = only(Fetch, node.requests)
    assert (fetch.reader, fetch.first, fetch.last) == (1, 1, 6)
    while node.requests:
        fetch = node.requests.pop()
        assert isinstance(fetch, Fetch)
        node.raft.fetched(NodeId(1), node.disk.read(fetch.first, fetch.last, fetch.max_bytes))
        node.run()
    assert [entry.index for entry in node.applied] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_batch_to_apply_is_bounded_and_the_next_waits_for_it() -> None:
    node = Solo(log_cache_bytes=1 << 20)
    node.raft.step(append(2, 1, (0, 0), log_of(*[1] * 9), commit=9))
    first = node.raft.ready().write
    assert first is not None
    node.raft.persisted(first.number)
    batch = node.raft.ready().committed
    assert 0 < len(batch) < 9
    node.raft.tick()
    assert node.raft.ready().committed == ()
    node.raft.applied_to(batch[-1].index)
    assert node.raft.ready().committed[0].index == batch[-1].index + 1


def test_an_idle_follower_hears_of_a_commit_with_the_next_tick() -> None:
    cluster = Cluster(heartbeat_ticks=10, election_ticks=30)
    cluster[1].raft.tick()
    cluster.tick_one(1, 60)
    cluster.settle()
    cluster.propose(1, b"a")
    cluster.tick()
    assert cluster.data_applied(3) == [b"a"]


def test_heartbeats_go_out_at_their_interval() -> None:
    """§5.2."""
    node = leader(heartbeat_ticks=3)
    node.tick(1)
    assert [len(only(Heartbeat, node.tick(1))) for _ in range(6)] == [0, 0, 2, 0, 0, 2]


def test_a_leader_that_hears_no_majority_steps_down() -> None:
    """Dissertation §6.2."""
    node = leader()
    node.tick(2 * ELECTION_TICKS)
    assert node.raft.role is not Role.LEADER


def test_a_leader_that_hears_a_majority_stays() -> None:
    """Dissertation §6.2."""
    node = leader()
    for _ in range(6 * ELECTION_TICKS):
        node.tick(1)
        node.hear(heartbeat_reply(2, node.raft.term))
    assert node.raft.is_leader


def test_a_lost_connection_makes_the_leader_ask_again() -> None:
    node = leader()
    propose(node)
    node.raft.unreachable(NodeId(2))
    assert [peer.state for peer in node.raft.peers()] == ["probe", "replicate"]
    (probe,) = only(AppendRequest, node.ready())
    assert (probe.target, probe.previous_index) == (2, 1)
    node.raft.unreachable(NodeId(9))


def test_a_peer_that_lost_its_end_without_its_connection_is_asked_at_once() -> None:
    """It refuses exactly where it agreed before. The refusal could also be late, so nothing is concluded from it.
    The leader asks, and counts the peer less only when that is refused as well."""
    node = leader(1, 1)
    end = node.raft.last_index
    propose(node)
    refusal = append_refusal(2, node.raft.term, end, (end - 1, 1))
    asked = [message for message in only(AppendRequest, node.hear(refusal)) if message.target == 2]
    assert [(message.previous_index, len(message.entries)) for message in asked] == [(end, 1)]
    assert node.raft.peers()[0].match == end
    asked = [message for message in only(AppendRequest, node.hear(refusal)) if message.target == 2]
    assert [(message.previous_index, len(message.entries)) for message in asked] == [(end - 1, 2)]
    assert node.raft.peers()[0].match == end - 1


def test_a_late_refusal_where_the_logs_agree_costs_one_question() -> None:
    node = leader(1, 1)
    end = node.raft.last_index
    node.hear(append_refusal(2, node.raft.term, end, (end - 1, 1)))
    node.acknowledge(2, end)
    peer = node.raft.peers()[0]
    assert (peer.match, peer.state) == (end, "replicate")


def test_a_lost_connection_before_the_first_answer_starts_no_snapshot() -> None:
    """A new leader knows nothing of the peer yet: it asks again where it asked, and not at entry 1."""
    node = Solo((1,) * 9, log_cache_bytes=1 << 20)
    node.lead()
    node.raft.unreachable(NodeId(2))
    node.raft.unreachable(NodeId(2))
    (probe,) = only(AppendRequest, node.ready())
    assert (probe.target, probe.previous_index) == (2, 9)


def test_messages_for_others_are_ignored() -> None:
    node = Solo()
    assert node.hear(heartbeat(2, 5, target=3)) == []
    assert node.raft.term == 0


def test_the_same_inputs_and_seed_give_the_same_run() -> None:
    """What lets the simulator replay a failure."""

    def run() -> list[object]:
        cluster = Cluster([1, 2, 3, 4, 5], seed=7)
        cluster.tick(3 * ELECTION_TICKS)
        if cluster.leader is not None:
            cluster.propose(cluster.leader.id, b"a")
        cluster.tick(3)
        return list(cluster.delivered)

    assert run() == run()
    assert run()


def test_a_cluster_that_lost_everything_but_its_disks_goes_on() -> None:
    """§5.1."""
    cluster = Cluster()
    cluster.elect(1)
    for number in range(8):
        cluster.propose(1, b"%d" % number)
    for node in (1, 2, 3):
        cluster.restart(node)
    cluster.check_liveness()
    assert cluster.data_applied(2)[:8] == [b"%d" % number for number in range(8)]


def test_entries_from_storage_that_are_of_another_history_are_not_sent() -> None:
    """Asked for in an earlier leadership, and overwritten since."""
    node = Solo((1,) * 9)
    node.lead()
    node.hear(append_refusal(2, 2, 9, (2, 1)))
    node.acknowledge(2, 2)
    node.raft.fetched(NodeId(2), log_of(9, 9, first=3))
    assert only(AppendRequest, node.run()) == []
    assert [fetch.first for fetch in only(Fetch, node.requests)] == [3, 3], "asked again"


def test_an_idle_follower_hears_of_a_commit_after_commit_ticks() -> None:
    """Between two heartbeats nothing else would tell it (§5.3)."""
    node = Solo((1,), heartbeat_ticks=8, commit_ticks=3)
    node.lead()
    index = node.raft.last_index
    node.acknowledge(2, index)
    assert node.raft.commit == index
    told = [only(Heartbeat, node.tick(1)) for _ in range(3)]
    assert [len(messages) for messages in told] == [0, 0, 2]
    assert {message.target: message.commit for message in told[2]} == {2: index, 3: 0}


def test_a_second_answer_to_what_is_committed_is_nothing_to_do() -> None:
    """Else each command costs a leader of three one `ready()` more."""
    node = leader()
    propose(node)
    node.persist()
    node.raft.step(append_reply(2, 1, node.raft.term, node.raft.last_index))
    assert node.raft.has_ready()
    node.ready()
    node.raft.step(append_reply(3, 1, node.raft.term, node.raft.last_index))
    assert not node.raft.has_ready()


def test_a_follower_has_nothing_to_do_for_a_write_that_it_has_acknowledged() -> None:
    """Else each command costs a follower one `ready()` more."""
    node = Solo((1,), term=1)
    node.raft.step(append(2, 1, (1, 1), log_of(1, 1)[1:]))
    node.ready()
    assert node.pending is not None
    held, number = node.pending.held, node.pending.write.number
    assert [message.index for message in only(AppendReply, list(held))] == [2]
    node.raft.persisted(number)
    assert not node.raft.has_ready()
    node.raft.step(heartbeat(2, 1, commit=2))
    assert node.raft.has_ready()
    node.ready()
    assert [entry.index for entry in node.applied] == [1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_a_follower_that_has_nothing_ready_would_do_nothing(seed: int) -> None:
    """`has_ready` may be False only where `ready()` would be empty."""
    dice, node = random.Random(seed), Solo((1,), term=1, log_cache_bytes=1 << 20)
    raft, nothing = node.raft, Ready((), None, (), (), (), (), (), ())
    entries, batches, unapplied = log_of(*[1] * 400), 0, Index(0)
    for _ in range(200):
        last = raft.last_index
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                commit = dice.randint(0, last)
                raft.step(append(2, 1, (last, 1), entries[last : last + dice.randrange(3)], commit=commit))
            case 4 | 5 if node.pending is not None:
                raft.persisted(node.pending.write.number)
                node.pending = None
            case 6 if unapplied:
                raft.applied_to(unapplied)
                unapplied = Index(0)
            case 7:
                raft.step(heartbeat(2, 1, commit=dice.randint(0, last)))
            case 8:
                raft.step(append(2, 1, (last + 5, 1), ()))
            case _:
                raft.tick()
        if not raft.has_ready():
            assert copy.deepcopy(raft).ready() == nothing
        elif dice.random() < 0.7:
            ready = raft.ready()
            if ready.write is not None:
                node.pending = WriteJob(ready.write, ready.held)
            if ready.committed:
                batches, unapplied = batches + 1, ready.committed[-1].index
        if raft.role is not Role.FOLLOWER:
            break
    assert batches > 5


@pytest.mark.parametrize("seed", range(30))
def test_a_leader_that_has_nothing_ready_would_do_nothing(seed: int) -> None:
    """`has_ready` may be False only where `ready()` would be empty."""
    dice, node = random.Random(seed), leader(inflight_messages=2)
    raft, nothing = node.raft, Ready((), None, (), (), (), (), (), ())
    for number in range(200):
        if not raft.is_leader:
            break
        peer = dice.choice((2, 3))
        match dice.randrange(10):
            case 0 | 1 | 2:
                if raft.transferee == 0:
                    raft.propose(EntryKind.COMMANDS, 5, b"x" * dice.randrange(100))
            case 3 | 4 if node.pending is not None:
                node.persist()
            case 5 | 6:
                raft.step(append_reply(peer, 1, raft.term, dice.randint(0, raft.last_index)))
            case 7:
                index = dice.randint(0, raft.last_index)
                raft.step(append_refusal(peer, raft.term, index, (index // 2, raft.term_at(index // 2) or 0)))
            case 8:
                raft.step(heartbeat_reply(peer, raft.term, number))
                raft.tick()
            case _:
                chosen = dice.choice((raft.unreachable, raft.read_index, raft.transfer_leadership))
                chosen(number if chosen == raft.read_index else NodeId(peer))  # type: ignore[arg-type]
        if not raft.has_ready():
            assert copy.deepcopy(raft).ready() == nothing
        elif dice.random() < 0.7:
            node.ready()
            assert copy.deepcopy(raft).ready() == nothing
