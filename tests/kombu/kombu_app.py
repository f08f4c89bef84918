"""The Celery application of the worker tests. Only the URL of the broker names disheap."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task

from kombu import Exchange, Queue

app = Celery("kombu_app", broker=os.environ.get("BROKER", "disheap://"))
RESULTS = os.environ.get("RESULTS")
"""A result backend, for the tests that want one."""

app.conf.update(
    result_backend=RESULTS,
    task_ignore_result=not RESULTS,
    result_chord_retry_interval=0.2,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "1")),
    worker_soft_shutdown_timeout=float(os.environ.get("SOFT_SHUTDOWN_S", "0")),
    worker_enable_soft_shutdown_on_idle=bool(os.environ.get("SOFT_SHUTDOWN_ON_IDLE")),
    worker_disable_rate_limits=False,
    task_acks_late=bool(os.environ.get("ACKS_LATE")),
    task_inherit_parent_priority=bool(os.environ.get("INHERIT_PRIORITY")),
    worker_disable_prefetch=bool(os.environ.get("DISABLE_PREFETCH")),
    broker_transport_options=json.loads(os.environ.get("TRANSPORT_OPTIONS", "{}")),
)
app.conf.update(json.loads(os.environ.get("CONF", "{}")))


def poisoned_queue(arguments: dict[str, Any]) -> Queue:
    return Queue("poisoned", Exchange("poisoned"), routing_key="poisoned", queue_arguments=arguments)


if POISONED := os.environ.get("POISONED"):
    app.conf.task_queues = [poisoned_queue(json.loads(POISONED))]


@app.task
def append(path: str, text: str, pause_s: float = 0.0) -> None:
    """Append a line to a file. Before that, touch `<path>.<text>` to show that the task has begun."""
    Path(f"{path}.{text}").touch()
    time.sleep(pause_s)
    with open(path, "a") as file:  # noqa: PTH123
        file.write(text + "\n")


@app.task
def append_when_released(path: str, text: str) -> None:
    """Append a line as soon as the file `<path>.go` exists."""
    Path(f"{path}.{text}").touch()
    while not Path(f"{path}.go").exists():
        time.sleep(0.01)
    append.run(path, text)


@app.task
def note(path: str, text: str) -> None:
    """Append a line to a file."""
    with open(path, "a") as file:  # noqa: PTH123
        file.write(text + "\n")


@app.task
def note_and_hold(path: str, text: str) -> None:
    """Append a line to a file, then wait for a byte in the named pipe `<path>.gate`."""
    note.run(path, text)
    with open(f"{path}.gate", "rb", buffering=0) as gate:  # noqa: PTH123
        gate.read(1)


@app.task(acks_late=True)
def append_late(path: str, text: str, pause_s: float = 0.0) -> None:
    append.run(path, text, pause_s)


@app.task(acks_late=True)
def append_late_when_released(path: str, text: str) -> None:
    append_when_released.run(path, text)


@app.task(bind=True, acks_late=True)
def note_delivery_when_released(self: Task, path: str) -> None:
    """Append whether this is a redelivery, then wait for the file `<path>.go`."""
    note.run(path, str(self.request.delivery_info["redelivered"]))
    while not Path(f"{path}.go").exists():
        time.sleep(0.01)


@app.task(bind=True, acks_late=True)
def kill_worker(self: Task, path: str) -> None:
    """Append how often it was delivered before, and kill the process that runs it."""
    note.run(path, str((self.request.headers or {}).get("x-delivery-count")))
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def make_text(size: int) -> str:
    return "x" * size


@app.task
def total_size(texts: list[str]) -> int:
    return sum(len(text) for text in texts)


@app.task(bind=True)
def append_request(self: Task, path: str, retries: int = 0) -> None:
    """Append what the worker knows of the task, and its time, as a line of JSON. Repeat it so often, 1 s later."""
    request = self.request
    known = {"at_s": time.time(), "eta": request.eta, "kept_eta": getattr(request, "disheap_eta", None)}
    known |= {"retries": request.retries, "priority": request.delivery_info["priority"]}
    with open(path, "a") as file:  # noqa: PTH123
        file.write(json.dumps(known, separators=(",", ":")) + "\n")
    if request.retries < retries:
        raise self.retry(countdown=1)


@app.task(acks_late=True, reject_on_worker_lost=True)
def number(n: int, pause_s: float = 0.0) -> int:
    time.sleep(pause_s)
    return n


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def note_body(members: list[int], path: str) -> list[int]:
    """Append how many members there were, and their sum, as a line. Return the first and the last."""
    with open(path, "a") as file:  # noqa: PTH123
        file.write(f"{len(members)} {sum(members)}\n")
    return [members[0], members[-1]]


@app.task
def give(value: object) -> object:
    return value


@app.task(bind=True)
def tell_parent(self: Task, members: list[int]) -> str | None:
    """Return the id of the task that sent this one, as far as this one knows."""
    return self.request.parent_id


@app.task
def note_error(request: object, error: Exception, _: object, path: str) -> None:
    """An error callback: append the error as a line."""
    with open(path, "a") as file:  # noqa: PTH123
        file.write(f"{type(error).__name__}: {error}\n")


@app.task(bind=True)
def progress(self: Task) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "ready"
