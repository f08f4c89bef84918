"""The page on metrics is what a node says of itself."""

from __future__ import annotations

import pytest
from metrics_page import MARK, PAGE, collect, render

from disheap.interfaces import Metric


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    import asyncio

    return asyncio.run(collect())


def test_the_tables_are_made_from_a_node(metrics: list[Metric]) -> None:
    """`python -m tests.docs.metrics_page` makes them anew."""
    is_made = PAGE.read_text().partition(MARK)[2].strip() == render(metrics).strip()
    assert is_made, "a metric has changed: run python -m tests.docs.metrics_page"


def test_names_and_units_are_those_that_prometheus_asks_for(metrics: list[Metric]) -> None:
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert metric.name.startswith(("raft_", "disheap_"))
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.kind != "histogram" or metric.name.endswith("_seconds"), metric.name
        assert not metric.name.endswith(("_ms", "_s", "_count", "_sum", "_bucket")), metric.name
        assert metric.help.endswith("."), metric.name
