"""A pytest plugin: each outcome must be the one that a list names. What is not listed must pass.

    pytest -p tests.suites.listed --listed FILE --listed-broker disheap --listed-backend redis

FILE is TOML: an array of tables `test` with these keys.

| key       | what it holds                                                                      |
|-----------|------------------------------------------------------------------------------------|
| `name`    | the end of a node id, such as `test_tasks.py::test_tasks::test_x[a]`               |
| `outcome` | `fails`; `skips`: the suite skips it; `excluded`: it is not run, because it hangs; |
|           | `races`: it may fail by chance, and passes in one of `RERUNS` more runs;           |
|           | `long`: it passes, and is run early, so that no process waits for it at the end    |
| `broker`  | the brokers for which the line holds; every broker if it is absent                 |
| `backend` | the same of result backends                                                        |
| `reason`  | why                                                                                |

A listed test that passes is a failure, and so is a listed name that no test has. A test that is skipped and not listed
fails too. The suites ask with a mark for many of their tests to be run again. That is not done, unless it is listed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OUTCOMES = ("fails", "skips", "excluded", "races", "long")
RERUNS = 5
"""As often as Celery's own runs repeat such a test."""


def read_list(text: str, broker: str, backend: str) -> dict[str, dict[str, Any]]:
    """The entries that hold for this broker and backend, by name. Raises `ValueError` for an entry that is wrong."""
    found: dict[str, dict[str, Any]] = {}
    for entry in tomllib.loads(text).get("test", []):
        if entry.get("outcome") not in OUTCOMES or not entry.get("reason") or not entry.get("name"):
            raise ValueError(f"an entry has a name, a reason, and one of the outcomes {', '.join(OUTCOMES)}: {entry}")
        if broker in entry.get("broker", [broker]) and backend in entry.get("backend", [backend]):
            if entry["name"] in found:
                raise ValueError(f"listed twice: {entry['name']}")
            found[entry["name"]] = entry
    return found


def spread_first(first: list[Any], items: list[Any]) -> list[Any]:
    """`items` with those of `first` at the beginning, at every second place: pytest-xdist deals out two at a time."""
    rest = [item for item in items if item not in first]
    spread = [one for pair in zip(first, rest, strict=False) for one in pair]
    return [*spread, *first[len(rest) :], *rest[len(first) :]]


class ListedOutcomes:
    """Compares outcomes with the list."""

    def __init__(self, listed: dict[str, dict[str, Any]]) -> None:
        self._listed = listed

    def _entry(self, nodeid: str) -> dict[str, Any]:
        return self._listed.get(nodeid.rpartition("/")[2], {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Marks the tests that must fail, takes out those that hang, and refuses a name that no test has."""
        self._refuse_unknown_names(config, [item.nodeid.rpartition("/")[2] for item in items])
        excluded = [item for item in items if self._entry(item.nodeid).get("outcome") == "excluded"]
        if excluded:
            config.hook.pytest_deselected(items=excluded)
            items[:] = [item for item in items if item not in excluded]
        items[:] = spread_first([item for item in items if self._entry(item.nodeid).get("outcome") == "long"], items)
        for item in items:
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "flaky"]
            self._mark(item)

    def _mark(self, item: pytest.Item) -> None:
        match self._entry(item.nodeid).get("outcome"):
            case "fails":
                item.add_marker(pytest.mark.xfail(reason=self._entry(item.nodeid)["reason"], strict=True))
            case "races":
                item.add_marker(pytest.mark.flaky(reruns=RERUNS, reruns_delay=1))

    def _refuse_unknown_names(self, config: pytest.Config, names: list[str]) -> None:
        if any("::" in argument for argument in config.args):
            return  # only a part of a file was collected
        files = {name.partition("::")[0] for name in names}
        unknown = [name for name in self._listed if name.partition("::")[0] in files and name not in names]
        if unknown:
            raise pytest.UsageError(f"listed, but no test has this name: {', '.join(sorted(unknown))}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
        """Makes a failure of a skip that is not listed, and of a pass where a skip is."""
        report = yield
        must_skip = self._entry(item.nodeid).get("outcome") == "skips"
        if report.skipped and not hasattr(report, "wasxfail") and not must_skip:
            report.outcome, report.longrepr = "failed", f"skipped, and not listed: {report.longrepr}"
        elif report.passed and report.when == "call" and must_skip:
            report.outcome, report.longrepr = "failed", "listed as one that skips, and it passed"
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options that name the list."""
    group = parser.getgroup("listed outcomes")
    group.addoption("--listed", help="the list, a TOML file")
    group.addoption("--listed-broker", default="disheap", help="the broker under test")
    group.addoption("--listed-backend", default="redis", help="the result backend under test")


def pytest_configure(config: pytest.Config) -> None:
    """Adds the plugin when a list is named."""
    path = config.getoption("--listed")
    if path:
        text = Path(path).read_text()
        broker, backend = config.getoption("--listed-broker"), config.getoption("--listed-backend")
        config.pluginmanager.register(ListedOutcomes(read_list(text, broker, backend)))
