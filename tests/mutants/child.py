"""What runs in a process of its own, because it has a bug in it: tests until one fails, or seeds until one does.

    tests RESULT NAME TARGET ...
    seeds RESULT NAME FIRST COUNT SECONDS GROUPS

NAME is a mutant's, or `-` for none: the negative control. RESULT is the file for the answer, a JSON of `Seen`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.catalogue import BY_NAME
from tests.mutants.mutant import Unplantable
from tests.mutants.planting import Planter
from tests.mutants.verdict import Seen

ROOT = Path(__file__).parent.parent.parent
NONE = "-"
TEST_TIMEOUT_S = 30
"""A test that hangs under a bug fails after this."""
CONTROL_TIMEOUT_S = 600
"""The signal's exception may be raised in a simulated node, which then fails: that would look like a failed test."""
CLUMSY = (ImportError, NameError, SyntaxError, Unplantable)
"""Errors that show a badly written mutant, and catch nothing."""


def forked(directory: str, output: Path, arguments: list[str]) -> None:
    """In a new process: temporary files go into `directory`, and all that is printed into `output`."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ.update(TMPDIR=directory, PYTEST_ADDOPTS="")
    tempfile.tempdir = None  # it was looked up before
    os.chdir(ROOT)
    run(arguments)


def run(arguments: list[str]) -> None:
    what, result, name, *rest = arguments
    planter = Planter(BY_NAME[name]) if name != NONE else None
    if planter is not None:
        planter.install()
    started = time.monotonic()
    try:
        seen = (
            run_tests(rest, TEST_TIMEOUT_S if planter else CONTROL_TIMEOUT_S)
            if what == "tests"
            else run_seeds(int(rest[0]), int(rest[1]), float(rest[2]), int(rest[3]))
        )
        if planter is not None and not seen.broken:
            planter.check_planted()
    except CLUMSY as error:
        seen = Seen(broken=f"{type(error).__name__}: {error}")
    seen = seen._replace(seconds=round(time.monotonic() - started, 2))
    Path(result).write_text(json.dumps(seen._asdict()))


# --- tests -----------------------------------------------------------------------------------------------------------


class _Watch:
    """A pytest plugin: the first failure, and whether it is one that counts."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.passed = 0

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        if self.seen.by or self.seen.broken:
            return
        error = call.excinfo.value
        text = f"{type(error).__name__}: {error}".strip()
        if isinstance(error, CLUMSY) or report.when == "collect":
            self.seen = Seen(broken=f"{report.nodeid}: {text}")
        else:
            self.seen = Seen(by=report.nodeid, says=_first_line(text))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.passed += report.when == "call" and report.passed


def run_tests(targets: list[str], timeout_s: int) -> Seen:
    """Rewriting of assertions would go past the planter: pytest finds modules for itself then."""
    _quiet_hypothesis()
    watch = _Watch()
    options = [
        "-x",
        "-q",
        "--pyargs",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "-m",
        "not long",
        "-o",
        f"timeout={timeout_s}",
    ]
    code = pytest.main([*options, "--hypothesis-profile=mutants", *targets], plugins=[watch])
    seen = watch.seen._replace(ran=watch.passed + bool(watch.seen.by))
    if seen.by or seen.broken:
        return seen
    if code != pytest.ExitCode.OK or not watch.passed:
        return seen._replace(broken=f"pytest ended with {pytest.ExitCode(code).name} after {watch.passed} tests")
    return seen


def _quiet_hypothesis() -> None:
    """Makes hypothesis draw the same examples each time. What fails here is of no use to those who run the tests
    next."""
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants", database=None, derandomize=True, deadline=None,
        phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# --- seeds -----------------------------------------------------------------------------------------------------------


def run_seeds(first: int, count: int, seconds: float, groups: int) -> Seen:
    """As many as fit into the time, of clusters with so many groups."""
    from disheap.plugins.registry import Registry
    from disheap.testing.simulator.run import Plan, simulate

    logging.disable(logging.CRITICAL)
    registry, over_at, ran = Registry.load(), time.monotonic() + seconds, 0
    for seed in range(first, first + count):
        ran += 1
        try:
            violation = simulate(Plan(seed, groups=groups, releases_change=True), registry).violation
        except CLUMSY:
            raise
        except Exception as error:
            violation = f"{type(error).__name__}: {error}"
        if violation:
            return Seen(by=f"seed {seed}", says=_first_line(violation), ran=ran)
        if time.monotonic() > over_at:
            break
    return Seen(ran=ran)


def _first_line(text: str) -> str:
    return text.splitlines()[0][:200] if text else ""
