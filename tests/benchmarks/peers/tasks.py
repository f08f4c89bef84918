"""The Celery application of the workloads. The environment says which broker it uses, and how."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from celery import Celery

import disheap
from kombu import Queue

QUEUE = "celery"
LOW_S = 0.02
"""How long a task of low priority takes."""


def make_app(url: str, options: dict[str, object], arguments: dict[str, object] | None) -> Celery:
    """The application with one queue, and without results."""
    app = Celery("peers", broker=url)
    app.conf.update(
        broker_transport_options=options,
        broker_connection_retry_on_startup=True,
        task_queues=[Queue(QUEUE, routing_key=QUEUE, queue_arguments=arguments)],
        task_default_queue=QUEUE,
        task_ignore_result=True,
        worker_prefetch_multiplier=4,
    )
    return app


app = make_app(
    os.environ.get("PEERS_URL", "disheap://"),
    json.loads(os.environ.get("PEERS_OPTIONS", "{}")),
    json.loads(os.environ.get("PEERS_ARGUMENTS", "null")),
)
MARKS = Path(os.environ.get("PEERS_MARKS", "."))
VERSION = disheap.__version__


@app.task(name="peers.noop")
def noop() -> None:
    """Does nothing."""


@app.task(name="peers.low")
def low() -> None:
    """Waits, as for a database."""
    time.sleep(LOW_S)


@app.task(name="peers.mark")
def mark(name: str, since_ns: int = 0) -> None:
    """Adds the time since `since_ns` to a file, in ns of the machine's monotonic clock."""
    line = f"{time.monotonic_ns() - since_ns}\n".encode()
    descriptor = os.open(MARKS / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line)
    os.close(descriptor)
