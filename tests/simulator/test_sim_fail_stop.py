"""A node one operation of whose disk fails ends by itself, writes nothing more, and comes back with everything; the
others go on (storage-rules 6).

`DISHEAP_SWEEP=whole` takes every operation; otherwise a share of them is taken, the same each time.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from disheap.errors import DiskFailed
from disheap.plugins.registry import Registry
from tests.simulator.disk_failure import run_scenario

IS_WHOLE = os.environ.get("DISHEAP_SWEEP") == "whole"
SHARE = 1 if IS_WHOLE else 5
NEVER = 1 << 30


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


def test_a_life_without_failures_has_all_that_a_node_does_to_its_files(registry: Registry) -> None:
    cluster = run_scenario(registry, NEVER)
    assert cluster.ends == []
    assert cluster.repaired and cluster.installed


@pytest.mark.parametrize("cuts_power", [False, True], ids=["the process ends", "the power is cut"])
def test_whatever_operation_fails_the_node_ends_by_itself_and_nothing_is_lost(
    registry: Registry, cuts_power: bool
) -> None:
    seen: Counter[str] = Counter()
    for at in range(SHARE * cuts_power // 2, NEVER, SHARE):
        cluster = run_scenario(registry, at, cuts_power)
        if not cluster.faults.failed:
            break
        assert [type(error) for error in cluster.ends] == [DiskFailed]
        seen[cluster.faults.failed.partition(" ")[0]] += 1
    kinds = {"write", "extend", "sync", "close", "create", "rename", "sync_directory"}
    assert set(seen) >= kinds, seen
