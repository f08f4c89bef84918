"""Latency and rates against the backlog, as a picture. It needs matplotlib, which nothing else here does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from disheap.cli.bench.backlog import Depth


def draw(depths: Sequence[Depth], file: Path) -> None:
    """Writes the picture, in the format that the end of the file's name says."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    waiting = [depth.backlog for depth in depths]
    figure, (latency, rate) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    for label, values in {
        "p50": [depth.p50_us for depth in depths],
        "p99": [depth.p99_us for depth in depths],
        "longest": [depth.longest_us for depth in depths],
    }.items():
        latency.plot(waiting, values, marker="o", label=label)
    latency.set(yscale="log", ylabel="one enqueue, µs")
    for label, values in {
        "enqueued": [depth.enqueue_per_second for depth in depths],
        "popped and acknowledged": [depth.pop_per_second for depth in depths],
    }.items():
        rate.plot(waiting, values, marker="o", label=label)
    rate.set(xscale="log", ylabel="messages a second", xlabel="messages waiting in the topic", ylim=(0, None))
    for axes in (latency, rate):
        axes.grid(alpha=0.3)
        axes.legend()
    first = depths[0]
    figure.suptitle(f"{first.nodes} node{'s' * (first.nodes > 1)}, {first.payload_bytes} bytes a message")
    figure.savefig(file)
    pyplot.close(figure)
