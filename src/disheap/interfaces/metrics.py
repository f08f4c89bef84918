"""Metrics as values: what a node and its machines count, for whoever shows it.

Owns the shape of a metric and the histogram that is counted on the way. Does not know a format: a service makes one of
it. A metric counts what one process saw since it started, and is no part of any state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

SECONDS_OF_IO = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of a histogram of times that a disk or a network takes: an fsync of a good disk takes 0.1 ms."""


class Buckets(NamedTuple):
    """What a histogram holds: a count for each bound, not summed up, one more for all above, and the sum of values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Metric(NamedTuple):
    """One metric with all its samples: label values, in the order of `labels`, and a number or `Buckets`. The names
    follow Prometheus: `_total` ends a counter, units last, in seconds and bytes."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float | Buckets]]


class Histogram:
    """Counts values by size. `bounds` ascend; a value belongs to the first bound that it does not exceed.

    >>> sizes = Histogram((1, 10))
    >>> for value in (1, 2, 200):
    ...     sizes.observe(value)
    >>> sizes.read()
    Buckets(bounds=(1, 10), counts=(1, 1, 1), total=203.0)
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS_OF_IO) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value. Takes 0.2 us."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> Buckets:
        """Returns what was counted so far."""
        return Buckets(self._bounds, tuple(self._counts), self._total)


@runtime_checkable
class Measuring(Protocol):
    """Optional power of a machine: it counts what it does, for metrics and statistics. Each replica counts what it
    applies itself, so all replicas of a group count about the same. The counts are no part of the state. They begin at
    0 when a process starts, and when a replica takes over a leader's snapshot.

    What there may be many of, such as topics, has metrics of its own up to a bound. The first label is its name. The
    others are summed, in samples whose first label is "". One that has left the sum never comes back to it, so no
    counter ever decreases."""

    def limit_series(self, series_max: int) -> None:
        """Sets how many topics, or whatever the machine counts one by one, have metrics of their own at most. Called
        once, before any other call."""

    def metrics(self, time_ms: int) -> Sequence[Metric]:
        """What was counted so far, and what is there now. `time_ms` is log time. Takes at most 20 ms for 1,000 series,
        and constant time for all others together."""

    def list_stats(self, time_ms: int, prefix: str, after: str, limit: int) -> tuple[Sequence[dict[str, Any]], int]:
        """A page of rows for people: at most `limit` of those whose name begins with `prefix`, in the order of names,
        from the first name after `after` on. Each row has `name`, and values that JSON can write. Also returns how many
        have the prefix. Takes at most 10 ms for a limit of 50."""
