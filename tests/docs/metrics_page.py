"""Makes the tables of the page on metrics from a node that runs: `python -m tests.docs.metrics_page`.

Everything below `MARK` is made from what a node tells of itself. A test holds it against that.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from disheap.config.node_config import MemberConfig, NodeConfig
from disheap.interfaces import Metric
from disheap.runtime.member import Member
from disheap_http.service import HttpService

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"
MARK = "<!-- from here on made by `python -m tests.docs.metrics_page` from a node -->"

PARTS = (
    ("Consensus", "raft_"),
    ("Topics", ""),
    ("The node", ""),
    ("HTTP", "disheap_http_"),
)
"""Titles, and what the names in them begin with. Those with a topic, and those of the machine, are in the second."""


async def collect() -> list[Metric]:
    """All metrics of a node that has another member."""
    members = tuple(MemberConfig(f"n{n}", f"page{n}:8300", f"page{n}:8400") for n in (1, 2))
    addresses = {"listen": "127.0.0.1:0", "metrics_listen": "none"}
    config = NodeConfig(
        name="n1", members=members, storage="memory", transport="inproc", peer_listen="page1:8300",
        client_listen="page1:8400", services=("http",), plugins={"service": {"http": addresses}},
    )  # fmt: skip
    async with Member(config) as node:
        ((_, service),) = node._services._running
        assert isinstance(service, HttpService)
        return await service.collect()


def part_of(metric: Metric, of_machine: set[str]) -> str:
    if metric.name in of_machine:
        return "Topics"
    return next((title for title, begins in PARTS if begins and metric.name.startswith(begins)), "The node")


def machine_names() -> set[str]:
    """The metrics that the machine `heap` has."""
    from disheap.interfaces import MachineContext
    from disheap_heap.machine import HeapMachine
    from disheap_heap.settings import HeapSettings

    return {one.name for one in HeapMachine(HeapSettings(), MachineContext()).metrics(0)}


def render(metrics: list[Metric]) -> str:
    """The part of the page below `MARK`."""
    of_machine = machine_names()
    out = []
    for title, _ in PARTS:
        rows = [metric for metric in metrics if part_of(metric, of_machine) == title]
        table = ["| metric | kind | labels | what it is |", "|---|---|---|---|"]
        for one in rows:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            table.append(f"| `{one.name}` | {one.kind} | {labels} | {one.help} |")
        out += [f"## {title}", "\n".join(table)]
    return "\n\n".join(out) + "\n"


def main() -> None:
    text = render(asyncio.run(collect()))
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + f"{MARK}\n\n{text}")


if __name__ == "__main__":
    main()
