"""The workloads of Celery: tasks that do nothing, and urgent tasks behind many others."""

from __future__ import annotations

import json
import random
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from disheap.cli.processes.children import Child, Children
from disheap.cli.processes.interrupts import Interrupts
from tests.benchmarks.peers import tasks, with_kombu
from tests.benchmarks.peers.brokers import STOP_S, Running, environment
from tests.benchmarks.peers.settings import Setting

ROOT = Path(__file__).parents[3]
PROCESSES = 2
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
WAIT_S = 60.0
URGENT_EVERY_S = (0.03, 0.07)


class WorkerFailed(Exception):
    """A worker ended, or did not do its work in time."""


def noop(setting: Setting, broker: Running, interrupts: Interrupts, number: int) -> float:
    """Tasks a second, from the first of `number` in the queue to the last."""
    app = tasks.make_app(broker.url, dict(setting.options), arguments_of(setting))
    marks = broker.directory / f"noop-{uuid.uuid4().hex[:8]}"
    marks.mkdir()
    with app.connection_for_write() as connection:
        with_kombu.declare(connection, setting, tasks.QUEUE)
        producer = connection.Producer()
        _send(app, producer, "peers.mark", "begin")
        # of the brokers here disheap alone takes batches, and it alone would wait for an fsync for each task
        with producer.batch() if setting.broker.startswith("disheap") else nullcontext():
            for _ in range(number):
                _send(app, producer, "peers.noop")
        _send(app, producer, "peers.mark", "end")
    with worker(setting, broker, interrupts, marks) as child:
        began, ended = (_wait_lines(marks / name, 1, child)[0] for name in ("begin", "end"))
    return number / ((ended - began) / 1e9)


def urgent(setting: Setting, broker: Running, interrupts: Interrupts, low: int, number: int) -> float:
    """The wait of urgent tasks until they start, in ms: the 99th percentile of `number`. `low` tasks of 20 ms wait
    before them."""
    app = tasks.make_app(broker.url, dict(setting.options), arguments_of(setting))
    marks = broker.directory / f"urgent-{uuid.uuid4().hex[:8]}"
    marks.mkdir()
    generator = random.Random(1)
    with app.connection_for_write() as connection:
        queue = with_kombu.declare(connection, setting, tasks.QUEUE)
        _send(app, connection.Producer(), "peers.mark", "begin", priority=setting.urgent)
        message = app.amqp.as_task_v2(str(uuid.uuid4()), "peers.low", (), {}, ignore_result=True)
        with_kombu.fill(
            connection,
            setting,
            queue,
            low,
            message.body,
            serializer="json",
            priority=setting.low,
            headers=message.headers,
            **message.properties,
        )
        with worker(setting, broker, interrupts, marks) as child:
            _wait_lines(marks / "begin", 1, child)
            time.sleep(1.0)  # the worker has as many tasks ahead as it may
            producer = connection.Producer()
            for _ in range(number):
                _send(app, producer, "peers.mark", "urgent", time.monotonic_ns(), priority=setting.urgent)
                time.sleep(generator.uniform(*URGENT_EVERY_S))
            waits = sorted(_wait_lines(marks / "urgent", number, child))
    return waits[min(len(waits) - 1, int(len(waits) * 0.99))] / 1e6


@contextmanager
def worker(setting: Setting, broker: Running, interrupts: Interrupts, marks: Path, *flags: str) -> Iterator[Child]:
    """`celery worker` with two processes, until the block ends."""
    more = {
        "PYTHONPATH": str(ROOT),
        "C_FORCE_ROOT": "1",
        "PEERS_URL": broker.url,
        "PEERS_OPTIONS": json.dumps(dict(setting.options)),
        "PEERS_ARGUMENTS": json.dumps(arguments_of(setting)),
        "PEERS_MARKS": str(marks),
    }
    celery = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.peers.tasks", "worker"]
    command = [*celery, "-c", str(PROCESSES), "-l", "WARNING", *(flags or QUIET)]
    children = Children(interrupts)
    child = Child("worker", command, marks / "worker.log", environment(broker.directory, more))
    try:
        yield children.start(child)
        child.stop(STOP_S)
    finally:
        children.kill()


def arguments_of(setting: Setting) -> dict[str, Any] | None:
    """The arguments of the queue; None for a broker that knows none."""
    return None if setting.is_redis else dict(setting.arguments)


def _send(app: Any, producer: Any, name: str, *arguments: Any, **options: Any) -> None:
    app.send_task(name, args=arguments, producer=producer, **options)


def _wait_lines(file: Path, number: int, worker: Child) -> list[int]:
    deadline = time.monotonic() + WAIT_S
    while True:
        lines = file.read_text().split() if file.exists() else []
        if len(lines) >= number:
            return [int(line) for line in lines]
        if worker.exit_code() is not None or time.monotonic() > deadline:
            raise WorkerFailed(f"{len(lines)} of {number} in {file.name}; the worker said: {worker.tail(10)}")
        time.sleep(0.02)
