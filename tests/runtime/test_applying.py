"""Applying in slices: no entry, and no batch of entries, stops the loop for long."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.support.wire import wait_until

from disheap.config.node_config import NodeConfig
from disheap.kernel.types import Entry, EntryKind, Index, Term
from disheap.runtime.member import Member
from disheap.runtime.replica.applying import LOOK_S, SLICE_S, Applier


class StepClock:
    """Each look at the clock takes `step_s`."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def time_ms(self) -> int:
        return 0


def entries(count: int) -> tuple[Entry, ...]:
    return tuple(Entry(Term(1), Index(number), EntryKind.COMMANDS, 0, b"") for number in range(1, count + 1))


class Steps:
    """Every entry has so many steps; `done` collects (index, step)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done: list[tuple[int, int]] = []

    def begin(self, entry: Entry) -> Iterator[None]:
        for step in range(self.count):
            self.done.append((entry.index, step))
            yield


def test_work_is_told_of_once_in_a_while() -> None:
    """Also if no slice is as long as that."""
    told: list[float] = []
    clock = StepClock(LOOK_S / 8)
    steps = Steps(2)
    applier = Applier(clock, steps.begin, lambda: told.append(clock.now_s))
    for _ in range(20):
        applier.add(entries(1))
        applier.run()
    assert len(told) > 5
    assert all(LOOK_S <= after - before <= 2 * LOOK_S for before, after in pairwise(told))


def test_time_between_two_commands_is_no_work() -> None:
    """A look takes as long as a small command. A node with one client would look at each of its commands."""
    told: list[float] = []
    clock = StepClock(LOOK_S / 100)
    applier = Applier(clock, Steps(2).begin, lambda: told.append(clock.now_s))
    for _ in range(20):
        clock.now_s += LOOK_S
        applier.add(entries(1))
        applier.run()
    assert told == []


def test_a_slice_ends_in_the_midst_of_an_entry_when_its_time_is_over() -> None:
    steps = Steps(10)
    applier = Applier(StepClock(SLICE_S / 4), steps.begin, lambda: None)
    applier.add(entries(2))
    finished: list[int] = []
    slices = 0
    while applier.is_busy:
        before = len(steps.done)
        finished += [entry.index for entry in applier.run()]
        assert len(steps.done) - before <= 5
        slices += 1
    assert finished == [1, 2]
    assert steps.done == [(index, step) for index in (1, 2) for step in range(10)]
    assert slices >= 4


def test_a_slice_ends_between_two_entries_without_steps() -> None:
    applier = Applier(StepClock(SLICE_S), Steps(0).begin, lambda: None)
    applier.add(entries(3))
    assert [[entry.index for entry in applier.run()] for _ in range(3)] == [[1], [2], [3]]


def test_who_needs_a_whole_state_waits_for_the_end_of_the_entry() -> None:
    applier = Applier(StepClock(SLICE_S), Steps(2).begin, lambda: None)
    calls: list[str] = []
    applier.when_whole(lambda: calls.append("idle"))
    applier.add(entries(1))
    applier.run()
    assert applier.is_midway
    applier.when_whole(lambda: calls.append("midway"))
    assert calls == ["idle"]
    while applier.is_busy:
        applier.run()
    applier.call_waiting()
    assert calls == ["idle", "midway"]


def test_a_slice_ends_with_the_entry_whose_end_somebody_waits_for() -> None:
    """However much time is left: the state belongs to this index, and not to the next."""
    applier = Applier(StepClock(0.0), Steps(2).begin, lambda: None)
    begin = applier._begin

    def begin_and_wait(entry: Entry) -> Iterator[None]:
        if entry.index == 2:
            applier.when_whole(lambda: None)
        yield from begin(entry)

    applier._begin = begin_and_wait
    applier.add(entries(4))
    assert [entry.index for entry in applier.run()] == [1, 2]
    applier.call_waiting()
    assert [entry.index for entry in applier.run()] == [3, 4]


async def test_a_mark_in_the_log_has_the_state_of_its_own_index_stored(tmp_path: Path) -> None:
    """On every node the same, whatever else is in the batch."""
    config = NodeConfig(name="n1", alone=True, data_dir=str(tmp_path), client_listen="127.0.0.1:0", log_level="error")
    async with Member(config) as node:
        group = node.replicas[0].group
        await wait_until(lambda: group.raft.is_leader and group.raft.applied == group.raft.last_index, "it leads")
        group.proposals.mark_snapshot()
        marked = group.raft.last_index
        for _ in range(3):
            group.raft.propose(EntryKind.NOOP, group.now_ms(), b"")
        await wait_until(lambda: group.raft.snapshot_index > 0, "a snapshot is there")
        assert group.raft.snapshot_index == marked


def test_a_state_that_was_replaced_is_applied_no_further() -> None:
    steps = Steps(4)
    applier = Applier(StepClock(SLICE_S), steps.begin, lambda: None)
    applier.add(entries(2))
    applier.run()
    applier.drop()
    assert not applier.is_busy and not applier.is_midway
    assert applier.run() == []
    assert steps.done == [(1, 0)]
