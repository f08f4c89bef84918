"""The project holds together: what is shipped, what is promised in the README, and which way imports run."""

from __future__ import annotations

import configparser
import itertools
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
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
    assert "tox -m combinations" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_types_are_for_whoever_uses_them(package: str) -> None:
    """PEP 561; installed from the wheel, as CI does, it must hold there too."""
    assert (files(package) / "py.typed").is_file()
