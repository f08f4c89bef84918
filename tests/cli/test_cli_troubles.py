"""What `disheap status` says in words about a node that does not do its part."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.cli.cluster import _margin, _print_versions, _troubles, _without_leader
from disheap.kernel.types import Role

WELL: dict[str, Any] = {
    "node": "n1",
    "role": "leader",
    "members": [{"name": "n1", "refusal": ""}, {"name": "n2", "refusal": ""}],
    "repair": {},
    "disk": {"free_bytes": 1 << 40, "is_short": False, "refuses": ""},
    "memory": {"used_bytes": 50 << 20, "high_water_bytes": 100 << 20, "is_short": False, "refuses": ""},
    "quarantine": "",
    "clock": {"wall_ms": 0, "objection": ""},
    "comparison": {"index": 0, "compared": 0, "differs_from": []},
}


def test_a_node_that_is_well_has_none() -> None:
    assert list(_troubles(WELL)) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"error": "connection refused"}, "does not answer: connection refused"),
        (
            {"repair": {"missing": "the welcome of every other member", "waiting_for": ["n2", "n3"]}},
            "takes no part: it waits for n2, n3; missing: the welcome of every other member",
        ),
        (
            {
                "repair": {"missing": "the welcome of every other member", "waiting_for": ["n2", "n3"]},
                "members": [{"name": "n2", "refusal": "it comes back without its data"}, {"name": "n3", "refusal": ""}],
            },
            "takes no part: n2 refused it: it comes back without its data",
        ),
        (
            {"members": [{"name": "n2", "refusal": "another secret"}, {"name": "n3", "refusal": "another secret"}]},
            "is not let in everywhere: n2, n3 refused it: another secret",
        ),
        (
            {"clock": {"wall_ms": 0, "objection": "its clock is a year ahead"}},
            "does not ask to lead: its clock is a year ahead",
        ),
        ({"quarantine": "its state is wrong"}, "is in quarantine: its state is wrong; restart it"),
        (
            {"comparison": {"index": 5, "compared": 1, "differs_from": ["n2"]}},
            "holds another state than n2, and no majority says whose is right",
        ),
        (
            {"role": "follower", "disk": {"free_bytes": 3 << 20, "is_short": True, "refuses": "why"}},
            "is short of room: 3.0 MiB are free on its disk",
        ),
        (
            {"disk": {"free_bytes": 1 << 40, "is_short": False, "refuses": "n2 and n3 are short"}},
            "refuses new messages: n2 and n3 are short",
        ),
        (
            {
                "role": "follower",
                "memory": {"used_bytes": 5 << 20, "high_water_bytes": 4 << 20, "is_short": True, "refuses": "why"},
            },
            "is short of memory: 5.0 MiB are used, and the mark is 4.0 MiB",
        ),
        (
            {"memory": {"used_bytes": 1, "high_water_bytes": 2, "is_short": False, "refuses": "n2 is short"}},
            "refuses new messages: n2 is short",
        ),
    ],
)
def test_each_trouble_has_a_line(changed: dict[str, Any], words: str) -> None:
    assert list(_troubles(WELL | changed)) == [words]


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["leader", "follower", None], "2 of 3 nodes do their part: when one more fails, no majority is left"),
        (["leader", "follower", "quarantined"], "2 of 3 nodes do their part: when one more fails"),
        (["leader", "follower", "new", None], "2 of 4 nodes do their part: when one more fails"),
        (["leader", "follower", "precandidate", "repairing", "follower"], "4 of 5 nodes do their part: 1 more"),
    ],
)
def test_the_margin_that_is_left_is_said(roles: list[str | None], words: str) -> None:
    silent = {"error": "connection refused"}
    rows = [{"node": "n", "votes": True} | ({"role": role} if role else silent) for role in roles]
    assert _margin(rows).startswith(words)


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["new", "new", "follower"], "There is no leader: 1 of 3 nodes do their part, and 2 must."),
        (["candidate", None, "follower"], "There is no leader: wait for the election to end."),
    ],
)
def test_without_a_leader_it_says_whether_there_can_be_one(roles: list[str | None], words: str) -> None:
    silent = {"error": "connection refused"}
    rows = [{"node": "n", "votes": True} | ({"role": role} if role else silent) for role in roles]
    assert _without_leader(rows) == words


def test_every_role_of_the_kernel_counts_for_the_majority() -> None:
    for role in Role:
        assert _margin([{"role": role.value, "votes": True}]).startswith("1 of 1 ")


def _runs(node: str, applied: int, version: int, highest: int) -> dict[str, Any]:
    members = [
        {"name": "n1", "machine_versions": [1, 1], "log_versions": [1, 1]},
        {"name": "n3", "machine_versions": None, "log_versions": None},
    ]
    return {
        "node": node,
        "applied_index": applied,
        "machine": "heap",
        "machine_version": version,
        "log_version": 1,
        "machine_versions": [1, highest],
        "log_versions": [1, 1],
        "members": members,
    }


def test_the_versions_of_a_cluster_of_one_release_take_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    _print_versions([_runs("n1", 5, 1, 1), _runs("n2", 5, 1, 1)])
    assert capsys.readouterr().out == "\nThe cluster runs machine_version 1 (heap) and log_version 1.\n"


def test_during_an_upgrade_a_table_shows_what_each_member_supports(capsys: pytest.CaptureFixture[str]) -> None:
    _print_versions([_runs("n2", 5, 1, 2), _runs("n4", 9, 2, 3)])
    line, *table, last = capsys.readouterr().out.strip().splitlines()
    assert line.startswith("The cluster runs machine_version 2"), "what the newest node has applied"
    rows = [row.split() for row in table if row.strip()]
    assert rows[0] == ["SUPPORTED", "n1", "n2", "n4"], "nothing is known of n3"
    assert " ".join(rows[1]) == "machine_version 1 to 1 1 to 2 1 to 3"
    assert "when every member supports it" in last
