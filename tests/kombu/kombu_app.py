"""The Celery application of the worker tests; nothing in it names disheap but the broker's URL."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

app = Celery("kombu_app", broker=os.environ.get("BROKER", "disheap://"))
RESULTS = os.environ.get("RESULTS")
"""A result backend, for the tests that want one."""

app.conf.update(
    result_backend=RESULTS,
    task_ignore_result=not RESULTS,
    result_chord_retry_interval=0.2,
    worker_prefetch_multiplier=1,
    worker_disable_rate_limits=False,
)


@app.task
def note(path: str, text: str, pause_s: float = 0.0) -> None:
    """Leaves a trace that any number of workers may add to, and before it a sign that it has begun."""
    Path(f"{path}.{text}").touch()
    time.sleep(pause_s)
    with open(path, "a") as file:  # noqa: PTH123
        file.write(text + "\n")


@app.task
def note_when_let_go(path: str, text: str) -> None:
    """Runs until the file `<path>.go` is there."""
    Path(f"{path}.{text}").touch()
    while not Path(f"{path}.go").exists():
        time.sleep(0.01)
    note.run(path, text)


@app.task(acks_late=True)
def note_late(path: str, text: str, pause_s: float = 0.0) -> None:
    note.run(path, text, pause_s)


@app.task(acks_late=True)
def note_late_when_let_go(path: str, text: str) -> None:
    note_when_let_go.run(path, text)


@app.task
def make(size: int) -> str:
    return "x" * size


@app.task
def total(texts: list[str]) -> int:
    return sum(len(text) for text in texts)
