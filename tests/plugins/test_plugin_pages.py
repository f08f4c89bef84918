"""The plugins that the README and the docs show, taken from these pages as they stand, keep their contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from disheap import interfaces

ROOT = Path(__file__).parents[2]
CONFORMANCE_S = 100
BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(page: str) -> dict[str, str]:
    """The files of a page: blocks that begin with their name."""
    return dict(BLOCK.findall((ROOT / page).read_text()))


def install(files: dict[str, str], site: Path) -> None:
    """What pip would do: the package, and beside it the entry points of its `pyproject.toml`."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["disheap"].items()
    (about / "entry_points.txt").write_text("[disheap]\n" + "".join(f"{name} = {where}\n" for name, where in points))
    for name, text in files.items():
        if name.endswith(".py"):
            (site / name).parent.mkdir(exist_ok=True)
            (site / name).write_text(text)


def run(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """From an empty directory, as the plugin's own author would: no configuration of this project is in reach."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=site.parent, env=environment, timeout=CONFORMANCE_S
    )


@pytest.mark.proof
@pytest.mark.parametrize(
    ("page", "name"), [("README.md", "rot13"), ("docs/how-to/write-a-plugin.md", "mask")], ids=["rot13", "mask"]
)
def test_a_plugin_of_the_pages_is_listed_and_passes_conformance(tmp_path: Path, page: str, name: str) -> None:
    site = tmp_path / "site"
    install(shown(page), site)
    listed = run(site, "disheap.cli.main", "plugins")
    assert f"disheap-{name}" in listed.stdout, listed.stderr
    suite = ["pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "disheap.testing.conformance.test_codec"]
    passed = run(site, *suite, "--disheap-codec", name, "--disheap-codec", f"zstd+{name}")
    assert passed.returncode == 0, passed.stdout[-4000:] + passed.stderr[-1000:]
    assert " passed" in passed.stdout


@pytest.mark.proof
def test_the_machine_of_the_page_passes_conformance(tmp_path: Path) -> None:
    site, files = tmp_path / "site", shown("docs/how-to/write-a-plugin.md")
    files["pyproject.toml"] = files["pyproject.toml"].replace("mask", "tally")
    install(files, site)
    suite = ["pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "disheap.testing.conformance.test_machine"]
    passed = run(site, *suite, "--disheap-machine", "tally")
    assert passed.returncode == 0, passed.stdout[-4000:] + passed.stderr[-1000:]
    assert " passed" in passed.stdout
    said = run(site, "try_tally")
    assert sorted(said.stdout.splitlines()) == [  # what is heard, and what is returned, come in either order
        "a name is 1 to 40 letters and digits",
        "b'2'",
        "b'apples 1'",
        "b'apples 2'",
        "heard b'apples 1'",
        "heard b'apples 2'",
    ], said.stderr
    assert list(tmp_path.iterdir()) == [site]


def test_every_optional_power_is_told_of() -> None:
    page = (ROOT / "docs/how-to/write-a-plugin.md").read_text()
    powers = [name for name, power in vars(interfaces).items() if getattr(power, "_is_runtime_protocol", False)]
    assert len(powers) >= 7
    assert [name for name in powers if f"| `{name}` |" not in page] == []


def test_the_readmes_plugin_has_about_twenty_lines() -> None:
    lines = [line for line in shown("README.md")["disheap_rot13/__init__.py"].splitlines() if line.strip()]
    assert len(lines) <= 20
