"""How long the chaos runs take: `--chaos-minutes`. A test that needs something that this machine lacks is skipped with
the reason. It fails if DISHEAP_REQUIRE_ALL is set."""

from __future__ import annotations

import pytest

from tests.chaos import faults, shim
from tests.chaos.namespaces import why_no_namespaces

DEFAULT_MINUTES = 1.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-minutes", type=float, default=DEFAULT_MINUTES, help="of faults, in all chaos runs together"
    )
    parser.addoption("--chaos-seed", type=int, default=None, help="which faults come, and in which order")


@pytest.fixture
def chaos_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--chaos-minutes", DEFAULT_MINUTES)) * 60


@pytest.fixture
def chaos_seed(request: pytest.FixtureRequest) -> int | None:
    found: int | None = request.config.getoption("--chaos-seed", None)
    return found


@pytest.fixture
def needs_shim() -> None:
    if reason := shim.why_not():
        pytest.skip(reason)


@pytest.fixture
def needs_tmpfs() -> None:
    if reason := faults.why_no_tmpfs():
        pytest.skip(reason)


@pytest.fixture
def needs_namespaces() -> None:
    if reason := why_no_namespaces():
        pytest.skip(reason)
