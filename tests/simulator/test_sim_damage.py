"""Whole nodes on spoilt disks: wrong data never, and whoever is stuck says so (storage-rules 3, 4, 5 and 8).

`DISHEAP_SWEEP=whole` takes every byte and every combination; otherwise a share of them is taken, the same each time.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter

import pytest

from disheap.plugins.registry import Registry
from tests.simulator import damage
from tests.simulator.damage import Files

IS_WHOLE = os.environ.get("DISHEAP_SWEEP") == "whole"
BYTES_SHARE = 1 if IS_WHOLE else 11
COMBINATIONS_SHARE = 1 if IS_WHOLE else 5
"""One of so many, coprime to the sizes of what they walk through."""
ENTRIES = 3


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


@pytest.mark.parametrize(("codec", "is_closed"), [("none", True), ("zstd", False)], ids=["closed", "killed"])
def test_no_flipped_bit_in_a_file_of_one_of_three_nodes_leads_to_wrong_data(
    registry: Registry, codec: str, is_closed: bool
) -> None:
    disks, content = damage.made(registry, codec, is_closed)
    flips = [(path, at) for path, data in sorted(disks[0].items()) for at in damage.places(data)]
    seen: dict[str, Counter[str]] = {}
    for path, at in flips[::BYTES_SHARE]:
        kind = path.rpartition("/")[2].partition("-")[0]
        found = damage.outcome(registry, codec, [damage.flipped(disks[0], path, at), *disks[1:]], content)
        assert found in ("same", "repaired", "refused"), f"{found}: byte {at} of {path}, though two nodes are whole"
        seen.setdefault(kind, Counter())[found] += 1
    assert set(seen["meta"]) == {"same"}, "the other copy of the term and the vote is there"
    assert set(seen["identity"]) == {"refused"}
    assert set(seen["snapshot"]) == {"repaired"}
    assert seen["log"]["repaired"] > seen["log"]["refused"], seen


def spoilt(disk: Files, entries: tuple[bool, ...]) -> Files:
    """A bit of the payload of each of the last blocks that `entries` says."""
    path = max(path for path in disk if "/log-" in path)
    blocks = [match.start() for match in re.finditer(b"DHB1", disk[path])][-len(entries) :]
    for start, is_spoilt in zip(blocks, entries, strict=True):
        disk = damage.flipped(disk, path, start + 70) if is_spoilt else disk
    return disk


def test_every_combination_of_damage_is_repaired_or_waits_for_the_copy(
    registry: Registry,
) -> None:
    disks, content = damage.made(registry, "none", is_closed=True)
    seen: Counter[str] = Counter()
    combinations = list(itertools.product(itertools.product((False, True), repeat=ENTRIES), repeat=3))
    for combination in combinations[::COMBINATIONS_SHARE] + combinations[-1:]:
        damaged = [spoilt(disk, entries) for disk, entries in zip(disks, combination, strict=True)]
        is_recoverable = all(not all(entries[n] for entries in combination) for n in range(ENTRIES))
        expected = ("waits",) if not is_recoverable else ("repaired",) if any(map(any, combination)) else ("same",)
        found = damage.outcome(registry, "none", damaged, content)
        assert found in expected, f"{found}, and not {expected[0]}: {combination}"
        seen[found] += 1
    assert seen["same"] and seen["repaired"] > 10 and seen["waits"] > 10, seen


def test_a_copy_that_comes_back_ends_the_waiting(registry: Registry) -> None:
    """Nothing was dropped meanwhile: the files that waited are those that are repaired."""
    disks, content = damage.made(registry, "none", is_closed=True)
    all_lost = [spoilt(disk, (True, False, True)) for disk in disks]
    after: list[Files] = []
    assert damage.outcome(registry, "none", all_lost, content, after) == "waits"
    assert damage.outcome(registry, "none", [*after[:2], disks[2]], content) == "repaired"


def test_what_a_node_refuses_with_is_looked_for_in_the_how_to() -> None:
    assert damage.is_documented("x/meta: damaged at byte 0: neither copy of the term and the vote can be read. Do it")
    assert damage.is_documented("x: entries 4 to 5 are missing")
    assert damage.is_documented("/d is in use by another process (it holds /d/lock). Stop that node first")
    assert damage.is_documented(
        "/d/f: the snapshot is damaged: its head cannot be read. It is not taken for an empty state."
    )
    assert not damage.is_documented("it cannot be done any more")
    assert not damage.is_documented("something else is wrong")
