"""Messages between groups on whole nodes under faults: none is lost, none comes twice, all are in order."""

from __future__ import annotations

import pytest

from tests.simulator.forwarding_groups import ROUTES, ForwardingCluster
from tests.simulator.several_groups import GROUPS

WORDS = 150
"""That each group's client sends."""


def run(seed: int) -> ForwardingCluster:
    cluster = ForwardingCluster(seed)

    async def life() -> None:
        for host in cluster.hosts:
            cluster.start(host)
        for group, host in zip(GROUPS, cluster.hosts, strict=True):
            await cluster.lead(host, group)
        disturbing = cluster.start_task(cluster.disturb())
        for working in [cluster.start_task(cluster.work(source, WORDS)) for source in GROUPS]:
            await working
        cluster.is_over = True
        await disturbing
        await cluster.wait(cluster.is_done, "something still waits for another group")
        cluster.check()

    cluster.run(life())
    return cluster


@pytest.mark.parametrize("seed", range(1, 7))
def test_every_message_to_another_group_arrives_once_and_in_order(seed: int) -> None:
    cluster = run(seed)
    promised = sum(len(cluster.promised[route]) for route in ROUTES)
    assert promised > len(GROUPS) * WORDS // 2, "hardly anything was promised"
    assert sum(cluster.faults.values()) >= 8, cluster.faults
    assert len(cluster.faults) >= 3, cluster.faults
    assert cluster.network.dropped and cluster.network.doubled, "no link was bad"
