"""An urgent task takes the next slot of a worker's pool that gets free, whatever the worker has taken ahead."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from kombu_app import app, append, append_request, note, note_and_hold
from kombu_cluster import Cluster, NodeProcess, Worker, command, wait_until

import disheap.sync

TRIALS = 50
SLOTS = 2
LOW = SLOTS * (1 + 4) + 3
"""Tasks that wait at first: in the pool, in the worker, and some in the broker."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(tmp_path)
    yield node
    node.kill()


@pytest.fixture
def start_worker(node: NodeProcess, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers = []

    def start(*options: str, **variables: str) -> Worker:
        arguments = ("--prefetch-multiplier", "4", "-c", str(SLOTS), *options)
        worker = Worker(node.url, tmp_path / f"worker-{len(workers)}.log", *arguments, **variables)
        workers.append(worker)
        worker.wait_ready()
        return worker

    yield start
    for worker in workers:
        if not worker.ended:
            worker.kill()


class Trials:
    """A worker whose pool and buffer are full of low tasks. Each begins with a line in `log`, and ends when `free_slot`
    is called."""

    def __init__(self, url: str, directory: Path) -> None:
        self.log = directory / "log"
        self.log.touch()
        os.mkfifo(f"{self.log}.gate")
        self._gate = os.open(f"{self.log}.gate", os.O_RDWR)
        self.url = url
        self._client = disheap.sync.connect(url)
        self._connection = app.connection_for_write(url)
        self._number = 0

    def close(self) -> None:
        self._client.close()
        self._connection.release()
        os.close(self._gate)

    def publish_low(self) -> None:
        note_and_hold.apply_async((str(self.log), "low"), priority=0, connection=self._connection)

    def publish_urgent(self, priority: int = 9, queue: str = "celery") -> str:
        """Returns what the task writes."""
        self._number += 1
        text = f"urgent-{self._number}"
        self.publish_note(text, priority=priority, queue=queue)
        return text

    def publish_note(self, text: str, **options: Any) -> None:
        note.apply_async((str(self.log), text), connection=self._connection, **options)

    def publish_limited(self, text: str) -> None:
        append.apply_async((str(self.log), text), connection=self._connection)

    def wait_leased(self, queue: str = "celery") -> None:
        """No urgent task is left in the broker."""
        topic = self._client.topic(queue)
        wait_until(lambda: not any(one.priority for one in topic.peek(1)), "the worker has the urgent task")

    def ready(self) -> int:
        """How many tasks wait in the broker."""
        return self._client.topic("celery").stats().ready

    def free_slot(self) -> None:
        os.write(self._gate, b"x")

    def begun(self) -> list[str]:
        return self.log.read_text().split()

    def wait_begun(self, count: int) -> list[str]:
        wait_until(lambda: len(self.begun()) >= count, f"{count} tasks have begun, not {len(self.begun())}")
        return self.begun()

    def fill(self, slots: int = SLOTS) -> None:
        """The pool has low tasks, and so have the worker and the broker."""
        for _ in range(LOW):
            self.publish_low()
        self.wait_begun(slots)

    def run(self, trials: int, queue: str = "celery") -> int:
        """Returns in how many trials the urgent task was the next one."""
        count, good = len(self.begun()), 0
        for _ in range(trials):
            self.publish_low()
            urgent = self.publish_urgent(queue=queue)
            self.wait_leased(queue)
            self.free_slot()
            begun = self.wait_begun(count + 2)
            good += begun[count] == urgent
            count += 2
        return good


@pytest.fixture
def trials(node: NodeProcess, tmp_path: Path) -> Iterator[Trials]:
    trials = Trials(node.url, tmp_path)
    yield trials
    trials.close()


@pytest.mark.parametrize("acks_late", ["", "yes"], ids=["early acks", "late acks"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_urgent_task_takes_the_next_slot(
    start_worker: Callable[..., Worker], trials: Trials, pool: str, acks_late: str
) -> None:
    start_worker("-P", pool, ACKS_LATE=acks_late)
    trials.fill()
    assert trials.run(TRIALS) == TRIALS


def test_urgent_tasks_begin_in_the_order_of_their_priorities(
    start_worker: Callable[..., Worker], trials: Trials
) -> None:
    start_worker()
    trials.fill()
    urgent = {priority: trials.publish_urgent(priority) for priority in (3, 9, 1, 5)}
    trials.wait_leased()
    trials.free_slot()
    assert trials.wait_begun(SLOTS + 5)[SLOTS:] == [urgent[9], urgent[5], urgent[3], urgent[1], "low"]


def test_an_urgent_task_of_another_queue_takes_the_next_slot(
    start_worker: Callable[..., Worker], trials: Trials
) -> None:
    start_worker("-Q", "celery,other")
    trials.fill()
    assert trials.run(10, queue="other") == 10


def test_an_urgent_task_comes_next_under_the_solo_pool(start_worker: Callable[..., Worker], trials: Trials) -> None:
    """The task blocks the event loop. So the request for something more urgent has to leave before."""
    start_worker("-P", "solo")
    trials.fill(1)
    trials.free_slot()  # the others came while the first task blocked the loop
    trials.wait_begun(2)
    assert trials.run(10) == 10


def test_a_worker_without_prefetch_holds_no_more_than_it_runs(
    start_worker: Callable[..., Worker], trials: Trials
) -> None:
    start_worker(DISABLE_PREFETCH="yes")
    trials.fill()
    wait_until(lambda: trials.ready() == LOW - SLOTS, "all others are in the broker")
    count, good = SLOTS, 0
    for _ in range(10):
        urgent = trials.publish_urgent()
        trials.free_slot()
        good += trials.wait_begun(count + 2)[count] == urgent
        count += 2
    assert good == 10
    wait_until(lambda: trials.ready() == LOW - SLOTS - 10, "all others are in the broker")


@pytest.mark.parametrize("options", [("--autoscale", "3,1"), ("-c", "1")], ids=["autoscale", "grow"])
def test_a_pool_that_grows_gets_more_tasks(
    start_worker: Callable[..., Worker], trials: Trials, options: tuple[str, ...]
) -> None:
    worker = start_worker(*options)
    trials.fill(1)
    if "--autoscale" not in options:
        command(worker.url, "control", "pool_grow", "2")
    trials.wait_begun(3)


def test_tasks_that_take_no_slot_do_not_stop_the_worker(start_worker: Callable[..., Worker], trials: Trials) -> None:
    """Expired ones, those that wait for a rate limit, and those that are killed for their time."""
    worker = start_worker("--time-limit", "1")
    command(worker.url, "control", "rate_limit", "kombu_app.append", "5/s")
    for number in range(30):
        trials.publish_note(f"expired-{number}", expires=-1)
    for number in range(6):
        trials.publish_limited(f"limited-{number}")
    for _ in range(SLOTS):
        trials.publish_low()
    last = trials.publish_urgent(0)
    wait_until(lambda: last in trials.begun(), "the last task has begun")
    wait_until(lambda: sum(text.startswith("limited") for text in trials.begun()) == 6, "the limited ones have ended")
    assert not any(text.startswith("expired") for text in trials.begun())


def test_an_urgent_task_takes_the_next_slot_after_a_change_of_leader(tmp_path: Path) -> None:
    """The worker asked the old leader for it."""
    cluster, worker = Cluster(tmp_path), None
    trials = Trials(cluster.url, tmp_path)
    try:
        worker = Worker(cluster.url, tmp_path / "worker.log", "--prefetch-multiplier", "4", "-c", str(SLOTS))
        worker.wait_ready()
        trials.fill()
        assert trials.run(1) == 1
        cluster.leader().kill()
        assert trials.run(5) == 5
    finally:
        if worker is not None:
            worker.kill()
        trials.close()
        cluster.kill()


@pytest.mark.parametrize(
    ("inherit", "expected"), [("", [-2, 0, 6]), ("yes", [6, 6, 6])], ids=["their own", "their parent's"]
)
def test_the_parts_of_a_canvas_have_their_priorities(
    start_worker: Callable[..., Worker], trials: Trials, inherit: str, expected: list[int]
) -> None:
    """With `task_inherit_parent_priority` Celery takes that of the parent, as the worker knows it."""
    start_worker(INHERIT_PRIORITY=inherit)
    first, second, third = (append_request.si(str(trials.log)) for _ in range(3))
    with app.connection_for_write(trials.url) as connection:
        chain(first.set(priority=6), group(second, third.set(priority=-2))).apply_async(connection=connection)
    seen = [json.loads(line)["priority"] for line in trials.wait_begun(3)]
    assert seen[0] == 6 and sorted(seen) == expected


@pytest.mark.long
@pytest.mark.parametrize("acks_late", ["", "yes"], ids=["early acks", "late acks"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_urgent_task_takes_the_next_slot_in_each_of_1000_trials(
    start_worker: Callable[..., Worker], trials: Trials, pool: str, acks_late: str
) -> None:
    start_worker("-P", pool, ACKS_LATE=acks_late)
    trials.fill()
    assert trials.run(1000) == 1000
