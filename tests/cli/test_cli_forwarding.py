"""What `disheap status` says of messages that wait for another group."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.cli.cluster import _print_forwarding


def row(role: str, *waiting: dict[str, Any]) -> dict[str, Any]:
    return {"node": "n1", "groups": [{"group": 2, "role": role, "forwarding": list(waiting)}]}


def test_the_leaders_row_says_how_many_messages_wait_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    stuck = {"group": 7, "waiting": 31, "reason": "the cluster has no group 7"}
    moving = {"group": 9, "waiting": 2, "reason": ""}
    _print_forwarding([row("follower", {"group": 7, "waiting": 30, "reason": ""}), row("leader", stuck, moving)])
    head, *lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert head == ["FROM_GROUP", "TO_GROUP", "WAITING", "REASON"]
    assert lines == [["2", "7", "31", *stuck["reason"].split()], ["2", "9", "2", "-"]]


def test_nothing_is_shown_while_nothing_waits(capsys: pytest.CaptureFixture[str]) -> None:
    _print_forwarding([row("leader"), row("follower")])
    assert capsys.readouterr().out == ""
