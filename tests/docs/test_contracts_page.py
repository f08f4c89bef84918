"""The page of the contracts is what the package says, and the package says something of every method."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from contracts_page import MARK, PAGE, render

from disheap import interfaces

ROOT = Path(__file__).parents[2]
CONTRACTS = [
    one for one in vars(interfaces).values() if isinstance(one, type) and one.__module__.startswith(interfaces.__name__)
]
METHODS = [
    (one, name)
    for one in CONTRACTS
    for name, value in vars(one).items()
    if getattr(one, "_is_protocol", False)
    and isinstance(value, classmethod | property | type(render))
    and not name.startswith("_")
]
SUITES = sorted((ROOT / "src/disheap/testing/conformance").glob("test_*.py"))


def test_the_page_is_made_from_the_package() -> None:
    """`python -m tests.docs.contracts_page` makes it anew."""
    is_made = PAGE.read_text().partition(MARK)[2].strip() == render().strip()
    assert is_made, "disheap.interfaces has changed: run python -m tests.docs.contracts_page"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_class_of_the_contracts_says_what_it_is(contract: type) -> None:
    assert inspect.getdoc(contract) and "Alias for field" not in (contract.__doc__ or "")


@pytest.mark.parametrize(("contract", "name"), METHODS)
def test_every_method_of_the_contracts_says_what_it_does(contract: type, name: str) -> None:
    assert inspect.getattr_static(contract, name).__doc__, f"{contract.__name__}.{name} has no docstring"


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.stem)
def test_every_suite_and_each_of_its_tests_is_described(suite: Path) -> None:
    assert f"`{suite.stem}`" in PAGE.read_text()
    bodies = re.findall(r"^def (test_\w+)\(.*?\) -> None:\n\s+(\S+)", suite.read_text(), re.MULTILINE | re.DOTALL)
    assert len(bodies) > 10
    assert [name for name, begins in bodies if not begins.startswith('"""')] == []
