"""The comparison with other brokers: its figures, its page, and a short run with each broker that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.peers import __main__ as command
from tests.benchmarks.peers import brokers, processes, report
from tests.benchmarks.peers.figures import TARGETS, WORKLOADS, Figures, Target
from tests.benchmarks.peers.settings import BROKERS, BY_NAME

ROOT = Path(__file__).parents[2]
OURS, THEIRS = ("publish", "disheap-1"), ("publish", "redis")


@pytest.fixture
def figures() -> Figures:
    figures = Figures()
    for ours, theirs in ((100.0, 40.0), (10.0, 50.0), (900.0, 300.0)):
        figures.add(*OURS, ours)
        figures.add(*THEIRS, theirs)
    return figures


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds(figures: Figures) -> None:
    assert figures.ratio(OURS, THEIRS) == 2.5, "and not 100 / 50, the ratio of the medians"
    assert figures.ratio(THEIRS, OURS) == 0.4
    assert figures.median(*OURS) == 100.0 and figures.spread(*OURS) == (10.0, 900.0)
    assert figures.median("noop", "redis") is None and figures.ratio(OURS, ("noop", "redis")) is None


def test_a_ratio_to_nothing_is_none(figures: Figures) -> None:
    figures.add("idle-cpu", "disheap-1", 1.0)
    figures.add("idle-cpu", "redis", 0.0)
    assert figures.ratio(("idle-cpu", "disheap-1"), ("idle-cpu", "redis")) is None


@pytest.mark.parametrize(("ratio", "most", "met"), [(2.0, False, True), (1.9, False, False), (2.1, True, False)])
def test_a_target_says_at_least_or_at_most(ratio: float, most: bool, met: bool) -> None:
    assert report.is_met(Target(OURS, THEIRS, 2.0, most), ratio) is met


def test_each_target_and_each_workload_names_what_is_measured() -> None:
    measured = {(workload.name, setting) for workload in WORKLOADS for setting in workload.settings}
    assert {setting for _, setting in measured} <= set(BY_NAME)
    assert {side for target in TARGETS for side in (target.ours, target.theirs)} <= measured


def test_the_page_has_figures_verdicts_and_what_a_confirmation_is_worth(figures: Figures) -> None:
    figures.add("idle-written", "disheap-1", 4096.0)
    figures.add("pipelined", "disheap-1 window", 1500.0)
    counts = {"low": "100,000", "urgent": 100, "idle": 30.0, "rounds": 3, "load": 0.1}
    page = report.page(figures, "the command", counts)
    assert "| kombu: publish, one by one | disheap-1 | 100 messages/s | 10 | 900 |" in page
    assert "| kombu: publish, not waiting | disheap-1 window | redis | 37.50 | at least 15 | met |" in page
    assert "| 4096 bytes | 0 bytes | **missed** |" in page
    assert "| redis | in memory; a snapshot of all follows after minutes |" in page and "`the command`" in page
    assert "rabbitmq quorum" not in page, "what was not measured is not on the page"


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(brokers, "RABBITMQ", "/nowhere")
    monkeypatch.setitem(brokers.NEEDS, "rabbitmq", brokers.Needs("/nowhere", "rabbitmq-server", "amqp"))
    monkeypatch.setitem(brokers.NEEDS, "redis", brokers.Needs("/nowhere", "redis-server", "no_such_module"))
    assert command.main(["--broker", "rabbitmq", "--broker", "redis"]) == 2
    said = capsys.readouterr().err
    assert "apt-get install rabbitmq-server redis-server" in said and "pip install no_such_module" in said
    assert brokers.is_installed("disheap-3")


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "-1"], ["--only", "speed"], ["--broker", "x"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.parse(arguments)
    assert caught.value.code == 2


def test_what_processes_use_counts_their_children_too() -> None:
    busy = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True)\nimport sys; sys.stdin.read()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(processes.processes((parent.pid,))) == 2
        assert processes.cpu_s((parent.pid,)) > 0.09
        parent.communicate()
    assert processes.written_bytes((os.getpid(),)) >= 0


@pytest.mark.parametrize("broker", [name for name in BROKERS if brokers.is_installed(name)])
def test_a_short_run_writes_the_page_and_leaves_nothing_behind(broker: str, tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    (tmp_path / "temporary").mkdir()
    options = ["--rounds", "1", "--seconds", "0.1", "--low", "200", "--urgent", "3", "--idle-seconds", "0.5"]
    output = tmp_path / "output"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.peers", *options, "--broker", broker, "--output", str(output)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = {(one["workload"], one["broker"]) for one in json.loads((output / "samples.json").read_text())}
    assert measured == {
        (workload.name, setting)
        for workload in WORKLOADS
        for setting in workload.settings
        if BY_NAME[setting].broker == broker
    }
    assert (output / "index.md").read_text().startswith("# disheap beside")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert _of_this_run(str(tmp_path)) == []


def _of_this_run(directory: str) -> list[str]:
    """The processes whose command or environment names the directory. One that was killed just now may show."""
    deadline = time.monotonic() + 5
    while (found := _naming(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _naming(directory: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                texts = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if directory.encode() in texts:
                found.append((entry / "cmdline").read_text())
    return found
