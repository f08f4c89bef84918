"""The conformance suites catch each wrong plugin, in the test that is meant for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest

from tests.wrong_plugins.selection import meant

pytestmark = pytest.mark.proof
ROOT = Path(__file__).parents[2]
RUN_S = 100
KINDS = ("machine", "codec", "transport", "storage", "service")
RIGHT = {"machine": "board", "codec": "seal", "transport": "wire", "service": "desk"}
"""What the wrong ones are made from. Those of storages are made from `file`, over which the suites run anyway."""
OPTIONS = {"transport": ["--disheap-wait", "0.5"]}
"""For wrong plugins alone: what they lose need not be waited for."""
ALWAYS = {"storage": ["--disheap-codec", "none"]}
AT_ONCE = 8
"""Wrong plugins in one run. A process for each would take minutes, one for all more than `RUN_S` on a busy machine."""
SUITES = {kind: [f"test_{kind}"] for kind in KINDS} | {"storage": ["test_storage", "test_storage_faults"]}


def _run(kind: str, names: list[str], options: list[str]) -> Iterator[tuple[str, str, bool]]:
    with TemporaryDirectory() as place:
        about = Path(place) / "disheap_wrong-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Name: disheap-wrong\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[disheap]\nwrong = tests.wrong_plugins.hooks\n")
        report = Path(place) / "report.xml"
        chosen = [word for name in names for word in (f"--disheap-{kind}", name)]
        plugins = ["-p", "disheap.testing.fixtures", "-p", "tests.wrong_plugins.selection", "-p", "no:cacheprovider"]
        suite = ["--pyargs", *(f"disheap.testing.conformance.{module}" for module in SUITES[kind])]
        command = [sys.executable, "-m", "pytest", "-q", "--tb=line", f"--junitxml={report}"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "CI", "BUILD_NUMBER"))}
        path = os.pathsep.join([place, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [*command, *plugins, *suite, *chosen, *ALWAYS.get(kind, []), *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=place,
            env=kept | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            timeout=RUN_S,
        )
        assert done.returncode in (0, 1), done.stdout[-4000:] + done.stderr[-2000:]
        for case in ElementTree.parse(report).iter("testcase"):
            test, _, parameters = case.attrib["name"].rstrip("]").partition("[")
            name = next(name for name in sorted(names, key=len, reverse=True) if name in parameters.split("-"))
            yield name, test, case.find("failure") is None and case.find("error") is None


def _runs() -> Iterator[tuple[str, int]]:
    for kind in KINDS:
        for first in range(0, len(meant(kind)), AT_ONCE):
            yield kind, first


@pytest.mark.parametrize(("kind", "first"), list(_runs()))
def test_the_suite_fails_each_wrong_plugin_in_the_test_that_is_meant_for_it(kind: str, first: int) -> None:
    expected = dict(list(meant(kind).items())[first : first + AT_ONCE])
    failed = {(name, test) for name, test, passed in _run(kind, [*expected], OPTIONS.get(kind, [])) if not passed}
    assert [pair for pair in expected.items() if pair not in failed] == []


@pytest.mark.parametrize("kind", RIGHT)
def test_the_suite_passes_the_plugin_that_the_wrong_ones_are_made_from(kind: str) -> None:
    outcomes = list(_run(kind, [RIGHT[kind]], []))
    assert len(outcomes) > 20
    assert [test for _, test, passed in outcomes if not passed] == []
