"""What a benchmark run says: operations a second, and exact percentiles of every operation's latency.

Pure but for the clock. Nothing is sampled or put into buckets: each latency is kept, 8 bytes each, and sorted.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter_ns

import msgspec

WARM_UP_PART = 0.2
WARM_UP_MAX_S = 1.0
"""Buffers, caches and the interpreter's specialisation settle within some thousand operations."""


class Result(msgspec.Struct, frozen=True):
    """One line of `disheap bench --json`. `window` is the most that was under way at once: unanswered enqueues, or
    unacknowledged deliveries."""

    workload: str
    nodes: int
    operations_per_second: float
    p50_us: float
    p99_us: float
    p999_us: float
    longest_us: float
    payload_bytes: int
    window: int
    seconds: float
    operations: int
    cores: int
    python: str
    uvloop: str


class Meter:
    """Counts from the end of the warm-up to `due`. The caller says when an operation began and ended."""

    def __init__(self, seconds: float, clock: Callable[[], int] = perf_counter_ns) -> None:
        """Starts now. `clock` counts ns."""
        self.seconds = seconds + min(seconds * WARM_UP_PART, WARM_UP_MAX_S)
        self._latencies_ns = array("q")
        begun = clock()
        self._warm_ns = begun + int(min(seconds * WARM_UP_PART, WARM_UP_MAX_S) * 1e9)
        self._end_ns = self._warm_ns + int(seconds * 1e9)
        self._skipped = -1
        self._counted = -1
        self._first_ns = self._last_ns = begun
        self.add = self._latencies_ns.append
        """One latency in ns. Bound once: it is called for every operation."""

    def due(self, now_ns: int) -> bool:
        """Whether the time is up. To be asked every few operations: it also notes when the warm-up was over."""
        if self._skipped < 0 and now_ns >= self._warm_ns:
            self._skipped, self._first_ns = len(self._latencies_ns), now_ns
        if now_ns >= self._end_ns:
            self.stop(now_ns)
        return self._counted >= 0

    def stop(self, now_ns: int) -> None:
        """The last counted moment: the time is up, or there is nothing left to do. The first call counts."""
        if self._counted >= 0:
            return
        self._skipped = max(self._skipped, 0)
        self._counted, self._last_ns = len(self._latencies_ns), now_ns

    def figures(self) -> dict[str, float | int]:
        """The fields of `Result` that are measured."""
        counted = sorted(self._latencies_ns[self._skipped : self._counted])
        seconds = (self._last_ns - self._first_ns) / 1e9
        return {
            "operations_per_second": round(len(counted) / seconds, 1) if seconds else 0.0,
            "p50_us": percentile_us(counted, 0.5),
            "p99_us": percentile_us(counted, 0.99),
            "p999_us": percentile_us(counted, 0.999),
            "longest_us": percentile_us(counted, 1.0),
            "seconds": round(seconds, 3),
            "operations": len(counted),
        }


def percentile_us(ordered_ns: Sequence[int], part: float) -> float:
    """The smallest latency that at least `part` of all do not exceed (nearest rank); 0 of none."""
    if not ordered_ns:
        return 0.0
    return round(ordered_ns[max(0, math.ceil(part * len(ordered_ns)) - 1)] / 1000, 1)
