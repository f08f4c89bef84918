"""The gate itself: a bug is planted in memory alone, and a run that proves nothing is not taken for one that does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import harness, report
from tests.mutants.__main__ import sample
from tests.mutants.catalogue import CATALOGUE
from tests.mutants.mutant import Mutant, Patch, Unplantable
from tests.mutants.planting import Planter
from tests.mutants.verdict import Seen, Verdict

MODULE = "planted_in_a_test"
MUTANT = Mutant("off-by-one", "counts one too many", (Patch(MODULE, "return 1", "return 2"),), ("tests",))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / f"{MODULE}.py"
    path.write_text("def one():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield path
    sys.modules.pop(MODULE, None)


def test_a_bug_is_in_the_module_that_is_imported_and_not_in_its_file(file: Path) -> None:
    planter = Planter(MUTANT)
    planter.install()
    assert importlib.import_module(MODULE).one() == 2
    planter.check_planted()
    assert "return 1" in file.read_text()
    assert not list(file.parent.rglob("*.pyc"))


def test_a_run_that_never_imports_the_module_says_nothing(file: Path) -> None:
    planter = Planter(MUTANT)
    planter.install()
    with pytest.raises(Unplantable, match="was not imported"):
        planter.check_planted()


def test_a_module_that_is_there_already_cannot_be_changed(file: Path) -> None:
    importlib.import_module(MODULE)
    with pytest.raises(Unplantable, match="before the bug could be planted"):
        Planter(MUTANT).install()


def test_a_bug_is_caught_by_a_failing_test_and_by_nothing_else() -> None:
    failed, silent, broken = Seen(by="tests/x.py::test_x"), Seen(ran=3), Seen(broken="ImportError: no")
    assert Verdict(MUTANT, failed, None).caught
    assert Verdict(MUTANT, failed, Seen(ran=30)).caught
    assert not Verdict(MUTANT, silent, Seen(by="seed 4")).caught
    assert not Verdict(MUTANT, broken, Seen(by="seed 4")).caught
    assert not Verdict(MUTANT, failed, broken).caught
    assert report.line(Verdict(MUTANT, silent, None)).startswith("SURVIVED")
    assert report.line(Verdict(MUTANT, broken, None)).startswith("BROKEN")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("tests", "stale-token-acks", "tests/test_project.py"), "not imported"),
        (("tests", "-", "tests/test_project.py::test_there_is_none_of_that_name"), "USAGE_ERROR"),
    ],
    ids=["a module that the tests never import", "a test that is not there"],
)
def test_a_process_that_proves_nothing_says_so(arguments: tuple[str, ...], word: str) -> None:
    seen = harness._child(60.0, *arguments)
    assert word in seen.broken
    assert not seen.by


def test_a_planted_bug_is_caught_from_end_to_end() -> None:
    target = "tests/heap/test_leases.py::test_a_token_of_an_earlier_epoch_is_stale"
    assert harness._child(60.0, "tests", "-", target)[:3] == ("", "", 1)
    assert harness._child(60.0, "tests", "stale-token-acks", target).by == target


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_control_runs_every_target_once_and_those_of_a_file_together(count: int) -> None:
    targets = [f"tests/{name}.py::test_{number}" for name in "abcde" for number in range(4)]
    parts = harness.shares(targets, count)
    assert sorted(target for part in parts for target in part) == sorted(targets)
    assert len(parts) == min(count, 5)
    for name in "abcde":
        assert len([part for part in parts if any(f"/{name}.py" in target for target in part)]) == 1


def test_a_sample_follows_from_the_text_and_every_bug_is_drawn_sometimes() -> None:
    some = list(CATALOGUE[:20])
    drawn = sample(some, 5, "a commit")
    assert drawn == sample(some, 5, "a commit") and len(drawn) == 5
    assert drawn == [one for one in some if one in drawn], "in the order of the catalogue"
    assert {one.name for text in map(str, range(50)) for one in sample(some, 5, text)} == {one.name for one in some}
    assert sample(some, 100, "a commit") == some
