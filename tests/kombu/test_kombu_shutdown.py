"""A worker that ends gives back what it has not begun, at once and to its old place. What it ran does not run again."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import celery
import pytest
from kombu_app import (
    app,
    append_late,
    append_late_when_released,
    kill_worker,
    note_delivery_when_released,
    poisoned_queue,
)
from kombu_cluster import NodeProcess, Worker, wait_until

import disheap.sync

CELERY = tuple(int(number) for number in celery.__version__.split(".")[:2])
needs_soft_shutdown = pytest.mark.skipif(CELERY < (5, 5), reason="came with Celery 5.5")
AT_ONCE_S = 2.0
PRIORITIES = (9, 0, 5, 0, 5, 1)
IN_ORDER = ["t0", "t2", "t4", "t5", "t1", "t3"]
SESSION_TIMEOUT_MS = 2000


@pytest.fixture
def node(tmp_path):
    node = NodeProcess(tmp_path / "data")
    yield node
    node.kill()


@pytest.fixture
def run(node, tmp_path):
    """Start workers that end with the test. Each takes five tasks ahead."""
    workers = []

    def start(*options, session_timeout_ms=SESSION_TIMEOUT_MS, is_ready=True, **variables):
        url = f"{node.url}?session_timeout_ms={session_timeout_ms}"
        name = f"w{len(workers)}"
        log, prefetch = tmp_path / f"{name}.log", {"PREFETCH": "6"}
        worker = Worker(url, log, "-n", f"{name}@here", *options, **(prefetch | variables))
        workers.append(worker)
        if is_ready:
            worker.wait_ready()
        return worker

    yield start
    for worker in workers:
        if not worker.ended:
            worker.kill()


class Tasks:
    """Six tasks with priorities, and what has become of them."""

    def __init__(self, node: NodeProcess, directory: Path) -> None:
        self._node, self._directory = node, directory
        self.trace = directory / "trace"
        self.trace.touch()

    def publish(self, task=append_late_when_released, *arguments) -> None:
        with app.connection_for_write(self._node.url) as connection:
            for number, priority in enumerate(PRIORITIES):
                task.apply_async(
                    (str(self.trace), f"t{number}", *arguments),
                    task_id=f"t{number}",
                    connection=connection,
                    priority=priority,
                )

    def wait_begun(self, text: str = "t0") -> None:
        wait_until(lambda: (self._directory / f"trace.{text}").exists(), f"{text} is under way")

    def wait_taken_ahead(self) -> None:
        wait_until(lambda: self.counts()[1] >= 5, "others are in the worker's hands")

    def release(self) -> None:
        (self._directory / "trace.go").touch()

    def counts(self) -> tuple[int, int]:
        """How many are ready and leased."""
        with disheap.sync.connect(self._node.url, observer=True) as client:
            stats = client.topic("celery").stats()
        return stats.ready, stats.leased

    def consumers(self) -> int:
        with disheap.sync.connect(self._node.url, observer=True) as client:
            return next(info.consumers for info in client.topics() if info.topic == "celery")

    def waiting(self) -> list[str]:
        """The names of those that wait, the next one first."""
        with disheap.sync.connect(self._node.url, observer=True) as client:
            found = client.topic("celery").peek(20)
        names = [f"t{number}" for number in range(len(PRIORITIES))]
        return [next(name for name in names if f'"{name}"'.encode() in one.payload) for one in found]

    def ran(self) -> list[str]:
        return self.trace.read_text().split()

    def have_run(self, number: int) -> bool:
        return len(self.ran()) >= number

    def wait_all_ran(self) -> None:
        wait_until(lambda: len(set(self.ran())) == len(PRIORITIES), f"all tasks ran: {self.ran()}")


@pytest.fixture
def tasks(node, tmp_path):
    return Tasks(node, tmp_path)


def give_back_counts(tasks, expected):
    wait_until(lambda: tasks.counts() == expected, f"{expected} at once", AT_ONCE_S)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_warm_shutdown_gives_back_what_has_not_begun_at_once(run, tasks, pool):
    worker = run("-P", pool, "-c", "1")
    tasks.publish()
    tasks.wait_begun()
    tasks.wait_taken_ahead()
    os.kill(worker.pid, signal.SIGTERM)
    give_back_counts(tasks, (5, 1))
    assert tasks.waiting() == IN_ORDER[1:]
    assert not worker.ended and tasks.ran() == [], "its task goes on"
    tasks.release()
    assert worker.wait() == 0
    assert tasks.ran() == ["t0"] and tasks.counts() == (5, 0)
    run("-c", "1")
    tasks.wait_all_ran()
    assert tasks.ran() == IN_ORDER


@pytest.mark.parametrize(("name", "variables"), [("SIGQUIT", {}), ("SIGTERM", {"REMAP_SIGTERM": "SIGQUIT"})])
def test_a_cold_shutdown_gives_back_what_was_under_way_as_well(run, tasks, name, variables):
    worker = run("-c", "1", **variables)
    tasks.publish()
    tasks.wait_begun()
    tasks.wait_taken_ahead()
    os.kill(worker.pid, getattr(signal, name))
    worker.wait()
    give_back_counts(tasks, (6, 0))
    assert tasks.waiting() == IN_ORDER and tasks.ran() == []
    tasks.release()
    run("-c", "1")
    tasks.wait_all_ran()
    assert tasks.ran() == IN_ORDER


@needs_soft_shutdown
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_that_ends_during_a_soft_shutdown_does_not_run_again(run, tasks, pool):
    """The worker's loop stands still for longer than its session may be silent."""
    worker = run("-P", pool, "-c", "1", SOFT_SHUTDOWN_S="4")
    tasks.publish()
    tasks.wait_begun()
    tasks.wait_taken_ahead()
    os.kill(worker.pid, signal.SIGQUIT)
    give_back_counts(tasks, (5, 1))
    assert tasks.waiting() == IN_ORDER[1:]
    tasks.release()
    wait_until(lambda: tasks.ran() == ["t0"], "it ran to its end")
    worker.wait()
    assert tasks.counts() == (5, 0), worker.log_text()
    assert "session lapsed" not in worker.log_text()
    run("-c", "1")
    tasks.wait_all_ran()
    assert tasks.ran() == IN_ORDER


