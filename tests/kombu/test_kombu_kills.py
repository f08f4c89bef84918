"""Tasks that are longer than any timeout, while one leader after another is killed."""

from __future__ import annotations

import pytest
from kombu_kills import faults, kill_leaders


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_workers_consume_again_and_no_task_is_lost_or_runs_twice(tmp_path):
    report = kill_leaders(tmp_path, kills=5, workers=2)
    assert faults(report) == [], report


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_leaders_are_killed_and_no_task_is_lost_or_runs_twice(tmp_path):
    report = kill_leaders(tmp_path, kills=100, workers=2)
    assert faults(report) == [], report
