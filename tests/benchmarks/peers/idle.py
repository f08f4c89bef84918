"""What a worker without work costs: bytes that its broker writes, and processor time of both."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import NamedTuple

from disheap.cli.processes.interrupts import Interrupts
from tests.benchmarks.peers.brokers import Running
from tests.benchmarks.peers.processes import cpu_s, written_bytes
from tests.benchmarks.peers.settings import Setting
from tests.benchmarks.peers.with_celery import QUIET, worker

SETTLE_S = 6.0
"""From the start of the workers until they are counted."""


class Idle(NamedTuple):
    """`written` in bytes, the others in ms of processor time for each second."""

    written: float
    broker_ms: float
    worker_ms: float


def measure(places: dict[str, tuple[Setting, Running]], interrupts: Interrupts, seconds: float) -> dict[str, Idle]:
    """One idle worker for each of these brokers, all at once. They have nothing to do, so they do not disturb each
    other."""
    with ExitStack() as stack:
        workers = {}
        for name, (setting, broker) in places.items():
            marks = broker.directory / "idle"
            marks.mkdir()
            workers[name] = stack.enter_context(worker(setting, broker, interrupts, marks, *QUIET))
        time.sleep(SETTLE_S)
        before = {name: _counts(broker, workers[name].pid) for name, (_, broker) in places.items()}
        time.sleep(seconds)
        after = {name: _counts(broker, workers[name].pid) for name, (_, broker) in places.items()}
    return {
        name: Idle(
            after[name].written - before[name].written,
            (after[name].broker_ms - before[name].broker_ms) / seconds,
            (after[name].worker_ms - before[name].worker_ms) / seconds,
        )
        for name in places
    }


def _counts(broker: Running, worker_pid: int) -> Idle:
    return Idle(written_bytes(broker.pids), cpu_s(broker.pids) * 1000, cpu_s((worker_pid,)) * 1000)
