"""The order between disk, log and snapshots in a group: what is durable before what is said (Raft §5.1, §7)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.nodes import Cluster, TestRegistry
from tests.support.wire import wait_until

from disheap.errors import DiskFailed
from disheap.interfaces import SnapshotWriter
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    Index,
    Message,
    NodeId,
    SnapshotMeta,
    Term,
    VoteRequest,
)
from disheap.plugins.registry import Registry
from disheap.runtime.replica.lifecycle import State
from disheap.testing.inspected import InspectedMember as Node
from disheap_memory.storage import MemoryStorage

PATIENCE_S = 10.0
LEADER = NodeId(2)
TERM = Term(5)


class Witness(MemoryStorage):
    """Writes down what it is asked, in order; an append waits for `gate`."""

    calls: list[tuple[str, Any]]
    gate: threading.Event
    broken: bool

    def save_hard_state(self, state: HardState) -> None:
        super().save_hard_state(state)
        self.calls.append(("hard state", state))

    def append(self, entries: Sequence[Entry]) -> None:
        self.calls.append(("append begins", tuple(entries)))
        assert self.gate.wait(PATIENCE_S)
        if self.broken:
            raise DiskFailed("the disk is gone")
        super().append(entries)

    def clear_ambiguity(self) -> None:
        super().clear_ambiguity()
        self.calls.append(("the ambiguity is over", None))

    def compact(self, first_index: Index) -> Index:
        self.calls.append(("compact", first_index))
        return super().compact(first_index)

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> SnapshotWriter:
        self.calls.append(("snapshot begins", meta))
        writer = super().begin_snapshot(meta, replaces_log)
        commit, calls = writer.commit, self.calls

        def told() -> None:
            commit()
            calls.append(("snapshot is durable", meta))

        writer.commit = told  # type: ignore[method-assign]
        return writer


@pytest.fixture
def registry() -> Registry:
    """One storage for each node that is built, and the class's own marks fresh for each test."""

    class Fresh(Witness):
        calls: list[tuple[str, Any]] = []  # noqa: RUF012
        gate = threading.Event()
        broken = False

    Fresh.gate.set()

    class Replaced(TestRegistry):
        def get(self, kind: str, name: str) -> type[Any]:
            return Fresh if (kind, name) == ("storage", "memory") else super().get(kind, name)

    registry = Replaced.load()
    registry.witness = Fresh  # type: ignore[attr-defined]
    return registry


@pytest.fixture
def witness(registry: Registry) -> type[Witness]:
    return registry.witness  # type: ignore[attr-defined,no-any-return]


