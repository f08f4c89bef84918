"""A state that another replaced is freed in slices, and the loop has its turn between two of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster
from tests.support.wire import wait_until

from disheap.kernel.types import NodeId
from disheap.protocol import broker
from disheap.runtime.state import discarding
from disheap.runtime.state.discarding import Discarder


class Loop:
    """Timers fire when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        self.timers.append(callback)
        return self

    def cancel(self) -> None:
        self.timers.clear()


class State:
    def __init__(self, name: str, slices: int, freed: list[str]) -> None:
        self.name, self.slices, self.freed = name, slices, freed

    def discarding(self) -> Iterator[None]:
        for _ in range(self.slices):
            self.freed.append(self.name)
            yield

    def memory_bytes(self) -> int:
        return 10

    def machine_bytes(self) -> int | None:
        return 100 * (self.slices - self.freed.count(self.name)) if self.slices else None


def test_each_timer_frees_one_slice_and_one_state_goes_before_the_next() -> None:
    loop, freed = Loop(), list[str]()
    discarder = Discarder(loop, lambda: None)  # type: ignore[arg-type]
    for name, slices in (("a", 2), ("b", 0), ("c", 1)):
        discarder.discard(State(name, slices, freed))  # type: ignore[arg-type]
    turns: list[str] = []
    while loop.timers:
        assert len(loop.timers) == 1 and discarder.is_busy
        loop.timers.pop()()
        turns.append("".join(freed))
    assert turns == ["a", "aa", "aa", "aa", "aac", "aac"]
    assert not discarder.is_busy


def test_what_is_not_freed_yet_counts_as_used_and_each_slice_is_told_of() -> None:
    loop, freed, told = Loop(), list[str](), list[int]()
    discarder = Discarder(loop, lambda: told.append(discarder.memory_bytes()))  # type: ignore[arg-type]
    for name, slices in (("a", 2), ("b", 0)):
        discarder.discard(State(name, slices, freed))  # type: ignore[arg-type]
    assert discarder.memory_bytes() == 220
    while loop.timers:
        loop.timers.pop()()
    assert told == [120, 20, 10, 0]


def test_nothing_is_freed_any_more_when_the_node_has_stopped() -> None:
    loop, freed = Loop(), list[str]()
    discarder = Discarder(loop, lambda: None)  # type: ignore[arg-type]
    discarder.discard(State("a", 5, freed))  # type: ignore[arg-type]
    loop.timers.pop()()
    discarder.end()
    assert freed == ["a"]
    assert not loop.timers and not discarder.is_busy


async def test_the_state_that_a_leaders_snapshot_replaced_is_freed_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discarding, "PAUSE_S", 0.0)
    raft = msgspec.structs.replace(FAST, election_timeout_ms=1000, trailing_entries=0, trailing_bytes=0)
    async with Cluster(tmp_path, raft=raft, machine="heap") as cluster:
        leader = await cluster.wait_leader()
        follower = cluster.followers()[0]
        link = leader._peering._outgoing[NodeId(follower.group.raft.id)]
        client = await cluster.client()
        await client.call(broker.encode(broker.CreateTopic("jobs")))
        batch = broker.encode(broker.EnqueueMany("jobs", [broker.NewMessage(b"x")] * 5000))
        await client.call(batch)
        await cluster.wait_equal()
        before = weakref.ref(follower.group.sessions)
        slices: list[None] = []
        steps = follower.group.sessions.discarding

        def counted() -> Iterator[None]:
            for step in steps():
                slices.append(step)
                yield step

        monkeypatch.setattr(follower.group.sessions, "discarding", counted)
        link.send = lambda group, message: None  # type: ignore[method-assign]
        missing = follower.group.applied.index + 1
        await client.call(batch)
        leader.group.snapshotter.take()
        await wait_until(lambda: leader.group.raft.first_index > missing, "the log behind the snapshot is gone")
        del link.send  # type: ignore[method-assign]
        leader.messages.unreachable(NodeId(follower.group.raft.id))
        await wait_until(lambda: follower.group.sessions is not before(), "the follower has the snapshot")
        await wait_until(lambda: not follower.maintenance.discarder.is_busy, "the state before is freed")
        assert len(slices) > 5
        await cluster.wait_equal()
