"""Three nodes on damaged disks: what one node has, another gets; what nobody can be sure of is waited for
(storage-rules 4).

Whole nodes over the real file storage; and the rules alone, over every combination of damage in a small cluster.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import msgspec
import pytest
from tests.runtime.test_membership import growing
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from disheap.interfaces import Damage, Holding
from disheap.kernel.types import HardState, Index, NodeId, Term, TermRun
from disheap.protocol.repair import Standing
from disheap.runtime.repair import plan
from disheap.runtime.replica.lifecycle import State

# --- the rules -----------------------------------------------------------------------------------------------------

LAST = 3
WHOLE = frozenset(range(1, LAST + 1))
STATES = [
    (last, frozenset(damaged), is_torn)
    for last in range(LAST + 1)
    for size in range(last + 1)
    for damaged in itertools.combinations(range(1, last + 1), size)
    for is_torn in (False, True)
]
"""(end of the log, damaged entries, whether more may be lost behind it), of one node."""


class Disk:
    """One node's log of one term, and what has become of it."""

    def __init__(self, state: tuple[int, frozenset[int], bool]) -> None:
        self.last, damaged, self.is_torn = state
        self.damaged = set(damaged)
        self.ever = self.last + 1 if self.is_torn and self.last < LAST else self.last  # what it may have acknowledged

    def holding(self) -> Holding:
        places = tuple(Damage(Index(i), Index(i), Term(1), "log", i) for i in sorted(self.damaged))
        runs = (TermRun(Index(1), Term(1)),) if self.last else ()
        state = HardState(Term(1), NodeId(0))
        return Holding(state, Index(0), Term(0), Index(1), Index(self.last), runs, places, self.is_torn, None)

    def standing(self) -> Standing:
        own = self.holding()
        return Standing(
            0, 1, False, 0, 0, 0, 0, 1, self.last,
            tuple((int(run.first), int(run.term)) for run in own.runs),
            tuple((i, i) for i in sorted(self.damaged)), self.is_torn,
        )  # fmt: skip


def settle(disks: list[Disk]) -> list[plan.Step]:
    """All nodes go on until none can. Returns where each stands."""
    steps: list[plan.Step] = [plan.Done()] * len(disks)
    for _ in range(40):
        changed = False
        for number, disk in enumerate(disks):
            others = [NodeId(n) for n in range(len(disks)) if n != number]
            step = steps[number] = plan.decide(disk.holding(), others, {n: disks[n].standing() for n in others})
            match step:
                case plan.Take(source, first, last):
                    assert all(
                        i <= disks[source].last and i not in disks[source].damaged for i in range(first, last + 1)
                    )
                    disk.damaged -= set(range(first, last + 1))
                case plan.Cut(first):
                    disk.last, disk.damaged = first - 1, {i for i in disk.damaged if i < first}
                case plan.Adopt(source, first, last):
                    assert all(
                        i <= disks[source].last and i not in disks[source].damaged for i in range(first, last + 1)
                    )
                    disk.last = last
                case plan.Settled():
                    disk.is_torn = False
            changed = changed or not isinstance(step, plan.Done | plan.Wait)
        if not changed:
            return steps
    raise AssertionError("they go round in a circle")


@pytest.mark.proof
def test_no_combination_of_damage_drops_what_was_acknowledged() -> None:
    seen = {"recovered": 0, "waits": 0, "dropped": 0}
    for states in itertools.product(STATES, repeat=3):
        disks = [Disk(state) for state in states]
        ever = sorted((disk.ever for disk in disks), reverse=True)
        committed = ever[1]  # at most: a majority may have acknowledged it
        good = {i for i in WHOLE if any(i <= disk.last and i not in disk.damaged for disk in disks)}
        steps = settle(disks)
        for state, disk, step in zip(states, disks, steps, strict=True):
            assert disk.last >= min(state[0], committed), f"{states}: an acknowledged entry is dropped"
            assert not disk.damaged & good, f"{states}: a good copy was there, and was not taken"
            if isinstance(step, plan.Wait):
                assert step.missing, "it says for what it waits"
                assert step.on, "and for whom"
                seen["waits"] += 1
            else:
                assert not disk.damaged
                assert not disk.is_torn
                seen["recovered" if disk.last >= state[0] else "dropped"] += 1
        held = [disk for disk, step in zip(disks, steps, strict=True) if isinstance(step, plan.Done)]
        if len(held) >= 2 and set(range(1, committed + 1)) <= good:
            assert max(disk.last for disk in held) >= committed, f"{states}: a majority goes on without it"
    assert min(seen.values()) > 1000, seen


