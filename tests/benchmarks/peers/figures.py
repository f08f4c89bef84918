"""The figures of one run: a sample for each round, medians, and ratios within the rounds."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import NamedTuple


class Workload(NamedTuple):
    """`settings` are the names of what is compared. `unit` says what a sample counts."""

    name: str
    title: str
    unit: str
    settings: tuple[str, ...]
    is_better_low: bool = False


class Target(NamedTuple):
    """What a ratio is to be: at least `goal`, or at most, where less is better."""

    ours: tuple[str, str]  # workload and setting
    theirs: tuple[str, str]
    goal: float
    is_at_most: bool = False


CONFIRMED = ("rabbitmq classic confirmed", "rabbitmq quorum confirmed")
UNCONFIRMED = ("rabbitmq classic unconfirmed", "rabbitmq quorum unconfirmed")
REDIS = ("redis", "redis-always")
CELERY = ("disheap-1", "rabbitmq classic unconfirmed", "redis")

WORKLOADS = (
    Workload("publish", "kombu: publish, one by one", "messages/s", ("disheap-1", "disheap-3", *CONFIRMED, *REDIS)),
    Workload(
        "pipelined", "kombu: publish, not waiting", "messages/s", ("disheap-1 window", "disheap-3 window", *UNCONFIRMED)
    ),
    Workload(
        "receive", "kombu: receive and ack, prefetch 64", "messages/s", ("disheap-1", "disheap-3", *UNCONFIRMED, *REDIS)
    ),
    Workload(
        "noop", "Celery: tasks that do nothing", "tasks/s", ("disheap-1", "disheap-1 count", "disheap-3", *CELERY[1:])
    ),
    Workload("urgent", "Celery: wait of an urgent task, 99%", "ms", CELERY, is_better_low=True),
    Workload("idle-written", "idle worker: written by the broker", "bytes", CELERY, is_better_low=True),
    Workload("idle-broker", "idle worker: processor time of the broker", "ms/s", CELERY, is_better_low=True),
    Workload("idle-worker", "idle worker: its own processor time", "ms/s", CELERY, is_better_low=True),
    Workload("idle-cpu", "idle worker: processor time of both", "ms/s", CELERY, is_better_low=True),
)
WORKLOAD_NAMES = ("publish", "pipelined", "receive", "noop", "urgent", "idle")
"""What `--only` takes."""

TARGETS = (
    *(Target(("publish", "disheap-1"), ("publish", one), 2.0) for one in CONFIRMED),
    *(Target(("publish", "disheap-3"), ("publish", one), 1.2) for one in CONFIRMED),
    *(Target(("pipelined", "disheap-1 window"), ("pipelined", one), 1.5) for one in UNCONFIRMED),
    Target(("pipelined", "disheap-1 window"), ("publish", "redis"), 15.0),
    *(Target(("receive", "disheap-1"), ("receive", one), 4.6) for one in UNCONFIRMED),
    Target(("receive", "disheap-1"), ("receive", "redis"), 75.0),
    Target(("noop", "disheap-1"), ("noop", "rabbitmq classic unconfirmed"), 1.5),
    Target(("noop", "disheap-1"), ("noop", "redis"), 2.0),
    Target(("urgent", "disheap-1"), ("urgent", "rabbitmq classic unconfirmed"), 0.1, is_at_most=True),
    Target(("idle-cpu", "disheap-1"), ("idle-cpu", "redis"), 1.0, is_at_most=True),
)


class Figures:
    """Samples of each workload and setting, in the order of the rounds."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, workload: str, setting: str, sample: float) -> None:
        """The sample of one round."""
        self.samples[workload, setting].append(sample)

    def median(self, workload: str, setting: str) -> float | None:
        """None for what was not measured."""
        samples = self.samples.get((workload, setting))
        return median(samples) if samples else None

    def spread(self, workload: str, setting: str) -> tuple[float, float] | None:
        """The smallest and the largest sample."""
        samples = self.samples.get((workload, setting))
        return (min(samples), max(samples)) if samples else None

    def ratio(self, ours: tuple[str, str], theirs: tuple[str, str]) -> float | None:
        """The median over the rounds of ours divided by theirs. None if one was not measured, or theirs is 0."""
        pairs = list(zip(self.samples.get(ours, ()), self.samples.get(theirs, ()), strict=False))
        if not pairs or any(not other for _, other in pairs):
            return None
        return median(our / other for our, other in pairs)
