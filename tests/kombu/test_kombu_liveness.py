"""Whose tasks come back, and when: a worker that is dead and one that is busy (docs/explanation/sessions.md)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from kombu_app import app, append, append_late_when_released
from kombu_cluster import NodeProcess, Worker, wait_until

import disheap.sync

REATTACH_S = 3.0
"""`limits.reattach_timeout_ms` as it comes."""


@pytest.fixture
def node(tmp_path):
    node = NodeProcess(tmp_path / "data")
    yield node
    node.kill()


@pytest.fixture
def run(node, tmp_path):
    workers = []

    def start(name, *options, session_timeout_ms=60_000):
        url = f"{node.url}?session_timeout_ms={session_timeout_ms}&label={name}"
        worker = Worker(url, tmp_path / f"{name}.log", "-n", f"{name}@here", "-P", "solo", *options)
        workers.append(worker)
        worker.wait_ready()
        return worker

    yield start
    for worker in workers:
        if not worker.ended:
            worker.kill()


def publish(node, task, path, text):
    with app.connection_for_write(node.url) as connection:
        task.apply_async((str(path), text), connection=connection)


def sessions(node, label):
    with disheap.sync.connect(node.url, observer=True) as client:
        return client.driver.admin({"op": "sessions", "label": label})["sessions"]


def test_the_task_of_a_killed_worker_runs_on_another_within_seconds(node, run, tmp_path):
    trace, begun = tmp_path / "trace", Path(f"{tmp_path / 'trace'}.held")
    dying = run("dying")
    publish(node, append_late_when_released, trace, "held")
    wait_until(begun.exists, "the task is under way")
    heir = run("heir")
    begun.unlink()
    dying.kill()
    wait_until(begun.exists, "the other worker has it, long before the session timeout", timeout_s=5 * REATTACH_S)
    Path(f"{trace}.go").touch()
    wait_until(trace.exists, "it ran to its end")
    assert heir.stop() == 0
    assert trace.read_text().split() == ["held"]
    assert sessions(node, "dying") == []


@pytest.mark.proof
def test_a_worker_whose_loop_is_busy_keeps_its_session_and_its_tasks_run_once(node, run, tmp_path):
    """Stopped by a signal, it says as little as one that computes without a pause. Its kernel goes on answering."""
    trace, begun = tmp_path / "trace", Path(f"{tmp_path / 'trace'}.held")
    busy, pid_of = run("busy", session_timeout_ms=30_000), lambda worker: worker._process.pid
    publish(node, append_late_when_released, trace, "held")
    publish(node, append, trace, "waits")
    wait_until(begun.exists, "the task is under way")
    other = run("other")
    os.kill(pid_of(busy), signal.SIGSTOP)
    begun.unlink()
    wait_until(
        lambda: min(row["silent_ms"] for row in sessions(node, "busy")) > 2000 * REATTACH_S,
        "it says nothing for longer than a dead one would have",
    )
    assert not begun.exists(), "nobody else was given the task"
    os.kill(pid_of(busy), signal.SIGCONT)
    Path(f"{trace}.go").touch()
    wait_until(lambda: trace.exists() and len(trace.read_text().split()) >= 2, "both tasks ran")
    assert [other.stop(), busy.stop()] == [0, 0]
    assert sorted(trace.read_text().split()) == ["held", "waits"]
    assert "Connection to broker lost" not in busy.log_text()
