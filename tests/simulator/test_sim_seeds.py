"""Runs of the whole product: a few seeds at every test run, and those that once found something."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from disheap.plugins.registry import Registry
from disheap.testing.simulator.run import Plan, simulate

FRESH = range(1, 21)
REGRESSIONS = {
    9: "the check of how long a leader waits for a client mixed up two ends of one session in the same term",
    74: "of the last block of a log nothing was left behind a damaged one, and nothing was said of it",
    154: "a damaged directory told of a term and an ambiguity that were not durable",
    285: "the check of how long a leader waits for a client took the writes of a slow disk for the leader's decisions",
    348: "a check at the end took the loss of a leader for bearable, although one of those left had lost its vote",
    1183: "a short session lapsed while its client was still with a former leader that was cut off",
    2215: "a leader that was cut off ended a session in its log, and was elected again with that log",
    2432: "full replies refused a command for ever, and the client could confirm no later one before it",
    12018: "the check of votes under a live leader took a late heartbeat of an earlier leader for the newest",
}
"""seed -> what it found; docs/explanation/how-it-is-tested.md has the fixes."""
GROUPS = 3
FRESH_OF_GROUPS = range(1, 9)
"""Seeds of runs with three groups."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


@pytest.mark.parametrize("first", FRESH[::10])
def test_nothing_is_found_in_ten_seeds_from(first: int, registry: Registry) -> None:
    """And they took the rarer ways through the machine, too."""
    rare: Counter[str] = Counter()
    for seed in range(first, first + 10):
        result = simulate(Plan(seed), registry)
        assert not result.violation, f"seed {seed}: {result.violation}"
        assert result.entries
        rare.update(result.rare)
    assert all(rare[way] for way in ("dropped", "partly refused", "alternate", "long pattern")), rare


@pytest.mark.parametrize("first", FRESH_OF_GROUPS[::4])
def test_nothing_is_found_with_three_groups_in_four_seeds_from(first: int, registry: Registry) -> None:
    """And every kind of client has been there."""
    by_kind: Counter[str] = Counter()
    for seed in range(first, first + 4):
        result = simulate(Plan(seed, groups=GROUPS), registry)
        assert not result.violation, f"seed {seed}: {result.violation}"
        by_kind.update(result.by_kind)
    assert all(by_kind[kind] for kind in ("add", "set_timer", "ask_total", "enqueue", "settle")), by_kind


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_a_seed_that_once_found_something_finds_nothing(seed: int, registry: Registry) -> None:
    result = simulate(Plan(seed), registry)
    assert not result.violation, f"seed {seed} ({REGRESSIONS[seed]}): {result.violation}"


def test_a_seed_has_one_hash_whatever_the_order_of_hashes_is() -> None:
    """In processes of their own: a set iterated in hash order anywhere in the product would show."""
    assert len({_hash_of(seed=11, hash_seed=hash_seed) for hash_seed in (0, 1)}) == 1


def test_seeds_differ(registry: Registry) -> None:
    assert simulate(Plan(1), registry).digest != simulate(Plan(2), registry).digest


def test_the_same_seed_in_one_process_has_one_hash(registry: Registry) -> None:
    assert simulate(Plan(3), registry).digest == simulate(Plan(3), registry).digest


def test_a_seed_has_one_hash_with_three_groups(registry: Registry) -> None:
    plan = Plan(3, groups=GROUPS)
    assert simulate(plan, registry).digest == simulate(plan, registry).digest != simulate(Plan(3), registry).digest


def _hash_of(seed: int, hash_seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "disheap.testing.simulate", "--seed", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return next(line for line in done.stdout.splitlines() if line.startswith("hash "))
