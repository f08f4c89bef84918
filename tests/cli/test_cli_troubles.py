"""What `disheap status` says in words about a node that does not do its part."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.cli.cluster import _troubles

WELL: dict[str, Any] = {
    "node": "n1",
    "role": "leader",
    "repair": {},
    "disk": {"free_bytes": 1 << 40, "is_short": False, "refuses": ""},
    "quarantine": "",
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
    ],
)
def test_each_trouble_has_a_line(changed: dict[str, Any], words: str) -> None:
    assert list(_troubles(WELL | changed)) == [words]
