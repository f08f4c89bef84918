"""Upgrades and ways back among the general faults of the simulator: what is found in a few seeds, and what would be."""

from __future__ import annotations

from collections import Counter

import pytest

from disheap.plugins.registry import Registry
from disheap.runtime.membership.directory import AddressBook
from disheap.testing.counter import CounterMachine, CounterSettings
from disheap.testing.simulator.cluster.releases import MARK, next_release
from disheap.testing.simulator.run import Plan, simulate
from disheap_heap.machine import HeapMachine

WITH_UPGRADES = (4, 6, 8)
FOUND_IN = (3, 4)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


def test_nothing_is_found_while_nodes_are_upgraded_and_rolled_back(registry: Registry) -> None:
    faults: Counter[str] = Counter()
    for seed in WITH_UPGRADES:
        result = simulate(Plan(seed, releases_change=True), registry)
        assert not result.violation, f"seed {seed}: {result.violation}"
        faults.update(result.faults)
    assert faults["upgrade"] > len(WITH_UPGRADES) and faults["roll back"]


def test_releases_stay_where_a_plan_does_not_ask_for_others(registry: Registry) -> None:
    assert "upgrade" not in simulate(Plan(WITH_UPGRADES[0]), registry).faults


def test_a_version_that_is_raised_while_a_member_is_old(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that asks nobody else."""
    monkeypatch.setattr(AddressBook, "versions", lambda self, own, group: [])
    found = (simulate(Plan(seed, releases_change=True), registry).violation for seed in FOUND_IN)
    assert "the version was raised while it had been old" in next(filter(None, found))


@pytest.mark.parametrize("machine", [CounterMachine, HeapMachine])
def test_the_next_release_runs_one_version_more_and_reads_both_forms(machine: type[CounterMachine]) -> None:
    made = next_release(machine)
    lowest, highest = machine.versions
    assert (made.name, made.versions) == (machine.name, (lowest, highest + 1))


def test_snapshots_of_the_later_version_alone_have_the_mark(registry: Registry) -> None:
    made = next_release(CounterMachine)
    counter = made(CounterSettings(), None)
    counter.apply(1, 1, 0, b"+7")
    before = b"".join(counter.snapshot())
    counter.set_version(2)
    after = b"".join(counter.snapshot())
    assert (before.startswith(MARK), after) == (False, MARK + before)
    for data in (before, after):
        again = made(CounterSettings(), None)
        again.restore([data[:3], data[3:]])
        assert again.total == 7
