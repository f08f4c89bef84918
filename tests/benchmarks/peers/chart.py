"""The figures as a picture, in SVG and PNG. It needs matplotlib, which only the tox environment `peers` installs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.peers.figures import WORKLOADS, Figures

SHOWN = ("publish", "pipelined", "receive", "noop", "urgent", "idle-cpu")
COLOURS = {"disheap": "#2a6f97", "rabbitmq": "#f3722c", "redis": "#9d4edd"}


def draw(figures: Figures, directory: Path) -> None:
    """Writes `chart.svg` and `chart.png`: a panel for each workload, a bar for each broker, and its range as a line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "peers"  # the same figures give the same file
    panels = [
        one for one in WORKLOADS if one.name in SHOWN and any((one.name, s) in figures.samples for s in one.settings)
    ]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 1.9 * len(panels)), squeeze=False)
    for workload, (axis,) in zip(panels, axes, strict=True):
        _draw_panel(axis, figures, workload)
    figure.tight_layout()
    figure.savefig(directory / "chart.svg", metadata={"Date": None})
    figure.savefig(directory / "chart.png", dpi=100)
    pyplot.close(figure)


def _draw_panel(axis: Any, figures: Figures, workload: Any) -> None:
    names = [name for name in reversed(workload.settings) if (workload.name, name) in figures.samples]
    middles = [figures.median(workload.name, name) or 0.0 for name in names]
    spreads = [figures.spread(workload.name, name) or (0.0, 0.0) for name in names]
    errors = [
        [middle - low for middle, (low, _) in zip(middles, spreads, strict=True)],
        [high - middle for middle, (_, high) in zip(middles, spreads, strict=True)],
    ]
    axis.barh(names, middles, xerr=errors, color=[COLOURS[name.split("-")[0].split()[0]] for name in names])
    better = "less is better" if workload.is_better_low else "more is better"
    axis.set_title(f"{workload.title} ({workload.unit}; {better})", fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