def holding(last: int, term: int, damaged: list[int], ambiguous: bool = False) -> Holding:
    places = tuple(Damage(Index(i), Index(i), Term(term), "log", 0) for i in damaged)
    runs = (TermRun(Index(1), Term(term)),)
    return Holding(
        HardState(Term(term), NodeId(0)), Index(0), Term(0), Index(1), Index(last), runs, places, ambiguous, None
    )


def standing(
    term: int, last: int, runs: tuple[tuple[int, int], ...], commit: int = 0, commit_term: int = 0
) -> Standing:
    return Standing(0, term, False, commit, commit_term, 0, 0, 1, last, runs, (), False)


OTHERS = [NodeId(n) for n in (2, 3, 4, 5)]


def test_a_majority_is_not_enough_while_the_old_leader_may_count_us() -> None:
    """Nodes 3 to 5 never had entry 4. Node 2 has it, leads in term 1, and cannot be asked."""
    answers = {node: standing(1, 3, ((1, 1),)) for node in OTHERS[1:]}
    step = plan.decide(holding(4, 1, [4]), OTHERS, answers)
    assert isinstance(step, plan.Wait)
    assert step.on == (NodeId(2),)


def test_a_majority_of_a_later_term_without_the_entry_is_enough() -> None:
    answers = {node: standing(2, 3, ((1, 1),)) for node in OTHERS[1:]}
    assert plan.decide(holding(4, 1, [4]), OTHERS, answers) == plan.Cut(Index(4))


def test_one_node_that_knows_another_entry_to_be_committed_there_is_enough() -> None:
    answers = {NodeId(5): standing(2, 6, ((1, 1), (4, 2)), commit=5, commit_term=2)}
    assert plan.decide(holding(4, 1, [4]), OTHERS, answers) == plan.Cut(Index(4))


def test_an_ambiguous_end_is_left_to_a_leader_that_there_is() -> None:
    led = msgspec.structs.replace(standing(1, 3, ((1, 1),)), has_leader=True)
    assert plan.decide(holding(3, 1, [], ambiguous=True), OTHERS, {NodeId(2): led}) == plan.Follow()


def test_an_ambiguous_end_is_settled_by_every_other_voter() -> None:
    """Node 3 may hold what we acknowledged last, or be in the same ambiguity."""
    alike = standing(1, 3, ((1, 1),))
    ambiguous = msgspec.structs.replace(alike, ambiguous=True)
    voters = [NodeId(2), NodeId(3)]
    for answers in ({NodeId(2): alike}, {NodeId(2): alike, NodeId(3): ambiguous}):
        step = plan.decide(holding(3, 1, [], ambiguous=True), voters, answers)
        assert isinstance(step, plan.Wait)
        assert step.on == (NodeId(3),)
    step = plan.decide(holding(3, 1, [], ambiguous=True), voters, {NodeId(2): alike, NodeId(3): alike})
    assert step == plan.Settled()


