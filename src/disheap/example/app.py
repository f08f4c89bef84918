"""The application that `disheap demo` runs: tasks that write down that they ran, and the tasks of a chord.

It is an ordinary Celery application. All it has of disheap is its broker URL. Its settings come from the environment,
so that any worker on any machine can run it:

    DISHEAP_EXAMPLE_BROKER=disheap:// DISHEAP_EXAMPLE_RECORD=ran.txt celery -A disheap.example.app worker

The record is the demo's evidence. A task appends one line for each execution, in one write to a file that is opened
for appending. So a task that runs twice is there twice:

    number priority started_ns finished_ns          times by the machine's monotonic clock
"""

from __future__ import annotations

import os
import time
from functools import cache
from hashlib import blake2b

from celery import Celery

BROKER_VARIABLE = "DISHEAP_EXAMPLE_BROKER"
RECORD_VARIABLE = "DISHEAP_EXAMPLE_RECORD"
QUEUE = "disheap.example"

URL = os.environ.get(BROKER_VARIABLE, "disheap://")

app = Celery("disheap.example", broker=URL, backend=URL)
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,  # nobody asks, except for the tasks of a chord
    broker_connection_retry_on_startup=True,
)


@app.task  # type: ignore[untyped-decorator]
def work(number: int, priority: int) -> None:
    """A little work, and a line in the record."""
    started_ns = time.monotonic_ns()
    digest = b"%d" % number
    for _ in range(100):
        digest = blake2b(digest).digest()
    _write_down(number, priority, started_ns)


@app.task  # type: ignore[untyped-decorator]
def nap(number: int, priority: int, seconds: float) -> None:
    """Takes so long, and writes a line into the record."""
    started_ns = time.monotonic_ns()
    time.sleep(seconds)
    _write_down(number, priority, started_ns)


@app.task(ignore_result=False)  # type: ignore[untyped-decorator]
def square(number: int) -> int:
    """A member of a chord."""
    return number * number


@app.task(ignore_result=False)  # type: ignore[untyped-decorator]
def total(numbers: list[int]) -> int:
    """The body of a chord."""
    return sum(numbers)


def _write_down(number: int, priority: int, started_ns: int) -> None:
    os.write(_record(), b"%d %d %d %d\n" % (number, priority, started_ns, time.monotonic_ns()))


@cache
def _record() -> int:
    """One descriptor for each worker process, opened at its first task: after the fork."""
    return os.open(os.environ[RECORD_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
