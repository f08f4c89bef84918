"""From metrics as values to the text that Prometheus reads: its own format, or OpenMetrics if `Accept` asks for it.

Owns the pauses: one metric is written at a time, and the loop runs in between. Scrapes that come together share one
text, and one that comes within `FRESH_S` gets the last. So nobody can make a node do nothing but write metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from disheap.interfaces import Buckets, Metric
from disheap_http.messages import Answer

FRESH_S = 0.2
SAMPLES_AT_ONCE = 300
"""Written in one turn of the loop, in at most 5 ms."""
END = b"# EOF\n"
"""The end mark of OpenMetrics, once after all metrics."""

Collect = Callable[[], Awaitable[Sequence[Metric]]]
Encoder = Callable[[Any], bytes]


class Exposition:
    """The text of one node's metrics. `collect` gives the node's own, the process's are added."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Collect) -> None:
        self._loop = loop
        self._collect = collect
        self._process = ProcessCollector(registry=None)
        self._lock = asyncio.Lock()
        self._texts: dict[str, tuple[float, bytes]] = {}  # by format: since when, and the text

    async def answer(self, accept: str) -> Answer:
        """The metrics, in the format that the client prefers."""
        encoder, content_type = choose_encoder(accept)
        async with self._lock:
            made_at, text = self._texts.get(content_type, (float("-inf"), b""))
            if self._loop.time() - made_at >= FRESH_S:
                text = await self._write(encoder)
                self._texts[content_type] = self._loop.time(), text
        return Answer(200, text, content_type)

    async def _write(self, encoder: Encoder) -> bytes:
        pieces: list[bytes] = []
        for metric in await self._collect():
            for start in range(0, len(metric.samples) or 1, SAMPLES_AT_ONCE):
                some = metric._replace(samples=metric.samples[start : start + SAMPLES_AT_ONCE])
                piece = encoder(_Single(family_of(some)))
                pieces.append(_without_head(piece) if start else piece)
                await asyncio.sleep(0)
        pieces += [encoder(_Single(family)) for family in self._process.collect()]
        ends = bool(pieces) and pieces[0].endswith(END)
        return b"".join([*(piece.removesuffix(END) for piece in pieces), *([END] if ends else [])])


def _without_head(text: bytes) -> bytes:
    """Without the lines that say what the metric is: another part of it has them."""
    while text.startswith(b"# ") and not text.startswith(END):
        text = text.partition(b"\n")[2]
    return text


class _Single(Collector):
    """A registry of one metric."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return (self._family,)


def family_of(metric: Metric) -> Family:
    """Returns the metric as a family of prometheus_client."""
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.samples:
            assert isinstance(value, Buckets)
            bounds = [*map(repr, map(float, value.bounds)), "+Inf"]
            histogram.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.samples:
        assert not isinstance(value, Buckets)
        family.add_metric(labels, value)
    return family
