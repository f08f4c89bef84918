"""No step costs more than its bytes and units allow, or makes too many calls before the loop has its turn."""

from __future__ import annotations

import gc

import pytest

from disheap.protocol import broker
from disheap.protocol.frames import Kind
from tests.fuzz.costs import climb, measure
from tests.fuzz.costs_world import Admin, Attach, Call, Large, Leave, NewTerm, Open, World


@pytest.mark.parametrize("seed", range(3))
def test_a_climb_finds_nothing_that_costs_more_than_it_says(seed: int) -> None:
    worst = climb(seed, 150)
    assert not worst.is_too_much, worst


@pytest.mark.parametrize("seed", range(2))
def test_a_climb_finds_no_step_of_the_loop_that_is_too_long(seed: int) -> None:
    worst = climb(seed, 15, "pause")
    assert not worst.is_too_much, worst


def test_every_kind_of_step_does_what_it_is_named_for() -> None:
    world = World()
    steps = [
        Call(broker.CreateTopic("a")),
        Call(broker.EnqueueMany("a", [broker.NewMessage(b"x")] * 20)),
        Call(broker.Subscribe("a", 10)),
        Open("worker"),
        Leave(Kind.DETACH, 0),
        Attach(0, 1, 5),
        NewTerm(),
        Large("sessions", 3),
        Leave(Kind.EXPIRE, 1),
        *(Admin(op) for op in ("hash", "status", "sessions")),
    ]
    costs = list(world.run(steps))
    assert {type(cost.step) for cost in costs} >= {Call, Open, Leave, Attach, NewTerm, Admin}
    assert len(world.sessions.table) == 5 - 1
    assert len(world.machine._state.leases) == 10
    sent = [cost.size for cost in costs if isinstance(cost.step, Attach)]
    assert max(sent) > 5 * 10, "the leases that were not named are in the reply"


class Garbage:
    """A cycle that only the garbage collector frees, by a call."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        len(())


def test_what_the_garbage_collector_frees_is_not_counted() -> None:
    """A CLOSE seemed to take 670 calls: most of them freed the world before."""

    def call() -> int:
        for _ in range(100):
            Garbage()
        return 0

    def calls() -> int:
        return World()._measured(NewTerm(), call, 0).calls

    before = gc.get_threshold()
    gc.disable()
    expected = calls()
    gc.set_threshold(1, 1, 1)
    gc.enable()
    try:
        assert calls() == expected
    finally:
        gc.set_threshold(*before)


def test_amplification_counts_what_was_put_off() -> None:
    sequence = [Call(broker.CreateTopic("a")), *[Call(broker.EnqueueMany("a", [broker.NewMessage(b"")] * 1000))] * 3]
    without, with_ = (measure([*sequence, *more], "amplification") for more in ([], [Call(broker.Pop("a", 3000))]))
    assert with_.value > 2 * without.value
