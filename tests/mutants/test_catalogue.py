"""The catalogue of planted bugs is whole: `python -m tests.mutants` can plant each of them, and knows what to run."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.mutants.catalogue import CATALOGUE
from tests.mutants.mutant import Mutant, Patch, Unplantable, path_of

ROOT = Path(__file__).parent.parent.parent
PITFALLS = range(1, 31)


def test_there_are_enough_and_no_name_is_used_twice() -> None:
    assert len(CATALOGUE) >= 45
    assert len({mutant.name for mutant in CATALOGUE}) == len(CATALOGUE)


def test_every_class_of_bugs_that_others_had_is_planted() -> None:
    assert {mutant.pitfall for mutant in CATALOGUE} >= set(PITFALLS)


@pytest.mark.parametrize("mutant", CATALOGUE, ids=lambda mutant: mutant.name)
def test_each_snippet_is_found_once_and_what_replaces_it_compiles(mutant: Mutant) -> None:
    mutant.check()


@pytest.mark.parametrize("mutant", CATALOGUE, ids=lambda mutant: mutant.name)
def test_what_is_to_catch_it_is_there(mutant: Mutant) -> None:
    assert mutant.tests
    for target in mutant.tests:
        path, _, name = target.partition("::")
        assert not name or name in _functions(path), target


def _functions(path: str) -> set[str]:
    """The functions of a file, or of an installed module."""
    spec = None if path.endswith(".py") else find_spec(path)
    file = ROOT / path if spec is None else Path(str(spec.origin))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)}


def test_no_bug_is_planted_twice() -> None:
    assert len({mutant.patches for mutant in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("source", ["", "here = there = 1\nhere = there = 1\n"])
def test_code_that_has_moved_makes_the_catalogue_fail(source: str) -> None:
    with pytest.raises(Unplantable, match="not once"):
        Patch("somewhere", "there = 1", "there = 2").apply(source)


def test_a_function_is_found_wherever_it_lies_and_only_it_is_changed() -> None:
    patch = Patch("disheap:Writer.start", "def start(", "def begin(")
    source = path_of(patch.module).read_text()
    assert patch.apply(source) == source.replace("def start(", "def begin(")


@pytest.mark.parametrize(
    ("where", "says"),
    [("disheap:Writer.nowhere", "no function Writer.nowhere"), ("nothing_such:f", "no module nothing_such")],
)
def test_a_function_that_is_not_there_makes_the_catalogue_fail(where: str, says: str) -> None:
    with pytest.raises(Unplantable, match=says):
        Patch(where, "1", "2").apply("")


def test_the_page_in_the_docs_has_a_row_for_each() -> None:
    page = (ROOT / "docs/explanation/planted-bugs.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {mutant.name for mutant in CATALOGUE}
    stale = [mutant.name for mutant in CATALOGUE if f"| {mutant.breaks} |" not in rows[mutant.name]]
    assert stale == [], "the page says something else than the catalogue"
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests += "".join(path.read_text() for path in (ROOT / "src/disheap/testing/conformance").glob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)", tests))
    named = {name for row in rows.values() for name in re.findall(r"`(test_\w+)", row)}
    assert named - there == set(), "the page names tests that are not there"
