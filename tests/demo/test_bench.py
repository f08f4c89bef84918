"""`disheap bench`, as it is typed, for moments. The figures are the machine's; that they add up is ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

import disheap.sync
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
