"""No command or query costs more than its bytes and the units of work that the machine counts for it."""

from __future__ import annotations

import pytest

from tests.fuzz.costs import climb


@pytest.mark.parametrize("seed", range(3))
def test_a_climb_finds_nothing_that_costs_more_than_it_says(seed: int) -> None:
    worst = climb(seed, 150)
    assert worst.share <= 1, worst
