"""For every test: with `DISHEAP_REQUIRE_ALL=1`, as in CI, whatever would be skipped fails instead.

A skip says "not on this machine"; the machine that decides whether the project is whole has to have everything.

Hypothesis sets no deadline for one example: on a loaded machine it would measure the machine and not the code.
`pytest-timeout` bounds each test.

A process remembers the members of each cluster by its addresses. Each test begins with an empty memory. Otherwise a
port that a later test gets again would bring the members of an earlier test's cluster along.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from disheap.client.io.dialing import LAST_NODES

REQUIRE_ALL = os.environ.get("DISHEAP_REQUIRE_ALL", "") not in ("", "0")


settings.register_profile("without deadline", parent=settings(), deadline=None)
settings.load_profile("without deadline")


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    LAST_NODES.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    _refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome: Any = yield
    _refuse_skip(outcome.get_result())


def _refuse_skip(report: Any) -> None:
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and DISHEAP_REQUIRE_ALL is set: {report.longrepr}"