def test_with_an_ambiguous_end_a_node_denies_only_what_is_superseded() -> None:
    """Node 3 acknowledged entry 4 of term 2, and lost the write, which had superseded what it shows there now. With its
    denial the entry, which nodes 1 and 2 have, would go; node 2 cannot be asked."""
    shows = msgspec.structs.replace(standing(3, 6, ((1, 1),)), ambiguous=True)
    answers = {NodeId(3): shows, NodeId(4): standing(3, 3, ((1, 1),)), NodeId(5): standing(3, 3, ((1, 1),))}
    step = plan.decide(holding(4, 2, [4]), OTHERS, answers)
    assert isinstance(step, plan.Wait)
    assert NodeId(3) in step.on
    answers[NodeId(3)] = msgspec.structs.replace(shows, commit=4, commit_term=1)
    assert plan.decide(holding(4, 2, [4]), OTHERS, answers) == plan.Cut(Index(4))


def test_what_was_taken_already_is_not_damaged_any_more() -> None:
    places = (
        Damage(Index(2), Index(5), Term(1), "log-1", 100),
        Damage(Index(6), Index(6), Term(1), "log-1", 300),
        Damage(Index(7), Index(7), Term(1), "log-1", 400),
    )
    own = holding(9, 1, [])._replace(damaged=places)
    left = plan.without(own, {3, 6})
    assert [(place.first, place.last, place.offset) for place in left.damaged] == [
        (2, 2, 100),
        (4, 5, 100),
        (7, 7, 400),
    ]
    assert plan.without(own, set()) == own


# --- whole nodes -----------------------------------------------------------------------------------------------------


async def written(cluster: Cluster, count: int = 5) -> bytes:
    """Each entry is in a block of its own on each node. A follower that lags puts several into one."""
    leader = await cluster.wait_leader()
    for number in range(count):
        await leader.apply(b"+%d" % (number + 1))
        await cluster.wait_equal()
    return await cluster.wait_equal()


def log_of(cluster: Cluster, name: str) -> Path:
    """The file with the most in it."""
    return largest_log(Path(cluster.configs[name].data_dir))


def largest_log(data_dir: Path) -> Path:
    """The file with the most in it."""
    return max(sorted((data_dir / "groups" / "0").glob("log-*")), key=lambda path: path.stat().st_size)


def spoil(path: Path, number: int = -2) -> None:
    """A bit of the payload of one block."""
    data = bytearray(path.read_bytes())
    block = [match.start() for match in re.finditer(b"DHB1", data)][number]
    data[block + 70] ^= 1
    path.write_bytes(data)


