"""The project holds together: what is shipped, what is promised in the README, and which way imports run."""

from __future__ import annotations

import ast
import configparser
import itertools
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEST_NAME = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)
TEST_NAME_MAX = 74
"""Characters. A name is one plain sentence; what else is to be said belongs into the docstring."""
FILE_LINES_MAX, FUNCTION_LINES_MAX = 500, 50
"""The lines of source files, and of functions. What is longer holds two ideas: find the second one, and give it a
home."""
LONG_FILES = {
    "src/disheap/errors.py": "a flat tree of public errors, which a program reads in one piece",
    "src/disheap/testing/heap_model.py": "one class: what the machine must do, which is read beside the page on topics",
}
PACKAGES = [Path(package).name for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def test_every_plugin_in_the_tree_is_in_the_wheel() -> None:
    there = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert set(PACKAGES) == there | {"disheap"}


def test_every_plugin_in_the_tree_is_among_the_roots_that_import_linter_checks() -> None:
    there = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == there | {"disheap"}


def test_every_hooks_module_is_an_entry_point() -> None:
    announced = set(PROJECT["project"]["entry-points"]["disheap"].values())
    there = {f"{path.parent.name}.hooks" for path in (ROOT / "plugins").glob("*/hooks.py")}
    assert announced == there


def test_the_readme_shows_the_two_commands_on_its_first_screen() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "python3 -m venv .venv && .venv/bin/pip install '.[celery]' && .venv/bin/disheap demo" in first_screen
    assert "python3 -m venv .venv && .venv/bin/pip install tox tox-uv && .venv/bin/tox" in first_screen


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "python3 -m venv .venv && .venv/bin/pip install --quiet tox tox-uv && .venv/bin/tox" in script


def test_tox_covers_each_pair_of_plugins_and_ci_each_combination() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    every = set(itertools.product(("inproc", "tcp", "tls"), ("memory", "file"), ("none", "zstd")))
    by_default = {tuple(name.split("-")) for name in tox["tox"]["env_list"].split()} & every
    _, _, others = tox["tox"]["labels"].strip().splitlines()[0].partition("=")
    pairs = {pair for combination in every for pair in itertools.combinations(combination, 2)}
    assert {pair for combination in by_default for pair in itertools.combinations(combination, 2)} == pairs
    assert {tuple(name.strip().split("-")) for name in others.split(",")} == every - by_default
    assert re.search(r"tox .*-m combinations", (ROOT / ".ci" / "run").read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_types_are_for_whoever_uses_them(package: str) -> None:
    """PEP 561; installed from the wheel, as CI does, it must hold there too."""
    assert (files(package) / "py.typed").is_file()


@pytest.mark.parametrize("folder", ["tests", "src", "plugins", "contrib"])
def test_no_name_of_a_test_is_too_long_to_read(folder: str) -> None:
    names = [
        (path.relative_to(ROOT), name)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in TEST_NAME.findall(path.read_text())
    ]
    assert [f"{path}: {name}" for path, name in names if len(name) > TEST_NAME_MAX] == []
    assert names or folder == "plugins"


def sources() -> list[Path]:
    """What is shipped, without tests (the conformance suites, too) and without what a compiler has written."""
    found = [path for top in ("src", "plugins", "contrib") for path in (ROOT / top).rglob("*.py")]
    return sorted(
        path
        for path in found
        if "tests" not in path.relative_to(ROOT).parts and not path.name.startswith("test_") and "_pb2" not in path.name
    )


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """Each function and its lines. Functions and classes inside of it do not count for it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [one for one in node.body if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
            yield node.name, lines_of(node) - sum(map(lines_of, inner))


def lines_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_source_file_and_no_function_is_too_long_to_read() -> None:
    long = {str(path.relative_to(ROOT)) for path in sources() if path.read_text().count("\n") > FILE_LINES_MAX}
    assert long == set(LONG_FILES)
    functions = [(path, *one) for path in sources() for one in functions_of(path)]
    assert [one for one in functions if one[2] > FUNCTION_LINES_MAX] == []
    assert len(functions) > 1000, "nothing was looked at"
