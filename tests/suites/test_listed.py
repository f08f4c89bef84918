"""The comparison of outcomes with a list can fail, in every direction."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.suites import places
from tests.suites.celery_suite import LISTED, MODULES, admit_backend
from tests.suites.listed import read_list, spread_first
from tests.suites.sdist import unpack_tests

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest

def test_passes():
    pass

def test_fails():
    assert False

@pytest.mark.skip(reason="so")
def test_skips():
    pass
"""
RIGHT = {"test_fails": "fails", "test_skips": "skips"}


def run(directory: Path, outcomes: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The exit code and the output of pytest over `SUITE` with these outcomes listed."""
    entries = [
        f'[[test]]\nname = "test_it.py::{name}"\noutcome = "{outcome}"\nreason = "because"\n'
        for name, outcome in outcomes.items()
    ]
    (directory / "listed.toml").write_text("\n".join(entries))
    (directory / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "tests.suites.listed", "--listed", "listed.toml", "-q"]
    options = ["-p", "no:cacheprovider", "-c", str(ROOT / "tests/suites/pytest.ini"), "--rootdir", "."]
    done = subprocess.run(
        [*command, *options, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_list_that_is_right_passes(tmp_path: Path) -> None:
    code, output = run(tmp_path, RIGHT)
    assert code == 0 and "1 passed, 1 skipped, 1 xfailed" in output, output


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ({"test_skips": "skips"}, "FAILED test_it.py::test_fails"),
        ({"test_fails": "fails"}, "skipped, and not listed"),
        (RIGHT | {"test_passes": "fails"}, "XPASS(strict)"),
        (RIGHT | {"test_passes": "skips"}, "listed as one that skips, and it passed"),
        (RIGHT | {"test_gone": "fails"}, "no test has this name: test_it.py::test_gone"),
    ],
)
def test_a_list_that_is_wrong_fails(tmp_path: Path, outcomes: dict[str, str], told: str) -> None:
    code, output = run(tmp_path, outcomes)
    assert code != 0 and told in output, output


def test_an_excluded_test_is_not_run(tmp_path: Path) -> None:
    code, output = run(tmp_path, RIGHT | {"test_fails": "excluded"})
    assert code == 0 and "1 passed, 1 skipped, 1 deselected" in output, output


def test_a_part_of_a_suite_does_not_miss_the_names_of_the_rest(tmp_path: Path) -> None:
    code, output = run(tmp_path, RIGHT, "test_it.py::test_passes")
    assert code == 0, output


def test_an_entry_holds_for_its_brokers_and_backends_alone() -> None:
    text = '[[test]]\nname = "t.py::t"\noutcome = "fails"\nreason = "r"\nbroker = ["disheap"]\nbackend = ["redis"]\n'
    assert list(read_list(text, "disheap", "redis")) == ["t.py::t"]
    assert read_list(text, "redis", "redis") == read_list(text, "disheap", "disheap") == {}


@pytest.mark.parametrize("wrong", ['outcome = "passes"', 'reason = ""', 'name = ""'])
def test_an_entry_without_a_known_outcome_or_a_reason_is_refused(wrong: str) -> None:
    fields = {"name": "t.py::t", "outcome": "fails", "reason": "r"}
    del fields[wrong.partition(" ")[0]]
    lines = [f'{key} = "{value}"' for key, value in fields.items()]
    with pytest.raises(ValueError, match="an entry has"):
        read_list("\n".join(["[[test]]", *lines, wrong]), "disheap", "redis")


def test_the_list_of_celery_can_be_read_and_names_only_what_is_run() -> None:
    listed = read_list(LISTED.read_text(), "disheap", "redis")
    assert {name.partition(".py::")[0] for name in listed} <= set(MODULES)


@pytest.mark.parametrize(("first", "ordered"), [("", "abcd"), ("d", "dabc"), ("cd", "cadb"), ("bcd", "bacd")])
def test_long_tests_are_dealt_out_to_different_processes(first: str, ordered: str) -> None:
    assert spread_first(list(first), list("abcd")) == list(ordered)


def test_each_process_gets_a_place_of_its_own() -> None:
    environ = {places.PLACES: json.dumps([{"TEST_BROKER": "a"}, {"TEST_BROKER": "b"}])}
    assert places.place(environ) == {"TEST_BROKER": "a"}
    assert places.place(environ | {places.WORKER: "gw1"}) == {"TEST_BROKER": "b"}
    assert places.place({}) == {}


def test_only_the_tests_of_an_sdist_are_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "kombu-1.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        for name in ("kombu-1/kombu/__init__.py", "kombu-1/t/integration/common.py", "kombu-1/tt/x.py"):
            opened.addfile(tarfile.TarInfo(name), io.BytesIO())
    unpack_tests(archive, tmp_path / "out")
    found = [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found == ["t/integration/common.py"]


def test_an_sdist_without_tests_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "kombu-1.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.addfile(tarfile.TarInfo("kombu-1/kombu/__init__.py"), io.BytesIO())
    with pytest.raises(LookupError, match=r"kombu-1\.tar\.gz has no folder 't'"):
        unpack_tests(archive, tmp_path / "out")


def test_tests_for_redis_as_the_backend_run_with_disheap_too(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "app.conf.result_backend.startswith('redis')\n"
        'manager.app.conf.result_backend.startswith("redis")\n'
        "app.conf.result_backend.startswith(('redis', 'rpc'))\n"
        "app.conf.broker_url.startswith('redis')\n"
    )
    for _ in range(2):  # as in a directory that is used again
        admit_backend(tmp_path)
    assert path.read_text() == (
        "app.conf.result_backend.startswith(('redis', 'disheap'))\n"
        "manager.app.conf.result_backend.startswith((\"redis\", 'disheap'))\n"
        "app.conf.result_backend.startswith(('redis', 'rpc', 'disheap'))\n"
        "app.conf.broker_url.startswith('redis')\n"
    )
    path.write_text("")
    with pytest.raises(LookupError, match="another Celery"):
        admit_backend(tmp_path)