class Follower:
    """One node of three, the others played by the test. `sent` holds what it said to them."""

    def __init__(self, directory: Path, registry: Registry) -> None:
        self.cluster = Cluster(directory, nodes=3, registry=registry)
        self.sent: list[Message] = []

    async def __aenter__(self) -> Follower:
        self.node: Node = await self.cluster.start("n1")
        group = self.node.group
        group._send = self.sent.append
        raft = group.raft
        entry = Entry(TERM, Index(raft.last_index + 1), EntryKind.NOOP, 1000, b"")
        before = raft.term_at(raft.last_index)
        assert before is not None
        group.step(AppendRequest(LEADER, raft.id, TERM, raft.last_index, before, (entry,), Index(0)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.stop(hand_over=False)

    @property
    def replies(self) -> list[AppendReply]:
        return [message for message in self.sent if isinstance(message, AppendReply)]


async def test_term_and_vote_are_saved_before_the_entries_of_their_write(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """Raft Figure 2; pitfall 2."""
    async with Follower(tmp_path, registry) as follower:
        group = follower.node.group
        await wait_until(lambda: bool(follower.replies) or not group.is_running, "the entry is acknowledged")
        assert group.is_running
    kinds = [kind for kind, _ in witness.calls]
    assert kinds[: kinds.index("append begins")] == ["hard state"]
    assert witness.calls[0][1].term == TERM


async def test_messages_that_wait_for_a_write_leave_only_when_it_is_durable(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """Pitfall 1: an acknowledgement is a promise of the disk's."""
    witness.gate.clear()
    async with Follower(tmp_path, registry) as follower:
        await wait_until(lambda: "append begins" in [kind for kind, _ in witness.calls], "the write is under way")
        try:
            assert follower.replies == []
        finally:
            witness.gate.set()
        await wait_until(lambda: bool(follower.replies), "the entry is acknowledged")
        assert follower.replies[0].success


async def test_a_follower_whose_disk_fails_acknowledges_nothing_and_is_at_its_end(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    witness.broken = True
    async with Follower(tmp_path, registry) as follower:
        await wait_until(lambda: not follower.node.group.is_running, "the node ends")
        assert isinstance(follower.node.failure, DiskFailed)
        assert follower.replies == []


async def test_an_ambiguity_that_ends_without_a_write_is_over_on_the_disk_too(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """Else it comes back with the next start."""
    async with Follower(tmp_path, registry) as follower:
        group = follower.node.group
        raft = group.raft
        await wait_until(lambda: bool(follower.replies), "the entry is acknowledged")
        group._ambiguous, raft._state.ambiguous_after = True, Index(0)
        group.step(AppendRequest(LEADER, raft.id, TERM, raft.last_index, TERM, (), raft.last_index))
        assert not raft.is_ambiguous
        await wait_until(lambda: ("the ambiguity is over", None) in witness.calls, "storage hears of it")


async def test_a_node_in_repair_neither_votes_nor_accepts(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """Storage rule 4: nothing new is accepted before what is damaged is resolved."""
    async with Follower(tmp_path, registry) as follower:
        group = follower.node.group
        raft = group.raft
        await wait_until(lambda: bool(follower.replies) and not raft.has_ready(), "the entry is acknowledged")
        written = len(witness.calls)
        follower.node.lifecycle.change(State.REPAIRING)
        follower.sent.clear()
        entry = Entry(TERM, Index(raft.last_index + 1), EntryKind.NOOP, 2000, b"")
        group.step(AppendRequest(LEADER, raft.id, TERM, raft.last_index, TERM, (entry,), Index(0)))
        group.step(VoteRequest(NodeId(3), raft.id, Term(TERM + 1), Index(99), TERM, pre=False, transfer=True))
        told: list[bool] = []
        group.read(told.append)
        assert told == [False]
        group.wake()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (raft.term, raft.last_index, raft.has_ready()) == (TERM, entry.index - 1, False)
        assert (follower.sent, len(witness.calls)) == ([], written)


async def test_a_leader_whose_disk_fails_is_at_its_end_and_acknowledges_nothing(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """Pitfall 26: it does not keep its leadership."""
    async with Cluster(tmp_path, nodes=1, registry=registry) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        await client.call(b"+1")
        before, witness.broken = node.group.applied.index, True
        client.send(b"+1")
        group = node.group
        await wait_until(lambda: not group.is_running or group.applied.index > before, "the write ends")
        assert isinstance(node.failure, DiskFailed)
        assert group.applied.index == before


async def test_a_snapshot_is_of_the_state_at_its_index(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """Pitfall 15: the index and the state are one."""
    async with Cluster(tmp_path, nodes=1, registry=registry) as cluster:
        client, group = await cluster.client(), cluster.nodes["n1"].group
        for _ in range(5):
            await client.call(b"+1")
        at = group.applied
        group.snapshotter.take()
        await wait_until(lambda: group.counters.raft_snapshots_total == 1, "the snapshot is durable")
        assert [meta for kind, meta in witness.calls if kind == "snapshot begins"] == [at]


async def test_the_log_is_trimmed_only_behind_a_durable_snapshot(
    tmp_path: Path, registry: Registry, witness: type[Witness]
) -> None:
    """A power cut between the two must not find neither (storage rule 8)."""
    async with Cluster(tmp_path, nodes=1, registry=registry) as cluster:
        client, group = await cluster.client(), cluster.nodes["n1"].group
        await client.call(b"+1")
        group.snapshotter.take()
        await wait_until(lambda: group.counters.raft_snapshots_total == 1, "the snapshot is durable")
    kinds = [kind for kind, _ in witness.calls]
    assert [kind for kind in kinds if kind in ("snapshot is durable", "compact")] == ["snapshot is durable", "compact"]


async def test_a_group_that_is_at_its_end_takes_nothing_in(tmp_path: Path) -> None:
    """Its storage may wait for room for hours before it is opened anew; nobody carries out what its kernel wants."""
    async with Cluster(tmp_path) as cluster:
        leader, node = (await cluster.wait_leader()).group.raft, cluster.followers()[0]
        follower = node.group
        node.lifecycle.change(State.REPAIRING)
        follower.close()
        follower.raft.ready()
        follower.step(Heartbeat(leader.id, follower.raft.id, leader.term, Index(0), 0))
        follower.tick()
        follower.unreachable(leader.id)
        assert not follower.raft.has_ready()
        answers: list[bool] = []
        follower.read(answers.append)
        assert answers == [False]
