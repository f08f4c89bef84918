"""Time in the log: never back, never still for long, and not at the mercy of a wall clock (pitfall 25)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disheap.runtime.clocks.log_clock import SLEW, LogClock


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.wall = 1_000_000

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return self.wall

    def pass_ms(self, ms: int, wall_ms: int | None = None) -> None:
        self.seconds += ms / 1000
        self.wall += ms if wall_ms is None else wall_ms


def test_a_term_begins_at_the_wall_clock_or_the_log_whichever_is_later() -> None:
    clock = ManualClock()
    log_clock = LogClock(clock)
    assert log_clock.begin_term(400_000) == 600_000
    assert log_clock.now_ms() == 1_000_000
    assert log_clock.begin_term(5_000_000) == 0
    assert log_clock.now_ms() == 5_000_000


def test_a_wall_clock_that_jumps_ahead_is_followed_by_a_tenth_at_most() -> None:
    clock = ManualClock()
    log_clock = LogClock(clock)
    log_clock.begin_term(0)
    clock.pass_ms(1000, wall_ms=3_600_000)
    assert log_clock.now_ms() == 1_000_000 + 1100


def test_a_wall_clock_that_jumps_back_slows_log_time_and_does_not_stop_it() -> None:
    clock = ManualClock()
    log_clock = LogClock(clock)
    log_clock.begin_term(0)
    clock.pass_ms(1000, wall_ms=-3_600_000)
    assert log_clock.now_ms() == 1_000_000 + 900


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(-100_000, 100_000)), max_size=30))
def test_log_time_keeps_within_a_tenth_of_the_monotonic_clock(steps: list[tuple[int, int]]) -> None:
    clock = ManualClock()
    log_clock = LogClock(clock)
    log_clock.begin_term(0)
    before, passed = log_clock.now_ms(), 0
    start = before
    for elapsed_ms, wall_ms in steps:
        clock.pass_ms(elapsed_ms, wall_ms)
        passed += elapsed_ms
        now = log_clock.now_ms()
        assert now >= before
        assert passed * (1 - SLEW) - 2 <= now - start <= passed * (1 + SLEW) + 2
        before = now
