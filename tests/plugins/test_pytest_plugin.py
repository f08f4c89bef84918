"""The pytest plugin and the rule that a skip is a failure where everything is required, each seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.proof

RUN_S = 60
CONFTEST = Path(__file__).parents[1] / "conftest.py"

USES_FACTORIES = """
    def test_codec(codec_factory, codec_name):
        assert codec_factory().name == codec_name

    def test_machine_name(machine_name):
        assert machine_name
"""

SKIPS = """
    import pytest

    def test_skipped():
        pytest.skip("not on this machine")

    @pytest.mark.xfail
    def test_known_to_fail():
        assert False

    @pytest.mark.parametrize("nothing", [])
    def test_over_nothing(nothing):
        pass
"""


ALONE = ("-p", "disheap.testing.fixtures")
"""No other plugin of pytest: half a second a run instead of three. Some tests here leave it to find ours by itself."""


def run(
    directory: Path, source: str, *options: str, plugins: tuple[str, ...] = ALONE, **environ: str
) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(dedent(source))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "DISHEAP_"))}
    if plugins:
        clean["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider", *plugins]
    return subprocess.run(
        [*command, "test_it.py", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=clean | environ,
        timeout=RUN_S,
    )


OTHERS = """
    import sys

    def test_nothing_of_disheap_is_there(pytestconfig):
        assert [name for name in sys.modules if name.startswith("disheap.testing")] == EXPECTED
        assert not hasattr(pytestconfig.option, "disheap_codec")
"""


def test_a_project_that_asks_for_nothing_gets_nothing(tmp_path: Path) -> None:
    expected = ["disheap.testing", "disheap.testing.pytest_plugin"]
    done = run(tmp_path, OTHERS.replace("EXPECTED", repr(expected)), plugins=())
    assert done.returncode == 0, done.stdout


WHAT_THE_ENTRY_POINT_LOADS = """
import sys
before = set(sys.modules)
import disheap.testing.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""


def test_the_entry_point_imports_nothing_but_the_packages_around_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHAT_THE_ENTRY_POINT_LOADS], capture_output=True, text=True, check=True, timeout=RUN_S
    )
    loaded = done.stdout.split()
    ours = ["disheap", "disheap.announce", "disheap.testing", "disheap.testing.pytest_plugin", "disheap.version"]
    assert [name for name in loaded if name.startswith("disheap")] == ours
    assert [name for name in loaded if name.partition(".")[0] in ("pytest", "asyncio", "msgspec", "pluggy")] == []


def test_an_option_is_enough_also_for_the_workers_of_xdist(tmp_path: Path) -> None:
    done = run(tmp_path, USES_FACTORIES, "-n", "1", "--disheap-codec", "none", plugins=())
    assert done.returncode == 0, done.stdout
    assert "PASSED test_it.py::test_codec[none]" in done.stdout
    assert "test_codec[zstd]" not in done.stdout


def test_without_options_a_test_runs_over_every_plugin_of_its_kind(tmp_path: Path) -> None:
    done = run(tmp_path, USES_FACTORIES)
    assert done.returncode == 0, done.stdout
    for name in ("test_codec[none]", "test_codec[zstd]", "test_machine_name[heap]"):
        assert f"{name} PASSED" in done.stdout


def test_an_option_chooses_the_plugins_and_their_settings(tmp_path: Path) -> None:
    done = run(tmp_path, USES_FACTORIES, "--disheap-codec", "zstd", "--disheap-set", "codec.zstd.level=2")
    assert done.returncode == 0, done.stdout
    assert "test_codec[zstd] PASSED" in done.stdout
    assert "test_codec[none]" not in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--disheap-codec", "mine"), "there is no codec 'mine'"),
        (("--disheap-set", "codec.zstd.leve=2"), "--disheap-set codec.zstd.leve: unknown setting 'leve'"),
        (("--disheap-set", "codec.zstd.level=two"), "--disheap-set codec.zstd.level: [codec.zstd] level = two"),
        (("--disheap-set", "level=2"), "write KIND.NAME.KEY=VALUE"),
    ],
)
def test_a_wrong_option_fails_with_the_reason(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = run(tmp_path, USES_FACTORIES, *options)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout


def test_an_installed_plugin_that_is_broken_is_a_failing_test(tmp_path: Path) -> None:
    info = tmp_path / "wreck-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wreck\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[disheap]\nwreck = no_such_module\n")
    done = run(tmp_path, USES_FACTORIES, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == 1, done.stdout
    assert "plugin 'wreck' of wreck 1.0 cannot be loaded" in done.stdout
    assert "test_codec[none] PASSED" in done.stdout


def test_a_skip_is_a_failure_where_everything_is_required(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    lenient = run(tmp_path, SKIPS)
    assert lenient.returncode == 0, lenient.stdout
    strict = run(tmp_path, SKIPS, DISHEAP_REQUIRE_ALL="1")
    assert strict.returncode == 1
    assert "skipped, and DISHEAP_REQUIRE_ALL is set" in strict.stdout
    assert "1 failed, 1 xfailed, 1 error" in strict.stdout  # one in its call, one in its setup


def test_a_module_that_is_skipped_whole_is_a_failure_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    source = 'import pytest\npytest.skip("not here", allow_module_level=True)\n'
    assert run(tmp_path, source).returncode == 5  # nothing was collected
    strict = run(tmp_path, source, DISHEAP_REQUIRE_ALL="1")
    assert strict.returncode != 0
    assert "skipped, and DISHEAP_REQUIRE_ALL is set" in strict.stdout
