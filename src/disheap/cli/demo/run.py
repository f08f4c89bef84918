"""What `disheap demo` does, step by step, on a cluster of its own.

The steps: publish everything and start a Celery worker. Kill the leader when half has run. Publish urgent tasks while
nobody leads. Start the node again. Wait for the last task and for equal hashes. Collects evidence and leaves the
counting to `demo_counting`. Celery and the example application are loaded here and not before: without them the rest of
the command line works.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

import disheap.sync
from disheap.cli.demo import counting as counting
from disheap.cli.demo.counting import Execution, Figures, Published
from disheap.cli.processes.children import Child
from disheap.cli.processes.local_cluster import LocalCluster
from disheap.cli.terminal.progress import Show
from disheap.errors import ConfigError, DisheapError
from disheap.protocol.broker import PRIORITY_MAX

NODES = 3
URGENT_TASKS = 10
URGENT = PRIORITY_MAX
PRIORITIES = (-1_000_000, -5, 0, 3, 9, 10, 255, 1 << 40)
"""Signed, over AMQP's 9 and 255, and wider than 32 bits: whatever is clamped or turned around shows as inversions."""
SEED = 8400
POLL_S = 0.01
STALL_S = 60.0
"""No task for so long, with a cluster that elects within 3 s: nothing more will come, and what is missing is lost."""
URGENT_S = 60.0
WORKER_STOP_S = 15.0
EQUAL_S = 20.0
WORKER_LINES = 60


class DemoFailed(DisheapError):
    """The demo could not be carried to its end; says where it stopped, with the logs."""


class Evidence(NamedTuple):
    """What a run has left behind, from which the figures are counted."""

    published: list[Published]
    waiting: list[Published]
    executions: list[Execution]
    killed_ns: int
    hashes: dict[str, tuple[int, str]]
    disk_bytes: int


