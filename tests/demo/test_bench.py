"""`disheap bench`, as it is typed, for moments. The figures are the machine's; that they add up is ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result

import disheap.sync
from disheap.cli.bench.backlog import Depth, depths
from disheap.cli.bench.command import WORKLOADS, bench
from disheap.cli.processes.local_cluster import local_cluster
from disheap.cli.terminal.options import Invocation
from disheap.errors import ConfigError, PayloadTooLarge

UNDER_WAY = {"enqueue": 100, "pop": 256, "round-trip": 1, "kombu-publish": 1, "kombu-consume": 64}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local_cluster(1, prefix="disheap-test-bench-") as cluster:
        yield cluster.url


def invoke(*arguments: str, environment_url: str | None = None) -> Result:
    return CliRunner().invoke(
        bench,
        ["--seconds", "0.3", *arguments],
        obj=Invocation(environment_url=environment_url),
        env={"DISHEAP_URL": environment_url},
        catch_exceptions=False,
    )


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_a_workload_is_measured_on_a_given_cluster_and_its_topic_is_gone(url: str, workload: str) -> None:
    done = invoke("--url", url, "--workload", workload, "--payload", "100", "--window", "100", "--json")
    result = json.loads(done.output)
    assert result["workload"] == workload
    assert (result["nodes"], result["payload_bytes"], result["window"]) == (1, 100, UNDER_WAY[workload])
    assert result["operations"] > 0
    assert result["operations_per_second"] == pytest.approx(result["operations"] / result["seconds"], rel=0.01)
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"]
    assert result["cores"] >= 1
    assert {"python", "uvloop"} <= set(result)
    with disheap.sync.connect(url) as client:
        assert client.topics("disheap-bench-") == []


@pytest.mark.parametrize("workload", ["enqueue", "pop", "round-trip"])
def test_payloads_may_be_as_large_as_the_nodes_take(url: str, workload: str) -> None:
    """They stopped at 1 MiB. A window of 2,000 of the largest would be 8 GB in this process."""
    done = invoke("--url", url, "--workload", workload, "--payload", str(4 << 20), "--json", "--seconds", "3")
    result = json.loads(done.output)
    assert (result["payload_bytes"], result["operations"] > 0) == (4 << 20, True)
    if workload == "enqueue":
        assert result["window"] == 16


def test_a_payload_over_the_nodes_limit_is_refused_before_it_is_measured(url: str) -> None:
    with pytest.raises(PayloadTooLarge, match="8388608"):
        invoke("--url", url, "--payload", str((8 << 20) + 1))


def test_all_workloads_make_a_table_under_a_line_about_the_machine(url: str) -> None:
    lines = invoke("--url", url).output.splitlines()
    assert "cores, Python" in lines[0]
    assert [line.split()[0] for line in lines[3:]] == list(WORKLOADS)


def test_without_kombu_the_other_workloads_are_measured_and_its_own_are_named(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disheap.cli.bench.command._version", lambda package: "")
    done = invoke("--url", url)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[3:]] == ["enqueue", "pop", "round-trip"]
    assert "kombu is not installed (pip install kombu): kombu-publish, kombu-consume left out" in done.stderr
    with pytest.raises(ConfigError, match="workload kombu-publish needs kombu, which is not installed"):
        invoke("--url", "disheap://127.0.0.1:1", "--workload", "kombu-publish")


def test_a_cluster_named_by_the_environment_alone_is_not_loaded(url: str) -> None:
    """Nobody should measure a cluster that does real work because a variable was set."""
    with disheap.sync.connect(url) as client:
        before = client.status()["last_index"]
    done = invoke("--workload", "round-trip", "--json", environment_url=url)
    assert json.loads(done.output)["operations"] > 0
    with disheap.sync.connect(url, observer=True) as client:
        assert client.status()["last_index"] <= before + 4  # that client's own session


def test_a_named_cluster_is_measured_though_the_environment_names_it_too(url: str) -> None:
    with disheap.sync.connect(url) as client:
        before = client.status()["last_index"]
    done = invoke("--url", url, "--workload", "round-trip", "--json", environment_url=url)
    assert json.loads(done.output)["operations"] > 0
    with disheap.sync.connect(url, observer=True) as client:
        assert client.status()["last_index"] > before + 4


@pytest.mark.timeout(120)
def test_three_nodes_are_started_measured_and_gone() -> None:
    words = ["bench", "--workload", "enqueue", "--nodes", "3", "--seconds", "0.3", "--json"]
    done = subprocess.run([sys.executable, "-m", "disheap", *words], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["nodes"], result["window"], result["payload_bytes"]) == (3, 2000, 256)


def test_a_backlog_is_measured_at_each_depth_on_a_given_cluster(url: str) -> None:
    done = invoke("--url", url, "--backlog", "15000", "--payload", "100", "--json")
    shallow, deep = (json.loads(line) for line in done.output.splitlines())
    assert (shallow["workload"], shallow["backlog"], deep["backlog"]) == ("backlog", 10_000, 15_000)
    for depth in (shallow, deep):
        assert (depth["nodes"], depth["payload_bytes"]) == (1, 100)
        assert 0 < depth["p50_us"] <= depth["p99_us"] <= depth["longest_us"]
        assert min(depth["fill_per_second"], depth["enqueue_per_second"], depth["pop_per_second"]) > 0
        assert depth["resident_bytes"] > depth["backlog"] * 100
    with disheap.sync.connect(url) as client:
        assert client.topics("disheap-bench-") == []


def test_nodes_of_a_backlog_are_killed_and_joined_by_one_more() -> None:
    *_, depth, recovery = (json.loads(line) for line in invoke("--backlog", "2000", "--json").output.splitlines())
    assert (depth["backlog"], recovery["workload"], recovery["backlog"]) == (2000, "recovery", 2000)
    assert min(recovery["restart_s"], recovery["join_s"]) > 0
    assert 0 < recovery["p50_us"] <= recovery["p99_us"] <= recovery["longest_us"]


def test_a_backlog_makes_a_table_under_a_line_about_the_machine(url: str) -> None:
    lines = invoke("--url", url, "--backlog", "100").output.splitlines()
    assert "cores, Python" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["waiting", "100"]


@pytest.mark.parametrize(
    ("backlog", "measured"),
    [
        (500, [500]),
        (10_000, [10_000]),
        (10_001, [10_000, 10_001]),
        (2_000_000, [10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000]),
    ],
)
def test_a_backlog_is_measured_twice_in_each_power_of_ten(backlog: int, measured: list[int]) -> None:
    assert depths(backlog) == measured


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--chart", "x.svg"), "add --backlog COUNT"),
        (("--backlog", "10", "--workload", "pop"), "leave out --workload"),
        (("--backlog", "10", "--chart", "x.txt"), "call it FILE.svg"),
        (("--backlog", "10", "--chart", "x.svg"), "pip install matplotlib"),
    ],
)
def test_what_cannot_be_measured_or_drawn_is_said_before(
    url: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("disheap.cli.bench.command._version", lambda package: "")
    with pytest.raises(ConfigError, match=said):
        invoke("--url", url, *arguments)


def test_a_chart_shows_latency_and_rates_against_the_backlog(tmp_path: Path) -> None:
    """A stand-in for matplotlib, which is not installed here, notes what is drawn."""
    matplotlib, pyplot = mock.MagicMock(), mock.MagicMock()
    matplotlib.pyplot = pyplot
    figure, latency, rate = mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    pyplot.subplots.return_value = figure, (latency, rate)
    with mock.patch.dict(sys.modules, {"matplotlib": matplotlib, "matplotlib.pyplot": pyplot}):
        from disheap.cli.bench.chart import draw

        draw([Depth("backlog", 1, 10, 100, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7, 8)], tmp_path / "x.svg")
    drawn = {call.kwargs["label"]: call.args for axes in (latency, rate) for call in axes.plot.call_args_list}
    assert drawn == {
        "p50": ([10], [4.0]),
        "p99": ([10], [5.0]),
        "longest": ([10], [6.0]),
        "enqueued": ([10], [2.0]),
        "popped and acknowledged": ([10], [3.0]),
    }
    figure.savefig.assert_called_once_with(tmp_path / "x.svg")
