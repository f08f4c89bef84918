"""The benchmark's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap.cli.bench.figures import Meter, percentile_us

SECOND = 1_000_000_000


def started(seconds: float) -> Meter:
    """At 0, by a clock that is asked once."""
    return Meter(seconds, clock=lambda: 0)


@given(st.lists(st.integers(0, 10**9), min_size=1).map(sorted), st.sampled_from([0.5, 0.99, 0.999]))
def test_a_percentile_is_the_smallest_latency_that_enough_do_not_exceed(ordered: list[int], part: float) -> None:
    found = percentile_us(ordered, part)
    good = [value for value in ordered if sum(other <= value for other in ordered) >= part * len(ordered)]
    assert found == round(good[0] / 1000, 1)


def test_nothing_measured_is_zero_and_not_an_error() -> None:
    assert percentile_us([], 0.5) == 0.0
    meter = started(1.0)
    meter.stop(0)
    assert meter.figures()["operations_per_second"] == 0.0


def test_what_happens_before_the_end_of_the_warm_up_is_not_counted() -> None:
    meter = started(5.0)
    meter.add(777_000)
    assert not meter.due(SECOND // 2)
    meter.add(777_000)
    assert not meter.due(SECOND)  # warm from here on
    for _ in range(10):
        meter.add(1000)
    assert meter.due(6 * SECOND)
    figures = meter.figures()
    assert (figures["operations"], figures["seconds"], figures["operations_per_second"]) == (10, 5.0, 2.0)
    assert (figures["p50_us"], figures["p999_us"]) == (1.0, 1.0)


def test_what_happens_after_the_end_is_not_counted_and_the_first_end_holds() -> None:
    meter = started(5.0)
    meter.due(SECOND)
    meter.add(1000)
    assert meter.due(6 * SECOND)
    meter.add(1000)
    meter.stop(60 * SECOND)
    assert meter.due(61 * SECOND)
    assert (meter.figures()["operations"], meter.figures()["seconds"]) == (1, 5.0)


def test_a_run_that_had_nothing_to_do_ends_all_the_same() -> None:
    meter = started(1.0)
    assert meter.due(2 * SECOND)
    assert meter.figures()["operations"] == 0


@pytest.mark.parametrize("seconds", [0.5, 2.0, 100.0])
def test_the_warm_up_is_a_fifth_of_the_run_and_a_second_at_most(seconds: float) -> None:
    meter = started(seconds)
    assert meter.seconds == seconds + min(seconds / 5, 1.0)


def test_an_early_stop_within_the_warm_up_counts_everything() -> None:
    meter = started(5.0)
    meter.add(1000)
    meter.stop(SECOND // 2)
    assert (meter.figures()["operations"], meter.figures()["operations_per_second"]) == (1, 2.0)
