"""What `disheap demo` does, step by step, on a cluster of its own.

The steps: publish everything and start a Celery worker. When half has run, publish tasks with a countdown, and kill the
leader. Publish urgent tasks while nobody leads. Start the node again. Wait for the last task. Start another worker for
`overtaking`. Wait for equal hashes. Collects evidence and leaves the counting to `counting`. Celery and the example
application are loaded here and not before: without them the rest of the command line works.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any, NamedTuple

from msgspec.structs import replace

import disheap.sync
from disheap.cli.demo import counting as counting
from disheap.cli.demo.counting import Execution, Figures, Published
from disheap.cli.demo.overtaking import CHORD_TASKS, Overtaking, overtake
from disheap.cli.demo.watching import POLL_S, Record
from disheap.cli.processes.children import Child
from disheap.cli.processes.local_cluster import LocalCluster
from disheap.cli.terminal.progress import Show
from disheap.errors import ConfigError
from disheap.protocol.broker import PRIORITY_MAX

NODES = 3
URGENT_TASKS = 10
URGENT = PRIORITY_MAX
PRIORITIES = (-1_000_000, -5, 0, 3, 9, 10, 255, 1 << 40)
"""Signed, over AMQP's 9 and 255, and wider than 32 bits: whatever is clamped or turned around shows as inversions."""
SEED = 8400
DELAYED_TASKS, DELAY_S = 10, 4.0
"""They are due when another node leads, and run before the others: they are the most urgent ones."""
URGENT_S = 60.0
WORKER_STOP_S = 15.0
EQUAL_S = 20.0
WORKER_LINES = 60


class Evidence(NamedTuple):
    """What a run has left behind, from which the figures are counted."""

    published: list[Published]
    waiting: list[Published]
    delayed: list[Published]
    overtaking: Overtaking
    executions: list[Execution]
    killed_ns: int
    hashes: dict[str, tuple[int, str]]
    disk_bytes: int