async def test_a_damaged_block_is_repaired_from_the_other_nodes(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        expected = await written(cluster)
        victim = cluster.followers()[0].name
        await cluster.stop(victim)
        spoil(log_of(cluster, victim))
        await cluster.start(victim)
        await wait_until(lambda: cluster.nodes[victim].group.is_running, "the node is repaired")
        assert await cluster.wait_equal() == expected


async def test_a_node_whose_log_was_repaired_knows_its_snapshots_members(tmp_path: Path) -> None:
    """Seed 1796031317: they had changed since the cluster began, and it told its clients of the first ones alone."""
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        victim = next(node for name, node in cluster.nodes.items() if name != leader.name)
        await leader.admin({"op": "snapshot"})
        await wait_until(lambda: victim.group.counters.raft_snapshots_total == 1, "it has a snapshot")
        for _ in range(5):
            await leader.apply(b"+1")
            await wait_until(lambda: victim.group.applied.index >= leader.group.applied.index, "it has everything")
        await cluster.stop(victim.name)
        spoil(largest_log(tmp_path / victim.name))
        again = await cluster.start(victim.name)
        assert again.lifecycle.state is State.REPAIRING
        await wait_until(lambda: again.group.is_running, "the node is repaired")
        await wait_until(lambda: again.book.ids() == [1, 2, 3], "it knows the members")
        assert sorted(again.book.clients()) == ["n1:8400", "n2:8400", "n3:8400"]


async def test_two_damaged_blocks_of_one_file_are_repaired(tmp_path: Path) -> None:
    """The file is written anew when both are there; the first was asked for again and again (found by the
    simulator)."""
    async with Cluster(tmp_path, storage="file") as cluster:
        expected = await written(cluster)
        victim = cluster.followers()[0].name
        await cluster.stop(victim)
        for number in (-2, -4):
            spoil(log_of(cluster, victim), number)
        await cluster.start(victim)
        await wait_until(lambda: cluster.nodes[victim].group.is_running, "the node is repaired")
        assert await cluster.wait_equal() == expected


async def test_every_node_may_have_lost_another_entry(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await written(cluster)
        names = list(cluster.nodes)
        for name in names:
            await cluster.stop(name)
        for number, name in enumerate(names):
            spoil(log_of(cluster, name), -1 - number)
        for name in names:
            node = await cluster.start(name)
            assert (await node.status())["role"] == "repairing"
        await (await cluster.wait_leader()).apply(b"+0")
        await cluster.wait_equal()
        assert {node.group.sessions.machine.query(0, 0, b"total") for node in cluster.nodes.values()} == {b"15"}


async def test_a_leader_that_has_to_repair_its_log_sends_its_clients_away(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await written(cluster)
        leader = await cluster.wait_leader()
        leader.repair("the test says so")
        assert (leader.lifecycle.state, leader.lifecycle.reason) == (State.REPAIRING, "the test says so")
        assert not (leader.group.leads or leader.clients.leads)
        assert (await leader.status())["role"] == "repairing"
        await wait_until(lambda: leader.group.is_running, "the log is read anew")
        await cluster.wait_equal()


async def test_an_ambiguous_end_is_sure_again_though_nobody_writes(tmp_path: Path) -> None:
    """Else one more node that is lost would be an outage: a node with an ambiguous end has no vote."""
    async with Cluster(tmp_path, storage="file") as cluster:
        await written(cluster)
        leader = await cluster.wait_leader()
        name = next(name for name in cluster.nodes if name != leader.name)
        await cluster.stop(name)
        path = log_of(cluster, name)
        data = bytearray(path.read_bytes())
        end = len(data.rstrip(b"\0"))
        data[end + 64 : end + 16_384] = b"\xff" * 16_320
        path.write_bytes(data)
        await cluster.start(name)
        node = cluster.nodes[name]
        await wait_until(lambda: node.group.is_running, "it follows")
        assert node.group.raft.ambiguous_after == node.group.raft.last_index
        await wait_until(lambda: not node.group.raft.is_ambiguous, "it is sure of its log")
        await cluster.wait_equal()


async def test_what_two_nodes_lost_waits_for_the_third_and_is_said(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await written(cluster)
        names = list(cluster.nodes)
        for name in names:
            await cluster.stop(name)
        for name in names[:2]:
            spoil(log_of(cluster, name))
            await cluster.start(name)
        node = cluster.nodes[names[0]]

        await wait_until(lambda: bool(node.maintenance.repair_status().get("missing")), "it says what it waits for")
        status = await node.status()
        assert "entry 6" in status["repair"]["missing"]
        assert names[2] in status["repair"]["waiting_for"]
        await cluster.start(names[2])
        await cluster.wait_leader()
        await cluster.wait_equal()


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_damaged_snapshot_is_fetched_from_the_others(tmp_path: Path, compacted: bool) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await written(cluster)
        for node in cluster.nodes.values():
            node.group.snapshotter.take()
        await wait_until(lambda: all(n.group.raft.snapshot_index > 0 for n in cluster.nodes.values()), "snapshots")
        victim = cluster.followers()[0].name
        await cluster.stop(victim)
        directory = Path(cluster.configs[victim].data_dir) / "groups" / "0"
        (path,) = directory.glob("snapshot-*")
        data = bytearray(path.read_bytes())
        data[-80] ^= 1
        path.write_bytes(data)
        if compacted:
            spoil(log_of(cluster, victim))
        await cluster.start(victim)
        await wait_until(lambda: cluster.nodes[victim].group.is_running, "the node is repaired")
        await cluster.wait_equal()
