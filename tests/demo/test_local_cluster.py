"""A cluster of processes on this machine: it starts, is killed, comes back, and is gone."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import disheap.sync
from disheap.cli.processes import local_cluster as subject
from disheap.cli.processes.interrupts import Interrupts
from disheap.cli.processes.local_cluster import ClusterFailed, LocalCluster, free_ports, local_cluster
from disheap.config.node_config import load


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    with Interrupts() as found:
        yield found


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_ports_are_free_and_different_and_no_ephemeral_ones() -> None:
    first = free_ports(6, random.Random(1))
    assert len(set(first)) == 6
    assert all(port < 32_768 for port in first)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[0]))
        assert first[0] not in free_ports(6, random.Random(1))


def test_settings_of_other_nodes_do_not_reach_children(
    own_tmp: Path, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ("DISHEAP_STORAGE", "NODE_ID", "RAFT_BIND", "RAFT_JOIN_ADDRESSES", "BOOTSTRAP")
    for name in foreign:
        monkeypatch.setenv(name, "x")
    with LocalCluster(1, interrupts, serve=(sys.executable, "-c", "")) as cluster:
        found = cluster.environment({"DISHEAP_EXAMPLE_RECORD": "r"})
        assert found["TMPDIR"] == str(cluster.directory)
    assert not set(foreign) & set(found)
    assert found["DISHEAP_EXAMPLE_RECORD"] == "r"
    assert found["PATH"] == os.environ["PATH"]


def test_each_node_gets_a_file_with_durable_storage_and_all_members(own_tmp: Path, interrupts: Interrupts) -> None:
    with LocalCluster(3, interrupts, serve=(sys.executable, "-c", "")) as cluster:
        for name, place in cluster.places.items():
            config = load(place.directory / "disheap.toml", {}, {})
            assert (config.name, config.storage, config.codec, config.machine) == (name, "file", "zstd", "heap")
            assert [member.name for member in config.members] == ["n1", "n2", "n3"]
            assert config.client_listen == place.client


def test_a_killed_node_comes_back_with_its_data_and_everything_goes_at_the_end(
    own_tmp: Path, interrupts: Interrupts
) -> None:
    with LocalCluster(1, interrupts, prefix="x-") as cluster:
        assert cluster.wait_ready() == "n1"
        with disheap.sync.connect(cluster.url) as client:
            client.create_topic("t").enqueue(b"kept")
            cluster.kill("n1")
            assert cluster.statuses() == {}
            cluster.start("n1")
            assert [found.payload for found in client.topic("t").peek()] == [b"kept"]
        assert cluster.leader() == "n1"
        assert cluster.state_hashes()["n1"][0] > 0
        assert cluster.disk_bytes() > 0
        assert list(own_tmp.glob("x-*")) == [cluster.directory]
    assert list(own_tmp.iterdir()) == []


def test_a_node_that_ends_at_once_is_reported_with_its_log(own_tmp: Path, interrupts: Interrupts) -> None:
    ends = (sys.executable, "-c", "print('no such thing'); raise SystemExit(3)")
    said = "n1 ended with exit code 3; it said: no such thing"
    with pytest.raises(ClusterFailed, match=said), LocalCluster(1, interrupts, serve=ends) as cluster:
        cluster.wait_ready()
    assert list(own_tmp.iterdir()) == []


def test_the_logs_of_a_cluster_that_does_not_start_are_shown(own_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = (sys.executable, "-c", "print('first line'); print('no such thing'); raise SystemExit(3)")
    with pytest.raises(ClusterFailed), local_cluster(1, prefix="x-", serve=ends):
        raise AssertionError("entered without a node")
    assert "--- n1\nfirst line\nno such thing" in capsys.readouterr().err


def test_a_node_that_never_answers_is_given_up_with_its_log(own_tmp: Path, interrupts: Interrupts) -> None:
    silent = (sys.executable, "-c", "import signal; signal.pause()")
    with (
        LocalCluster(1, interrupts, serve=silent) as cluster,
        pytest.raises(ClusterFailed, match="agreed on no leader within"),
    ):
        cluster.wait_ready(within_s=0.01)


def test_a_directory_is_not_left_when_a_node_cannot_be_started(own_tmp: Path, interrupts: Interrupts) -> None:
    with pytest.raises(FileNotFoundError), LocalCluster(1, interrupts, serve=(str(own_tmp / "missing"),)):
        raise AssertionError("entered without a node")
    assert list(own_tmp.iterdir()) == []


def test_the_serve_command_is_this_interpreter_s() -> None:
    assert subject.SERVE[0] == sys.executable
