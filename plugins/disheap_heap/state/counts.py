"""What the machine counts for operators, topic by topic. Not state: each replica counts what it applies.

Owns which topics are counted one by one. The first so many topics are, in the order of creation. All others share one
object, and so do topics that come and go: exclusive ones, and those that are deleted when they are unused. So the
number of time series is bounded also over a long time. A topic does not change its object while it lives. So no counter
ever decreases.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from disheap.interfaces import Histogram
from disheap.protocol.broker import TopicSettings

SERIES_MAX = 500
"""Topics that are counted one by one if nobody says another number."""
WAIT_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0
)  # fmt: skip
"""Bounds of the time from enqueueing to the first delivery. Log time has steps of a millisecond."""


class Counts:
    """Events of one topic, or of several."""

    __slots__ = (
        "acked",
        "dead_lettered",
        "delivered",
        "dropped",
        "enqueued",
        "exhausted",
        "expired",
        "nacked",
        "redelivered",
        "released",
        "returned",
    )

    def __init__(self) -> None:
        self.enqueued = self.delivered = self.redelivered = self.acked = self.nacked = 0
        self.returned = self.released = self.expired = self.exhausted = self.dropped = 0
        self.dead_lettered: dict[str, int] = {}  # by reason


class Counted(Protocol):
    """A topic, as far as it is counted."""

    number: int
    settings: TopicSettings
    counts: Counts


T = TypeVar("T", bound=Counted)


class Series(Generic[T]):
    """Gives topics their counts."""

    def __init__(self, series_max: int = SERIES_MAX) -> None:
        self.rest = Counts()  # of all topics that are not counted one by one
        self.shown: dict[int, T] = {}  # those that are, by number
        self.waits = Histogram(WAIT_SECONDS)
        self._series_max = series_max

    def add(self, topic: T) -> None:
        """A new topic."""
        settings = topic.settings
        is_temporary = settings.exclusive or settings.auto_delete or settings.expires_ms > 0
        if is_temporary or len(self.shown) >= self._series_max:
            topic.counts = self.rest
        else:
            self.shown[topic.number] = topic
            topic.counts = Counts()

    def remove(self, topic: T) -> None:
        """The topic is deleted. What happens to its leases is counted in the rest."""
        self.shown.pop(topic.number, None)
        topic.counts = self.rest
