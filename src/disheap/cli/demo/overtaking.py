"""The demo's second part: a worker with Celery's own prefetching, an urgent task, and a chord.

The worker takes four tasks beside the one that it runs. Then an urgent task comes. The four go back, and it is next.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from disheap.cli.demo.counting import Published
from disheap.cli.demo.watching import DemoFailed, Record
from disheap.cli.terminal.progress import Show

NAPS, NAP_S = 8, 0.3
PREFETCHED_MIN = 3
"""The tasks that are with the worker, at least, when the urgent one comes."""
URGENT = 1_000_000
CHORD_TASKS = 20
CHORD_S = 60.0


class Overtaking(NamedTuple):
    """What has come of it."""

    published: list[Published]
    prefetched: int
    chord_right: bool


def overtake(tasks: Any, topic: Any, record: Record, show: Show, first: int) -> Overtaking:
    """Runs the part on a worker that runs. `tasks` is the example application, `topic` its queue, and `first` the
    number of the first task. Raises `DemoFailed` if that is not possible."""
    show.stage("running slow tasks, and an urgent one", first + NAPS + 1)
    published = [_nap(tasks, first + number, 0) for number in range(NAPS)]
    record.wait(lambda: topic.stats().leased >= PREFETCHED_MIN, "the worker took no tasks")
    prefetched = topic.stats().leased
    show.note(f"an urgent task comes while the worker holds {prefetched} others")
    published.append(_nap(tasks, first + NAPS, URGENT))
    record.wait_all({task.number for task in published})
    show.stage(f"a chord of {CHORD_TASKS} tasks")
    return Overtaking(published, prefetched, _sum_squares(tasks) == sum(n * n for n in range(CHORD_TASKS)))


def _nap(tasks: Any, number: int, priority: int) -> Published:
    tasks.nap.apply_async((number, priority, NAP_S), priority=priority)
    return Published(number, priority, time.monotonic_ns(), priority == URGENT)


def _sum_squares(tasks: Any) -> int:
    from celery import chord
    from celery.exceptions import TimeoutError as NoResult

    result = chord(tasks.square.s(number) for number in range(CHORD_TASKS))(tasks.total.s())
    try:
        return int(result.get(timeout=CHORD_S))
    except NoResult:
        raise DemoFailed(f"the chord had no result within {CHORD_S:g} s") from None
