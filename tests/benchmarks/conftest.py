"""The table at the end of a run: each benchmark beside the figure of the program that disheap grew from."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Reference(NamedTuple):
    """What a benchmark is compared with, in microseconds for one operation."""

    seed_us: float | None = None  # the Go program that disheap grew from, on its authors' machine
    goal_us: float | None = None


class Row(NamedTuple):
    name: str
    median_us: float
    reference: Reference


ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Iterator[list[Row]]:
    yield pytestconfig.stash.setdefault(ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("one operation, in microseconds")
    line = "{:<26} {:>8} {:>8} {:>8} {:>7}"
    terminalreporter.line(line.format("", "median", "goal", "seed", "ratio"))
    for name, median_us, (seed_us, goal_us) in rows:
        ratio = None if seed_us is None else median_us / seed_us
        terminalreporter.line(line.format(name, *map(_cell, (median_us, goal_us, seed_us, ratio))))
    terminalreporter.line(f"{os.cpu_count()} cores, CPython {platform.python_version()}")
    terminalreporter.line("The authors of the seed measured its column in Go, on another machine.")


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"
