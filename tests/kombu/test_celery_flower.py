"""Flower, as it is installed from the package index, over disheap."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kombu_app import app, append, append_late_when_released
from kombu_cluster import HERE, NodeProcess, Worker, celery, environment, wait_until

from disheap.cli.processes.local_cluster import free_ports

PATCH = HERE.parents[1] / "contrib" / "flower" / "brokers.patch"
COUNT = """
import asyncio, json, sys
from flower.utils.broker import Broker
broker = Broker(sys.argv[1], http_api=None, broker_options={}, broker_use_ssl=None)
print(json.dumps(asyncio.run(broker.queues(["celery", "none"]))))
"""


@pytest.fixture
def node(tmp_path):
    node = NodeProcess(tmp_path / "data")
    yield node
    node.kill()


class Flower:
    """`celery flower` in a process of its own."""

    def __init__(self, url: str, log: Path) -> None:
        (port,) = free_ports(1)
        self._url, self._log = f"http://127.0.0.1:{port}", log
        options = ("flower", "--address=127.0.0.1", f"--port={port}", "--inspect_timeout=2000")
        variables = environment(url) | {"FLOWER_UNAUTHENTICATED_API": "true"}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*celery(), *options], cwd=HERE, env=variables, stdout=output, stderr=subprocess.STDOUT
            )

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self._url + path, timeout=20) as answer:
            return answer.read().decode()

    def has(self, path: str, text: str) -> bool:
        """Whether a page answers, with this text. False while Flower starts."""
        try:
            return text in self.get(path)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error}: {error.read()!r}\n{self._log.read_text()}") from error
        except OSError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture
def flower(node, tmp_path):
    flower = Flower(node.url, tmp_path / "flower.log")
    yield flower
    flower.stop()


def lengths(flower):
    return json.loads(flower.get("/api/queues/length"))["active_queues"]


def states(flower):
    return {task: known["state"] for task, known in json.loads(flower.get("/api/tasks")).items()}


def row(ready, unacknowledged, consumers):
    """What is said of the queue with four messages."""
    counts = {"messages": 4, "messages_ready": ready, "messages_unacknowledged": unacknowledged}
    return {"name": "celery", "consumers": consumers} | counts


def publish_four(node, trace):
    """One is late, and three are for now."""
    with app.connection_for_write(node.url) as connection:
        for name in ("a", "b", "c"):
            append_late_when_released.apply_async((str(trace), name), connection=connection, task_id=f"id-{name}")
        append.apply_async((str(trace), "d"), connection=connection, countdown=3600)


def test_flower_shows_the_workers_the_tasks_and_the_counts_of_queues(node, flower, tmp_path):
    trace = tmp_path / "trace"
    worker = Worker(node.url, tmp_path / "worker.log", "-n", "w1@here", "-E")
    try:
        worker.wait_ready()
        wait_until(lambda: flower.has("/api/workers?refresh=1", "w1@here"), "Flower sees the worker")
        publish_four(node, trace)
        wait_until((tmp_path / "trace.a").exists, "the first task is under way")
        wait_until(lambda: lengths(flower)[0]["messages_ready"] == 2, "the worker has one, as its prefetch count is 1")
        assert lengths(flower) == [row(ready=2, unacknowledged=1, consumers=1)]
        page = flower.get("/broker")
        assert "celery" in page and "No queue data" not in page
        wait_until(lambda: flower.has("/api/tasks", "id-a"), "Flower hears of the task")
        assert "w1@here" in flower.get("/workers")
        assert "Tasks" in flower.get("/tasks")
        Path(f"{trace}.go").touch()
        wait_until(lambda: states(flower).get("id-c") == "SUCCESS", "and of its end")
        assert worker.stop() == 0
    finally:
        if not worker.ended:
            worker.kill()


def test_without_workers_the_application_says_which_queues_there_are(node, flower, tmp_path):
    wait_until(lambda: flower.has("/api/queues/length", "active_queues"), "Flower answers")
    assert lengths(flower) == [], "nobody has declared it"
    publish_four(node, tmp_path / "trace")
    assert lengths(flower) == [row(ready=3, unacknowledged=0, consumers=0)]


def test_the_patch_for_flower_applies_and_finds_the_broker(node, tmp_path):
    publish_four(node, tmp_path / "trace")
    found = importlib.util.find_spec("flower")
    assert found is not None and found.origin is not None
    shutil.copytree(Path(found.origin).parent, tmp_path / "patched" / "flower")
    subprocess.run(["patch", "-p1", "-i", str(PATCH)], cwd=tmp_path / "patched", check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, node.url],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "patched")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [row(ready=3, unacknowledged=0, consumers=0)]
