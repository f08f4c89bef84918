"""What Celery's command line asks of workers, and how workers are started by it."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
from celery import Celery
from kombu_app import app, append_late_when_released, append_when_released
from kombu_cluster import HERE, NodeProcess, Worker, celery, command, environment, wait_until

import disheap.sync

TO_W1 = ("--destination", "w1@here", "--timeout", "10")  # ends with the first answer
INSPECTED = (
    "active", "scheduled", "reserved", "revoked", "registered", "stats", "ping", "conf", "report", "active_queues",
    "clock",
)  # fmt: skip
CONTROLLED = (
    ("time_limit", {"task_name": "kombu_app.append", "soft": 5, "hard": 10}, "time limits set successfully"),
    ("rate_limit", {"task_name": "kombu_app.append", "rate_limit": "9/s"}, "new rate limit set successfully"),
    ("add_consumer", {"queue": "extra"}, "add consumer extra"),
    ("cancel_consumer", {"queue": "extra"}, "no longer consuming from extra"),
    ("pool_grow", {"n": 1}, "pool will grow"),
    ("pool_shrink", {"n": 1}, "pool will shrink"),
    ("enable_events", {}, "task events enabled"),
    ("disable_events", {}, "task events disabled"),
)


@pytest.fixture
def node(tmp_path):
    node = NodeProcess(tmp_path / "data")
    yield node
    node.kill()


@pytest.fixture
def run(node, tmp_path):
    workers = []

    def start(name, *options):
        workers.append(Worker(node.url, tmp_path / f"{name}.log", "-n", f"{name}@here", *options))
        workers[-1].wait_ready()
        return workers[-1]

    yield start
    for worker in workers:
        if not worker.ended:
            worker.kill()


@pytest.fixture
def asking(node):
    """The application of whoever asks: remote control takes its connections from the pool of one."""
    return Celery("asking", broker=node.url, set_as_current=False)


def publish(node, task, *arguments, **options):
    with app.connection_for_write(node.url) as connection:
        return task.apply_async(arguments, connection=connection, **options)


def topics(node):
    with disheap.sync.connect(node.url, observer=True) as client:
        return sorted(info.topic for info in client.topics())


def test_a_worker_answers_whatever_it_is_asked(node, run, tmp_path, asking):
    worker = run("w1", "-E")
    publish(node, append_late_when_released, str(tmp_path / "trace"), "a", task_id="id-a")
    wait_until((tmp_path / "trace.a").exists, "a task is under way")
    asked = asking.control.inspect(destination=["w1@here"], limit=1, timeout=20)
    for name in INSPECTED:
        (answer,) = getattr(asked, name)().values()
        assert "error" not in str(answer)[:20], (name, answer)
    assert asked.query_task("id-a")["w1@here"]["id-a"][0] == "active"
    assert asked.active()["w1@here"][0]["id"] == "id-a"
    asking.close()
    (tmp_path / "trace.go").touch()
    assert worker.stop() == 0
    assert topics(node) == ["celery"]


def test_a_worker_does_what_it_is_told(node, run, tmp_path, asking):
    worker = run("w1")
    options = {"destination": ["w1@here"], "reply": True, "limit": 1, "timeout": 20}
    for name, arguments, answer in CONTROLLED:
        (said,) = asking.control.broadcast(name, arguments, **options)
        assert answer in str(said["w1@here"]["ok"]), (name, said)
    asking.close()
    assert "extra" not in command(node.url, "inspect", *TO_W1, "active_queues")
    trace = str(tmp_path / "trace")
    publish(node, append_when_released, trace, "endless", task_id="id-endless")
    wait_until((tmp_path / "trace.endless").exists, "a task is under way")
    said = command(node.url, "control", *TO_W1, "terminate", "SIGKILL", "id-endless")
    wait_until(
        lambda: "Terminating id-endless" in worker.log_text(), f"it is ended: {said}{worker.log_text()[-900:]}", 10
    )
    command(node.url, "control", "shutdown")
    worker.wait()
    assert "celery" in topics(node)


def test_a_worker_with_an_autoscaled_pool_grows_and_is_told_its_bounds(node, run, tmp_path):
    worker = run("w1", "--autoscale", "3,1")
    for name in "abc":
        publish(node, append_late_when_released, str(tmp_path / "trace"), name)
    wait_until(lambda: all((tmp_path / f"trace.{name}").exists() for name in "abc"), "three run at once")
    assert "autoscale now max=2 min=1" in command(node.url, "control", *TO_W1, "autoscale", "2", "1")
    (tmp_path / "trace.go").touch()
    assert worker.stop() == 0


def test_events_are_dumped_while_somebody_listens(node, run, tmp_path):
    worker = run("w1", "-E")
    with (tmp_path / "events.log").open("wb") as output:
        events = subprocess.Popen(
            [*celery(), "events", "--dump"], cwd=HERE, env=environment(node.url), stdout=output, stderr=output
        )
    try:
        log = tmp_path / "events.log"
        wait_until(lambda: "heartbeat" in log.read_text(), "heartbeats are dumped")
        (tmp_path / "trace.go").touch()
        publish(node, append_when_released, str(tmp_path / "trace"), "a", task_id="id-a")
        wait_until(lambda: re.search(r"id-a.*succeeded|succeeded.*id-a", log.read_text()), "the task is dumped")
    finally:
        events.send_signal(signal.SIGINT)
        events.wait(20)
    assert worker.stop() == 0
    wait_until(lambda: topics(node) == ["celery"], "nothing is left of who listened")


def test_workers_are_started_and_stopped_together(node, tmp_path):
    files = [f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log"]
    names = ("m1@here", "m2@here")
    program = [*celery()[:2], "celery", "multi"]
    options = ["-A", "kombu_app", "-c", "1", "-l", "INFO"]
    variables = environment(node.url)
    subprocess.run([*program, "start", *names, *options, *files], cwd=HERE, env=variables, check=True, timeout=60)
    pids = []
    try:
        wait_until(lambda: command(node.url, "inspect", "ping", "--timeout", "2").count("pong") == 2, "both answer")
        pids = [int((tmp_path / f"{name}.pid").read_text()) for name in ("m1", "m2")]
    finally:
        stop = [*program, "stopwait", *names, "-A", "kombu_app", *files]
        subprocess.run(stop, cwd=HERE, env=variables, check=True, timeout=60)
    assert all(not os.path.exists(f"/proc/{pid}") for pid in pids)  # noqa: PTH110
    wait_until(lambda: topics(node) == ["celery"], "they leave nothing behind")


def test_a_broadcast_reaches_every_worker_once(node, tmp_path):
    """Over `kombu.common.Broadcast`: a queue for each worker, and tasks for all of them."""
    program = tmp_path / "shout.py"
    program.write_text(SHOUT)
    variables = environment(node.url) | {"PYTHONPATH": str(tmp_path), "TRACE": str(tmp_path / "trace")}
    workers = [
        subprocess.Popen(
            [*celery()[:3], "-A", "shout", "worker", "-c", "1", "-l", "INFO", "-n", f"{name}@here"],
            cwd=tmp_path,
            env=variables,
            stdout=(tmp_path / f"{name}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for name in ("b1", "b2")
    ]
    try:
        logs = [tmp_path / f"{name}.log" for name in ("b1", "b2")]
        wait_until(lambda: all(" ready." in log.read_text() for log in logs), "both are ready")
        done = subprocess.run(
            [*celery()[:3], "-A", "shout", "call", "shout.shout"], cwd=tmp_path, env=variables, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        trace = tmp_path / "trace"
        wait_until(lambda: trace.exists() and len(trace.read_text().split()) == 2, "both ran it")
        assert sorted(trace.read_text().split()) == ["b1@here", "b2@here"]
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(30)


SHOUT = """
import json, os
from celery import Celery
from kombu.common import Broadcast
app = Celery("shout", broker=os.environ["BROKER"])
app.conf.task_queues = (Broadcast("shouts"),)
app.conf.task_routes = {"shout.shout": {"queue": "shouts", "exchange": "shouts"}}
app.conf.task_ignore_result = True
@app.task(bind=True, name="shout.shout")
def shout(self):
    with open(os.environ["TRACE"], "a") as file:
        file.write(self.request.hostname + "\\n")
"""
