"""The demo's figures: each is wrong when it should be, and right otherwise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap.cli.demo import counting as counting
from disheap.cli.demo.counting import Execution, Figures, Published

PASSING = Figures(
    published=1,
    confirmed=1,
    executed=1,
    executed_twice=0,
    lost=0,
    priority_inversions=0,
    urgent_tasks=0,
    urgent_wait_tasks=0,
    leaderless_seconds=1.0,
    tasks_per_second=1.0,
    disk_bytes=1,
    nodes=3,
    state_hashes_equal=True,
    seconds=1.0,
    delayed_tasks=10,
    delayed_early=0,
    delayed_late_seconds=0.1,
    prefetched_tasks=4,
    overtaking_wait_tasks=1,
    chord_tasks=20,
    chord_right=True,
)


def waiting(*priorities: int) -> list[Published]:
    return [Published(number, priority, 1) for number, priority in enumerate(priorities)]


def ran(*numbers: int) -> list[Execution]:
    """One after the other, 10 ns each, 10 ns apart."""
    return [Execution(number, 0, 100 + 20 * i, 110 + 20 * i) for i, number in enumerate(numbers)]


def test_a_record_line_that_is_not_whole_yet_is_left_out() -> None:
    assert counting.read_record("1 5 10 20\n2 -5 30 40\n3 7 5") == [Execution(1, 5, 10, 20), Execution(2, -5, 30, 40)]
    assert counting.read_record("1 5 10") == []


def test_a_task_that_ran_three_times_is_one_task_that_ran_twice() -> None:
    assert counting.executed_twice(ran(1, 2, 1, 3, 1)) == 1
    assert counting.executed_twice(ran(1, 2, 3)) == 0


def test_a_confirmed_task_that_never_ran_is_lost_and_an_unconfirmed_one_is_not() -> None:
    published = [Published(0, 1, 5), Published(1, 1, 5), Published(2, 1, 0)]
    assert counting.lost(published, ran(0)) == 1
    assert counting.lost(published, ran(0, 1)) == 0


@pytest.mark.parametrize(
    ("priorities", "order", "inversions"),
    [
        ((1, 2, 3), (2, 1, 0), 0),  # the highest first
        ((1, 2, 3), (0, 1, 2), 3),  # all three pairs the wrong way round
        ((5, 5, 5), (0, 1, 2), 0),  # within a priority, as published
        ((5, 5, 5), (1, 0, 2), 1),
        ((-5, 0, 1 << 40), (2, 1, 0), 0),  # signed, and wider than 32 bits
        ((1, 2, 3), (2, 0), 0),  # one is missing: lost, not inverted
        ((1, 2, 3), (2, 1, 2, 0), 0),  # a second run is no start
    ],
)
def test_inversions_are_the_pairs_that_started_in_the_wrong_order(
    priorities: tuple[int, ...], order: tuple[int, ...], inversions: int
) -> None:
    assert counting.priority_inversions(waiting(*priorities), ran(*order)) == inversions


@given(
    st.lists(st.integers(-3, 3), max_size=30).flatmap(lambda p: st.tuples(st.just(p), st.permutations(range(len(p)))))
)
def test_inversions_agree_with_looking_at_every_pair(case: tuple[list[int], list[int]]) -> None:
    priorities, order = case
    place = {number: i for i, number in enumerate(order)}
    wrong = sum(
        place[worse] < place[better]
        for better in order
        for worse in order
        if (-priorities[better], better) < (-priorities[worse], worse)
    )
    assert counting.priority_inversions(waiting(*priorities), ran(*order)) == wrong


def test_urgent_tasks_that_came_later_are_no_inversions() -> None:
    urgent = [Execution(9, 100, 90, 95)]
    assert counting.priority_inversions(waiting(1, 2), urgent + ran(1, 0)) == 0


def test_an_urgent_task_waits_for_the_running_one_and_earlier_ones() -> None:
    published = [*waiting(1, 1, 1, 1), Published(9, 100, 105, urgent=True)]
    # 0 runs from 100 to 110, when 9 is confirmed at 105; 1 starts at 120; 9 at 140; 2 afterwards
    assert counting.urgent_wait_tasks(published, ran(0, 1, 9, 2, 3)) == 2


def test_an_urgent_task_waits_neither_for_ended_nor_for_other_urgent_ones() -> None:
    published = [
        *waiting(1, 1),
        Published(8, 100, 115, urgent=True),
        Published(9, 100, 115, urgent=True),
    ]
    assert counting.urgent_wait_tasks(published, ran(0, 8, 9, 1)) == 0


def test_the_outage_ends_with_the_first_publish_confirmed_after_the_kill() -> None:
    second = 1_000_000_000
    urgent = [Published(1, 9, 5 * second, urgent=True), Published(2, 9, 4 * second, urgent=True)]
    assert counting.leaderless_seconds([Published(0, 1, second), *urgent], 2 * second) == 2.0
    assert counting.leaderless_seconds([Published(0, 1, second)], 2 * second) == math.inf


def test_tasks_per_second_spans_the_first_start_and_the_last_finish() -> None:
    assert counting.tasks_per_second([Execution(0, 0, 0, 10), Execution(1, 0, 999_000_000, 1_000_000_000)]) == 2.0
    assert counting.tasks_per_second([]) == 0.0


@pytest.mark.parametrize(
    ("hashes", "equal"),
    [
        ({"n1": (5, "a"), "n2": (5, "a"), "n3": (5, "a")}, True),
        ({"n1": (5, "a"), "n2": (5, "b"), "n3": (5, "a")}, False),
        ({"n1": (5, "a"), "n2": (4, "b"), "n3": (5, "a")}, None),  # at different indexes: not comparable
        ({"n1": (5, "a"), "n2": (5, "a")}, None),  # one does not answer
    ],
)
def test_hashes_are_compared_at_one_index_on_every_node(hashes: dict[str, tuple[int, str]], equal: bool | None) -> None:
    assert counting.hashes_equal(hashes, 3) is equal


def test_a_task_with_a_countdown_is_early_before_it_is_due_and_late_after() -> None:
    """They start at 100 and 120 ns."""
    published = [Published(0, 1, 5, due_ns=101), Published(1, 1, 5, due_ns=110), Published(2, 1, 5)]
    assert counting.early(published, ran(0, 1, 2)) == 1
    assert counting.early([Published(0, 1, 5, due_ns=100)], ran(0)) == 0
    assert counting.late_seconds(published, ran(0, 1, 2)) == pytest.approx(10e-9)
    assert math.isinf(counting.late_seconds(published, ran(0)))
    assert counting.late_seconds([], ran(0)) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lost", 1),
        ("executed_twice", 1),
        ("priority_inversions", 1),
        ("urgent_wait_tasks", counting.URGENT_WAIT_MAX + 1),
        ("state_hashes_equal", False),
        ("delayed_early", 1),
        ("prefetched_tasks", counting.OVERTAKING_WAIT_MAX),
        ("overtaking_wait_tasks", counting.OVERTAKING_WAIT_MAX + 1),
        ("chord_right", False),
    ],
)
def test_the_demo_fails_when_anything_was_lost_doubled_out_of_order_or_wrong(field: str, value: int) -> None:
    from msgspec.structs import replace

    assert counting.passed(PASSING)
    assert counting.passed(replace(PASSING, urgent_wait_tasks=counting.URGENT_WAIT_MAX))
    assert not counting.passed(replace(PASSING, **{field: value}))
