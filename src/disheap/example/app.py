"""The application that `disheap demo` runs: one task, which writes down that it ran.

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

app = Celery("disheap.example", broker=os.environ.get(BROKER_VARIABLE, "disheap://"))
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,  # there is no result backend, and nobody asks
    worker_prefetch_multiplier=1,  # an urgent task waits for the one that runs and the one that is next, no more
    broker_connection_retry_on_startup=True,
)


@app.task  # type: ignore[untyped-decorator]
def work(number: int, priority: int) -> None:
    """A little work, and a line in the record."""
    started_ns = time.monotonic_ns()
    digest = b"%d" % number
    for _ in range(100):
        digest = blake2b(digest).digest()
    os.write(_record(), b"%d %d %d %d\n" % (number, priority, started_ns, time.monotonic_ns()))


@cache
def _record() -> int:
    """One descriptor for each worker process, opened at its first task: after the fork."""
    return os.open(os.environ[RECORD_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
