"""Events a second, from counters that are read once in a while. Owns the last two readings."""

from __future__ import annotations

from collections.abc import Sequence

from disheap.interfaces import Buckets, Metric

EVERY_S = 5.0
"""The time between two updates. A rate is that of the last such time."""

Key = tuple[str, str]
"""The group and the topic."""


class Rates:
    """`update` every `EVERY_S`; `of` one topic at any time."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._counts: dict[Key, dict[str, float]] = {}
        self._rates: dict[Key, dict[str, float]] = {}

    def update(self, now_s: float, metrics: Sequence[Metric]) -> None:
        """Takes in the counters that have the labels `group` and `topic`."""
        before, passed_s = self._counts, now_s - self._looked_at
        self._counts, self._looked_at = {}, now_s
        for metric in metrics:
            if metric.kind != "counter" or metric.labels != ("group", "topic"):
                continue
            name = metric.name.removeprefix("disheap_").removesuffix("_total")
            for (group, topic), value in metric.samples:
                assert not isinstance(value, Buckets)
                self._counts.setdefault((group, topic), {})[name] = value
        self._rates = {
            key: {
                name: round(max(0.0, value - before[key].get(name, value)) / passed_s, 3)
                for name, value in counts.items()
            }
            for key, counts in self._counts.items()
            if key in before and passed_s > 0
        }

    def of(self, group: int, topic: str) -> dict[str, float] | None:
        """Events a second by name. None for a topic that has no counters of its own, or is new."""
        return self._rates.get((str(group), topic))