class Demo:
    """One run. `run` may be called once; the cluster is the caller's, who also clears it away."""

    def __init__(self, cluster: LocalCluster, tasks: int, show: Show) -> None:
        self._cluster, self._tasks, self._show = cluster, tasks, show
        self._example = application(cluster.url)
        self._file = cluster.directory / "record"
        self._record = Record(self._file, self._make_worker("1"), show)

    @property
    def worker(self) -> Child:
        """The worker that runs now."""
        return self._record.worker

    def run(self) -> Evidence:
        """Run the demo to its end. Raises `DemoFailed` if that is not possible."""
        waiting = self._publish()
        self._start_worker()
        producers = [_open_producer(self._example.app) for _ in range(URGENT_TASKS)]
        self._watch("running tasks", self._tasks // 2)
        delayed = self._publish_delayed(producers[0])
        killed, killed_ns, urgent = self._kill_leader(producers)
        self._bring_back(killed)
        published = waiting + urgent + delayed
        self._finish(published)
        overtaking = self._overtake(len(published))
        published += overtaking.published
        hashes, executions = self._wait_equal(), self._record.executions()
        disk_bytes = self._cluster.disk_bytes()
        return Evidence(published, waiting, delayed, overtaking, executions, killed_ns, hashes, disk_bytes)

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
            self._example.work.apply_async((number, priority), priority=priority, producer=producer)
        except (KombuError, OSError):
            return Published(number, priority, 0, priority == URGENT)
        return Published(number, priority, time.monotonic_ns(), priority == URGENT)

    def _publish_delayed(self, producer: Any) -> list[Published]:
        """By one of the producers that are open: they are all that Celery's pool has."""
        published = []
        for number in range(self._tasks + URGENT_TASKS, self._tasks + URGENT_TASKS + DELAYED_TASKS):
            due_ns = time.monotonic_ns() + int(DELAY_S * 1e9)
            self._example.work.apply_async((number, URGENT), priority=URGENT, countdown=DELAY_S, producer=producer)
            published.append(Published(number, URGENT, time.monotonic_ns(), due_ns=due_ns))
        self._show.note(f"{DELAYED_TASKS} tasks are due in {DELAY_S:g} s, and wait in the broker")
        return published

    def _start_worker(self) -> None:
        self._show.stage("starting a Celery worker")
        self._cluster.children.start(self.worker)
        self._record.wait(lambda: self._record.count() > 0, "the worker ran no task")

    def _watch(self, title: str, until: int) -> None:
        self._show.stage(title, self._tasks + URGENT_TASKS + DELAYED_TASKS)
        self._record.wait(lambda: self._record.count() >= until, "the worker stopped running tasks")

    def _kill_leader(self, producers: list[Any]) -> tuple[str, int, list[Published]]:
        """The urgent tasks are under way before there is anyone to take them, each from a producer of its own."""
        leader = self._cluster.leader()
        killed_ns = self._cluster.kill(leader)
        self._show.note(f"{leader}, the leader, was killed (SIGKILL) after {self._record.count()} tasks")
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
        self._record.wait(lambda: len(published) == len(threads), "the urgent tasks were not taken", URGENT_S)
        return published

    def _bring_back(self, name: str) -> None:
        self._cluster.start(name)
        self._show.note(f"{name} was started again on the same data; {self._cluster.leader()} leads")

    def _finish(self, published: list[Published]) -> None:
        """The last task has run when every confirmed one has, and nothing waits in the queue or in anybody's hands."""
        self._record.wait_all({task.number for task in published if task.confirmed_ns})
        self._stop_worker()

    def _stop_worker(self) -> None:
        with disheap.sync.connect(self._cluster.url) as client:
            self._record.wait(lambda: _is_empty(client.topic(self._example.QUEUE).stats()), "")
        self._show.stage("stopping the worker")
        self.worker.stop(WORKER_STOP_S)

    def _overtake(self, first: int) -> Overtaking:
        """On a worker of its own, which prefetches as Celery does unless it is told otherwise."""
        self._show.stage("starting a worker with Celery's own prefetching")
        self._record.worker = self._make_worker()
        self._cluster.children.start(self.worker)
        with disheap.sync.connect(self._cluster.url) as client:
            topic = client.topic(self._example.QUEUE)
            overtaking = overtake(self._example, topic, self._record, self._show, first)
        self._stop_worker()
        return overtaking

    def _wait_equal(self) -> dict[str, tuple[int, str]]:
        """Waits until all nodes are at one index. What they say then is the evidence, whatever it is."""
        self._show.stage("comparing the nodes' states")
        deadline = time.monotonic() + EQUAL_S
        while True:
            hashes = self._cluster.state_hashes()
            if counting.hashes_equal(hashes, NODES) is not None or time.monotonic() > deadline:
                return hashes
            time.sleep(POLL_S)

    def _make_worker(self, prefetch: str = "") -> Child:
        example = self._example
        extra = {example.BROKER_VARIABLE: self._cluster.url, example.RECORD_VARIABLE: str(self._file)}
        options = ["--pool", "prefork", "--concurrency", "1", "--loglevel", "WARNING"]
        if prefetch:
            options += ["--prefetch-multiplier", prefetch]
        name = f"{self._cluster.directory.name}@localhost"  # of its own, as is all else here
        command = (sys.executable, "-m", "celery", "-A", example.__name__, "worker", "--hostname", name, *options)
        return Child("worker", command, self._cluster.directory / "worker.log", self._cluster.environment(extra))


def count(evidence: Evidence, seconds: float) -> Figures:
    """The figures of a run that took `seconds`."""
    published, executions, overtaking = evidence.published, evidence.executions, evidence.overtaking
    alone = {task.number for task in [*evidence.delayed, *overtaking.published]}  # they wait, or take their time
    at_once = [one for one in executions if one.number not in alone]
    figures = Figures(
        published=len(published),
        confirmed=sum(bool(task.confirmed_ns) for task in published),
        executed=len(counting.first_starts(executions)),
        executed_twice=counting.executed_twice(executions),
        lost=counting.lost(published, executions),
        priority_inversions=counting.priority_inversions(evidence.waiting, executions),
        urgent_tasks=URGENT_TASKS,
        urgent_wait_tasks=counting.urgent_wait_tasks(evidence.published[: -len(overtaking.published)], executions),
        leaderless_seconds=round(counting.leaderless_seconds(published, evidence.killed_ns), 3),
        tasks_per_second=round(counting.tasks_per_second(at_once), 1),
        disk_bytes=evidence.disk_bytes,
        nodes=NODES,
        state_hashes_equal=bool(counting.hashes_equal(evidence.hashes, NODES)),
        seconds=round(seconds, 2),
        delayed_tasks=len(evidence.delayed),
        delayed_early=counting.early(evidence.delayed, executions),
        delayed_late_seconds=round(counting.late_seconds(evidence.delayed, executions), 3),
        prefetched_tasks=overtaking.prefetched,
        overtaking_wait_tasks=counting.urgent_wait_tasks(overtaking.published, executions),
        chord_tasks=CHORD_TASKS,
        chord_right=overtaking.chord_right,
    )
    return replace(figures, passed=counting.passed(figures))


def application(url: str = "") -> Any:
    """Returns the module of the example application. Raises `ConfigError` if Celery is not installed."""
    try:
        from disheap.example import app as example
    except ModuleNotFoundError as error:
        raise ConfigError(f"the demo needs Celery ({error}); install it: pip install celery") from None
    if url:
        example.app.conf.update(broker_url=url, result_backend=url)
    return example


def _open_producer(app: Any) -> Any:
    """Connected, from Celery's own pool, so that the publish is all that is left to do."""
    producer = app.producer_pool.acquire(block=True)
    producer.connection.ensure_connection()
    producer.channel  # noqa: B018  (opened at first sight)
    return producer


def _is_empty(topic: Any) -> bool:
    return not (topic.ready or topic.delayed or topic.leased)