class Demo:
    """One run. `run` may be called once; the cluster is the caller's, who also clears it away."""

    def __init__(self, cluster: LocalCluster, tasks: int, show: Show) -> None:
        self._cluster, self._tasks, self._show = cluster, tasks, show
        self._record = cluster.directory / "record"
        self._record.touch()
        self._app, self._work, self._queue = application(cluster.url)
        self.worker = self._make_worker()

    def run(self) -> Evidence:
        """Run the demo to its end. Raises `DemoFailed` if that is not possible."""
        waiting = self._publish()
        self._start_worker()
        producers = [_open_producer(self._app) for _ in range(URGENT_TASKS)]
        self._watch("running tasks", self._tasks // 2)
        killed, killed_ns, urgent = self._kill_leader(producers)
        self._bring_back(killed)
        published = waiting + urgent
        self._finish(published)
        hashes = self._wait_equal()
        return Evidence(published, waiting, self._executions(), killed_ns, hashes, self._cluster.disk_bytes())

    # --- the steps ---

    def _publish(self) -> list[Published]:
        priorities = random.Random(SEED).choices(PRIORITIES, k=self._tasks)
        self._show.stage("publishing tasks", self._tasks)
        published = []
        for number, priority in enumerate(priorities):
            published.append(self._publish_one(number, priority))
            self._show.at(number + 1)
        return published

    def _publish_one(self, number: int, priority: int, producer: Any = None) -> Published:
        """`apply_async` returns when the publish is confirmed; it raises kombu's error when it is not."""
        from kombu.exceptions import KombuError

        try:
            self._work.apply_async((number, priority), priority=priority, producer=producer)
        except (KombuError, OSError):
            return Published(number, priority, 0, priority == URGENT)
        return Published(number, priority, time.monotonic_ns(), priority == URGENT)

    def _start_worker(self) -> None:
        self._show.stage("starting a Celery worker")
        self._cluster.children.start(self.worker)
        self._wait(lambda: self._record.stat().st_size > 0, "the worker ran no task")

    def _watch(self, title: str, until: int) -> None:
        self._show.stage(title, self._tasks + URGENT_TASKS)
        self._wait(lambda: self._ran() >= until, "the worker stopped running tasks")

    def _kill_leader(self, producers: list[Any]) -> tuple[str, int, list[Published]]:
        """The urgent tasks are under way before there is anyone to take them, each from a producer of its own."""
        leader = self._cluster.leader()
        killed_ns = self._cluster.kill(leader)
        self._show.note(f"{leader}, the leader, was killed (SIGKILL) after {self._ran()} tasks")
        urgent = self._publish_urgent(producers)
        outage_s = counting.leaderless_seconds(urgent, killed_ns)
        self._show.note(f"{len(urgent)} urgent tasks, published meanwhile, were confirmed after {outage_s:.2f} s")
        return leader, killed_ns, urgent

    def _publish_urgent(self, producers: list[Any]) -> list[Published]:
        published: list[Published] = []

        def publish(number: int, producer: Any) -> None:
            published.append(self._publish_one(number, URGENT, producer))
            producer.release()

        threads = [
            threading.Thread(target=publish, args=(self._tasks + i, producer), daemon=True)  # a Ctrl-C waits for none
            for i, producer in enumerate(producers)
        ]
        for thread in threads:
            thread.start()
        self._wait(lambda: len(published) == len(threads), "the urgent tasks were not taken", URGENT_S)
        return published

    def _bring_back(self, name: str) -> None:
        self._cluster.start(name)
        self._show.note(f"{name} was started again on the same data; {self._cluster.leader()} leads")

    def _finish(self, published: list[Published]) -> None:
        """The last task has run when every confirmed one has, and nothing waits in the queue or in anybody's hands."""
        confirmed = {task.number for task in published if task.confirmed_ns}

        def all_ran() -> bool:
            self._show.at(self._ran())
            return confirmed <= {execution.number for execution in self._executions()}

        self._wait(all_ran, "")
        with disheap.sync.connect(self._cluster.url) as client:
            self._wait(lambda: _is_empty(client.topic(self._queue).stats()), "")
        self._show.stage("stopping the worker")
        self.worker.stop(WORKER_STOP_S)

    def _wait_equal(self) -> dict[str, tuple[int, str]]:
        """Waits until all nodes are at one index. What they say then is the evidence, whatever it is."""
        self._show.stage("comparing the nodes' states")
        deadline = time.monotonic() + EQUAL_S
        while True:
            hashes = self._cluster.state_hashes()
            if counting.hashes_equal(hashes, NODES) is not None or time.monotonic() > deadline:
                return hashes
            time.sleep(POLL_S)

    # --- watching ---

    def _wait(self, done: Callable[[], bool], what: str, within_s: float = STALL_S) -> None:
        """Waits until `done`, or until nothing has moved for so long. Then `DemoFailed` says `what`. Otherwise the wait
        is over, and the counting says what is missing. A worker that ended is never waited for."""
        ran, moved_at = self._ran(), time.monotonic()
        while not done():
            if (code := self.worker.exit_code()) is not None:
                raise DemoFailed(f"the Celery worker ended with exit code {code}")
            if (now := self._ran()) != ran:
                ran, moved_at = now, time.monotonic()
                self._show.at(ran)
            elif time.monotonic() - moved_at > within_s:
                if what:
                    raise DemoFailed(f"{what} for {within_s:g} s")
                return
            time.sleep(POLL_S)

    def _ran(self) -> int:
        """Lines in the record."""
        return self._record.read_bytes().count(b"\n")

    def _executions(self) -> list[Execution]:
        return counting.read_record(self._record.read_text())

    def _make_worker(self) -> Child:
        from disheap.example import app as example

        extra = {example.BROKER_VARIABLE: self._cluster.url, example.RECORD_VARIABLE: str(self._record)}
        options = ("--pool", "prefork", "--concurrency", "1", "--prefetch-multiplier", "1", "--loglevel", "WARNING")
        name = f"{self._cluster.directory.name}@localhost"  # of its own, as is all else here
        command = (sys.executable, "-m", "celery", "-A", example.__name__, "worker", "--hostname", name, *options)
        return Child("worker", command, self._cluster.directory / "worker.log", self._cluster.environment(extra))


def count(evidence: Evidence, seconds: float) -> Figures:
    """The figures of a run that took `seconds`."""
    published, executions = evidence.published, evidence.executions
    figures = Figures(
        published=len(published),
        confirmed=sum(bool(task.confirmed_ns) for task in published),
        executed=len(counting.first_starts(executions)),
        executed_twice=counting.executed_twice(executions),
        lost=counting.lost(published, executions),
        priority_inversions=counting.priority_inversions(evidence.waiting, executions),
        urgent_tasks=sum(task.urgent for task in published),
        urgent_wait_tasks=counting.urgent_wait_tasks(published, executions),
        leaderless_seconds=round(counting.leaderless_seconds(published, evidence.killed_ns), 3),
        tasks_per_second=round(counting.tasks_per_second(executions), 1),
        disk_bytes=evidence.disk_bytes,
        nodes=NODES,
        state_hashes_equal=bool(counting.hashes_equal(evidence.hashes, NODES)),
        seconds=round(seconds, 2),
    )
    return replace(figures, passed=counting.passed(figures))


def application(url: str = "") -> tuple[Any, Any, str]:
    """(app, task, queue). Raises `ConfigError` where Celery is not installed."""
    try:
        from disheap.example import app as example
    except ModuleNotFoundError as error:
        raise ConfigError(f"the demo needs Celery ({error}); install it: pip install celery") from None
    if url:
        example.app.conf.broker_url = url
    return example.app, example.work, example.QUEUE


def _open_producer(app: Any) -> Any:
    """Connected, from Celery's own pool, so that the publish is all that is left to do."""
    producer = app.producer_pool.acquire(block=True)
    producer.connection.ensure_connection()
    producer.channel  # noqa: B018  (opened at first sight)
    return producer


def _is_empty(topic: Any) -> bool:
    return not (topic.ready or topic.delayed or topic.leased)
