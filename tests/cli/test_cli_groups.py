"""The command line at a cluster with several groups: the table in `disheap status`, and which group was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from disheap.cli.cluster import _print_groups
from disheap.cli.processes.local_cluster import free_ports
from tests.cli.command_line import run
from tests.support.nodes import Cluster

MACHINES = ("counter", "heap", "heap")
COLUMNS = ["GROUP", "MACHINE", "NODE", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "SESSIONS"]


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """Three nodes, with a leader in each group."""
    ports = [f"127.0.0.1:{port}" for port in free_ports(6)]
    addresses = list(zip(ports[::2], ports[1::2], strict=True))
    cluster = Cluster(tmp_path, transport="tcp", addresses=addresses)
    for name, config in cluster.configs.items():
        cluster.configs[name] = msgspec.structs.replace(config, groups=3, group_machines=MACHINES, machine="heap")
    async with cluster:
        for node in cluster.nodes.values():
            for group in range(len(MACHINES)):
                await node.wait_for_leader(group=group)
        yield "disheap://" + ",".join(client for _, client in addresses)


async def test_status_has_a_row_for_each_group_on_each_node(url: str) -> None:
    shown = await asyncio.to_thread(run, "status", "--url", url)
    assert shown.code == 0, shown.err
    lines = [line.split() for line in shown.text.splitlines()]
    rows = lines[lines.index(COLUMNS) + 1 :][:9]
    assert [row[:3] for row in rows] == [
        [str(group), machine, node] for group, machine in enumerate(MACHINES) for node in ("n1", "n2", "n3")
    ]
    for group in range(3):
        of_group = rows[3 * group : 3 * group + 3]
        (leader,) = {row[5] for row in of_group}
        assert [row[2] for row in of_group if row[3] == "leader"] == [leader]


async def test_a_refusal_of_an_unknown_topic_names_the_group_that_was_asked(url: str) -> None:
    created = await asyncio.to_thread(run, "topic", "create", "jobs", "--url", f"{url}?group=1")
    assert created.code == 0, created.err
    for words in (("enqueue", "jobs", "x"), ("topic", "info", "jobs")):
        refused = await asyncio.to_thread(run, *words, "--url", f"{url}?group=2")
        assert refused.code == 5
        assert "there is no topic 'jobs' in group 2, which the URL names" in refused.err


def test_a_cluster_with_one_group_has_no_table_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    group = {"group": 0, "machine": "heap", "role": "leader", "term": 1, "leader": "n1"}
    _print_groups([{"node": "n1", "groups": [group]}, {"node": "n2", "groups": [{**group, "role": "follower"}]}])
    assert capsys.readouterr().out == ""
