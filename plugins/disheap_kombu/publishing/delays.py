"""Celery's tasks with an `eta` or a `countdown` wait in the broker, until they are due.

A worker that gets a task with a time in its header `eta` keeps the task in its memory until then. Here that time
becomes the message's due time instead. The worker gets the task when it is due, without the header, and runs it at
once. The time stays readable under `disheap_eta`. When the task runs, `restore_eta` makes it `self.request.eta` again.

Owns the two headers. It refuses to know channels: `Channel.prepare_message` asks it. It reads the headers of task
protocol 2, Celery's default. In protocol 1 the time is within the body, and the worker waits.
"""

from __future__ import annotations

import math
import sys
import time
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from kombu.exceptions import EncodeError

from disheap.protocol import broker

TASK, ETA, KEPT = "task", "eta", "disheap_eta"


def take_due_time(headers: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Returns the headers that the worker gets, and when the task is due: in seconds since 1970, 0 for at once. The
    caller's headers are not changed. Raises `EncodeError` for a time that cannot be read."""
    eta = headers.get(ETA)
    if TASK not in headers or (eta is None and KEPT not in headers):
        return headers, 0.0
    headers = dict(headers)
    headers.pop(KEPT, None)  # of the task that this one repeats or follows
    if eta is None:
        return headers, 0.0
    due_s = _seconds(eta)
    headers.update({ETA: None, KEPT: eta if isinstance(eta, str) else eta.isoformat()})
    return headers, due_s


def restore_eta(task: Any = None, **_: Any) -> None:
    """Gives a task that is about to run its time back, as text. Celery's signal `task_prerun` calls it."""
    request: Any = getattr(task, "request", None)
    kept = getattr(request, KEPT, None)
    if kept is not None and request.eta is None:
        request.eta = kept


def delay_ms(due_s: float) -> int:
    """How long a message has to wait that is due at `due_s`, by this machine's clock. 0 if it is due, or is no later
    than now."""
    return min(max(0, math.ceil((due_s - time.time()) * 1000)), broker.DURATION_MAX_MS) if due_s else 0


def _seconds(eta: Any) -> float:
    try:
        due = eta if isinstance(eta, datetime) else datetime.fromisoformat(eta)
        return (due if due.tzinfo else due.replace(tzinfo=_zone())).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise EncodeError(
            f"the task's eta {eta!r} is no time: {error}. Give a datetime, or a text such as 2030-01-31T12:00:00+00:00"
        ) from error


def _zone() -> tzinfo:
    """What a time without a zone means to Celery's workers: the application's `timezone`, or UTC."""
    celery = sys.modules.get("celery")
    zone = celery.current_app.conf.timezone if celery else None
    return ZoneInfo(zone) if isinstance(zone, str) else zone or UTC