@needs_soft_shutdown
def test_a_task_that_outlasts_a_soft_shutdown_goes_back(run, tasks):
    worker = run("-c", "1", SOFT_SHUTDOWN_S="3")
    tasks.publish()
    tasks.wait_begun()
    os.kill(worker.pid, signal.SIGQUIT)
    give_back_counts(tasks, (5, 1))
    worker.wait()
    assert "session lapsed" not in worker.log_text()
    give_back_counts(tasks, (6, 0))
    assert tasks.waiting() == IN_ORDER and tasks.ran() == []


@needs_soft_shutdown
def test_an_idle_worker_takes_no_task_during_a_soft_shutdown(run, tasks):
    worker = run("-c", "1", SOFT_SHUTDOWN_S="3", SOFT_SHUTDOWN_ON_IDLE="1", session_timeout_ms=10_000)
    os.kill(worker.pid, signal.SIGQUIT)
    wait_until(lambda: tasks.consumers() == 0, "it leaves its queue")
    assert not worker.ended
    tasks.publish()
    assert tasks.counts() == (6, 0)
    tasks.release()
    run("-c", "1")
    tasks.wait_all_ran()
    assert tasks.ran() == IN_ORDER
    worker.wait()


@pytest.mark.proof
def test_workers_that_end_amid_short_tasks_run_none_twice(node, run, tasks):
    """Leaves prefork out: as it ends, Celery forgets a task that a child has just been given (`AsynPool.flush`)."""
    with app.connection_for_write(node.url) as connection:
        for number in range(400):
            append_late.apply_async((str(tasks.trace), str(number), 0.01), connection=connection)
    for moment in range(4):
        worker = run("-P", "threads", "-c", "3")
        wanted = len(tasks.ran()) + 20 + moment
        wait_until(partial(tasks.have_run, wanted), "it works")
        assert worker.stop() == 0
        assert tasks.counts()[1] == 0
    run("-c", "4")
    wait_until(lambda: len(set(tasks.ran())) == 400, "all ran")
    assert [text for text, count in Counter(tasks.ran()).items() if count > 1] == []


def test_the_task_of_a_killed_worker_is_redelivered_and_says_so(node, run, tasks):
    worker = run("-c", "1", "-P", "solo")
    with app.connection_for_write(node.url) as connection:
        note_delivery_when_released.apply_async((str(tasks.trace),), connection=connection)
    wait_until(lambda: tasks.ran() == ["False"], "it is under way")
    worker.kill()
    other = run("-c", "1", "-P", "solo")
    wait_until(lambda: tasks.ran() == ["False", "True"], "another worker has it")
    tasks.release()
    assert other.stop() == 0
    assert tasks.counts() == (0, 0)


@pytest.mark.parametrize("variables", [{}, {"SOFT_SHUTDOWN_S": "3"}], ids=["cold", "soft"])
def test_a_task_that_was_given_back_unbegun_is_not_redelivered(node, run, tasks, variables):
    worker = run("-c", "1", **variables)
    with app.connection_for_write(node.url) as connection:
        append_late_when_released.apply_async((str(tasks.trace), "t0"), connection=connection, priority=9)
        tasks.wait_begun()
        note_delivery_when_released.apply_async((str(tasks.trace),), connection=connection)
    wait_until(lambda: tasks.counts() == (0, 2), "the worker has both")
    os.kill(worker.pid, signal.SIGQUIT)
    tasks.release()
    worker.wait()
    run("-c", "1")
    wait_until(lambda: "False" in tasks.ran(), "it is delivered for the first time")
    assert "True" not in tasks.ran()


@pytest.mark.proof
def test_a_task_that_kills_its_worker_again_and_again_is_dead_lettered(node, run, tasks):
    with app.connection_for_write(node.url) as connection:
        channel = connection.default_channel
        channel.queue_declare("dead", auto_delete=False)
        arguments = {"x-delivery-limit": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        kill_worker.apply_async((str(tasks.trace),), connection=connection, queue=poisoned_queue(arguments))
        for deliveries in (1, 2):
            worker = run("-P", "solo", "-Q", "poisoned", is_ready=False, POISONED=json.dumps(arguments))
            worker.wait()
            assert tasks.ran() == ["None", "1"][:deliveries], "how often it had been delivered before"
        wait_until(lambda: channel.topic_info("dead").ready == 1, "it is a dead letter")
        letter = channel.basic_get("dead", no_ack=True)
        assert letter.headers["x-death"][0]["reason"] == "delivery_limit"
        assert letter.headers["task"] == kill_worker.name
        assert channel.topic_info("poisoned").ready == 0
