"""Replicas compare their states, and one that is wrong takes itself out (storage-rules 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster
from tests.support.wire import wait_until

from disheap.errors import MalformedFrame, RequestError
from disheap.kernel.types import Index, Membership, NodeId, SnapshotMeta, Term
from disheap.protocol import frames, gossip
from disheap.protocol.frames import Kind
from disheap.protocol.gossip import Gossip, GroupReport
from disheap.protocol.repair import AskSnapshot
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.state.state_hashes import MAX_HASHES, NEVER_MS, StateComparison
from disheap.testing.inspected import InspectedMember as Node

OURS, THEIRS, OTHER = b"ours", b"theirs", b"other"


class Host:
    def __init__(self, voters: int) -> None:
        self.number = 0
        self.reasons: list[str] = []
        self._voters = tuple(NodeId(number) for number in range(1, voters + 1))

    def voters(self) -> tuple[NodeId, ...]:
        return self._voters

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def quarantine(self, reason: str) -> None:
        self.reasons.append(reason)


class States:
    """`Sessions`, as far as it is hashed."""

    def __init__(self, *slices: bytes) -> None:
        self.slices = slices

    def hashing(self) -> Iterator[bytes]:
        return iter(self.slices)


def at(index: int, time_ms: int) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(1), time_ms, Membership(()))


def judged(voters: int, heard: dict[int, bytes]) -> tuple[Host, StateComparison]:
    """What node 1 judges, after it hashed entry 7 and heard the others."""
    host = Host(voters)
    comparing = StateComparison(host, NodeId(1), 10, asyncio.get_running_loop())
    comparing._remember(NodeId(1), Index(7), OURS)
    for node, digest in heard.items():
        comparing.heard(NodeId(node), 7, digest)
    return host, comparing


@pytest.mark.parametrize(
    ("voters", "heard", "quarantined"),
    [
        (3, {2: OURS, 3: OURS}, False),
        (3, {2: OURS, 3: THEIRS}, False),
        (3, {2: THEIRS}, False),
        (3, {2: THEIRS, 3: OTHER}, False),
        (3, {2: THEIRS, 3: THEIRS}, True),
        (2, {2: THEIRS}, False),
        (5, {2: THEIRS, 3: THEIRS}, False),
        (5, {2: THEIRS, 3: THEIRS, 4: THEIRS}, True),
        (5, {2: THEIRS, 3: THEIRS, 6: THEIRS}, False),  # 6 is a learner
    ],
)
async def test_a_node_takes_itself_out_where_a_majority_agrees_on_another_state(
    voters: int, heard: dict[int, bytes], quarantined: bool
) -> None:
    host, comparing = judged(voters, heard)
    assert bool(host.reasons) == quarantined
    if quarantined:
        assert "n2, n3" in host.reasons[0] and "entry 7" in host.reasons[0]
    elif set(heard.values()) != {OURS}:
        assert comparing.status()["differs_from"]


async def test_hashes_that_came_before_ours_count() -> None:
    host = Host(3)
    comparing = StateComparison(host, NodeId(1), 10, asyncio.get_running_loop())
    for node in (2, 3):
        comparing.heard(NodeId(node), 7, THEIRS)
    assert not host.reasons
    comparing.moved(9_000)
    assert comparing.due_ms == 10_000
    comparing.begin(at(7, 25_000), States(b"a", b"b"))  # type: ignore[arg-type]
    assert comparing.due_ms == 30_000
    await wait_until(lambda: bool(host.reasons), "the slices are hashed")
    assert comparing.newest[0] == 7


async def test_the_slices_and_not_how_they_are_cut_decide() -> None:
    digests = []
    for slices in ((b"ab", b"c"), (b"a", b"bc"), (b"abd",)):
        comparing = StateComparison(Host(3), NodeId(1), 10, asyncio.get_running_loop())
        comparing.begin(at(7, 1), States(*slices))  # type: ignore[arg-type]
        await wait_until(lambda comparing=comparing: comparing.newest[0] == 7, "hashed")  # type: ignore[misc]
        digests.append(comparing.newest[1])
    assert digests[0] == digests[1] != digests[2]


async def test_a_state_that_cannot_be_hashed_is_not_compared_and_the_next_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("a bug")

    states = States()
    states.hashing = broken  # type: ignore[method-assign]
    comparing = StateComparison(Host(3), NodeId(1), 10, asyncio.get_running_loop())
    comparing.begin(at(7, 1), states)  # type: ignore[arg-type]
    await wait_until(lambda: "cannot be hashed" in caplog.text, "it is said")
    assert comparing.newest[0] == 0
    comparing.begin(at(9, 20_000), States(b"a"))  # type: ignore[arg-type]
    await wait_until(lambda: comparing.newest[0] == 9, "the next is hashed")


async def test_few_hashes_are_kept_and_an_interval_of_nothing_is_never_due() -> None:
    comparing = StateComparison(Host(3), NodeId(1), 0, asyncio.get_running_loop())
    comparing.moved(1 << 50)
    assert comparing.due_ms == NEVER_MS
    for index in range(1, 100):
        comparing.heard(NodeId(2), index, THEIRS)
    assert len(comparing._hashes[NodeId(2)]) == MAX_HASHES


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode([0, True, 1, -1, b""])])
def test_gossip_that_cannot_be_read_is_malformed(content: bytes) -> None:
    with pytest.raises(MalformedFrame, match="gossip"):
        gossip.decode(frames.plain(Kind.GOSSIP, content))
    sent = Gossip((GroupReport(0, True, 5, 7, b"h" * 16),), True, False, 9)
    assert gossip.decode(gossip.encode(sent)) == sent


# --- through nodes ---------------------------------------------------------------------------------------------------

HASTY = msgspec.structs.replace(FAST, compare_interval_s=1)


async def drive(cluster: Cluster, until: Any) -> None:
    """Commands until it is so: log time passes only with entries."""
    async with asyncio.timeout(30):
        while not until():
            leader = next((node for node in cluster.nodes.values() if node.group.leads), None)
            try:
                if leader is not None:
                    await leader.apply(b"+1", timeout_s=1)
            except RequestError:
                pass
            await asyncio.sleep(0.05)


def compared(node: Node) -> int:
    return int(node.maintenance.comparing.status()["compared"])


async def test_sound_replicas_compare_and_stay(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=3, raft=HASTY) as cluster:
        await drive(cluster, lambda: all(compared(node) > 1 for node in cluster.nodes.values()))
        assert not any(node.lifecycle.state is State.QUARANTINED for node in cluster.nodes.values())
        assert all(node.maintenance.comparing.status()["differs_from"] == [] for node in cluster.nodes.values())


@pytest.mark.parametrize("wrong_one_leads", [False, True])
async def test_a_replica_whose_state_rots_serves_nothing_and_the_others_go_on(
    tmp_path: Path, wrong_one_leads: bool
) -> None:
    async with Cluster(tmp_path, nodes=3, raft=HASTY) as cluster:
        leader = await cluster.wait_leader()
        wrong = leader if wrong_one_leads else cluster.followers()[0]
        wrong.group.sessions.machine.total = 1_000_000  # type: ignore[attr-defined]
        await drive(cluster, lambda: wrong.lifecycle.state is State.QUARANTINED)
        status = await wrong.status()
        assert status["role"] == "quarantined" and "a majority" in status["quarantine"]
        others = [node for node in cluster.nodes.values() if node is not wrong]
        await wait_until(lambda: any(node.group.leads for node in others), "one of the others leads")
        seen = max(node.group.applied.index for node in others)
        await drive(cluster, lambda: all(node.group.applied.index > seen + 3 for node in others))
        assert not any(node.lifecycle.state is State.QUARANTINED for node in others)
        assert not (wrong.group.is_running or wrong.group.leads)


async def test_a_quarantined_node_hands_out_no_snapshot(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        node.group.snapshotter.take()
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "a snapshot is taken")

        def index() -> int:
            return node.maintenance.responder._piece(AskSnapshot(0, 0, 0, 1)).index

        assert index() > 0
        node.quarantine("the test says so")
        assert index() == 0
        node.quarantine("and again")
        assert (node.lifecycle.state, node.lifecycle.reason) == (State.QUARANTINED, "the test says so")
