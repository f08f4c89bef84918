"""A node process whose wall clock is ten years ahead, among two whose clocks are right."""

from __future__ import annotations

import asyncio
import signal

import pytest

import disheap
from tests.chaos.forger import wait_until
from tests.chaos.nodes import ChaosCluster, wait_ended

pytestmark = pytest.mark.timeout(120)
TEN_YEARS_MS = 10 * 365 * 86_400_000
HOUR_MS = 3_600_000
ENDS_S = 20.0
DELAYED, EXPIRING = b"in an hour", b"for a day"


async def test_a_node_ten_years_ahead_does_not_lead_and_fires_no_delay_and_no_expiry(needs_shim: None) -> None:
    """It is asked to lead, and there is an election in which it could win."""
    with ChaosCluster(3, proxies=False) as cluster:
        await wait_until(lambda: _leads_other_than(cluster, ""), "no leader")
        async with disheap.connect(cluster.url, timeout_s=ENDS_S) as client:
            await client.create_topic("jobs")
            topic = client.topic("jobs")
            await topic.enqueue(DELAYED, delay_ms=HOUR_MS)
            await topic.enqueue(EXPIRING, expires_ms=24 * HOUR_MS)
            leader = await cluster.leader()
            wrong = next(node for node in cluster.nodes.values() if node.name != leader)
            assert wrong.control is not None
            wrong.signal(signal.SIGTERM)
            await asyncio.to_thread(wait_ended, wrong, ENDS_S)
            wrong.control.set(clock_offset_ms=TEN_YEARS_MS)
            cluster.start(wrong.name)
            await wait_until(lambda: _follows(cluster, wrong.name), "it does not catch up")
            await wait_until(lambda: _says_why(cluster, wrong.name), "it does not say that it cannot lead")
            cluster.nodes[leader].signal(signal.SIGTERM)  # hands leadership over
            await asyncio.to_thread(wait_ended, cluster.nodes[leader], ENDS_S)
            await wait_until(lambda: _leads_other_than(cluster, wrong.name), "no leader with a right clock")
            await topic.enqueue(b"after")
            assert [one.payload for one in await topic.peek(10)] == [EXPIRING, b"after"]
            assert [one.payload for one in await topic.peek(10, delayed=True)] == [EXPIRING, b"after", DELAYED]
            assert await cluster.leader() != wrong.name


async def _leads_other_than(cluster: ChaosCluster, name: str) -> bool:
    return await cluster.leader() not in ("", name)


async def _follows(cluster: ChaosCluster, name: str) -> bool:
    hashes = await cluster.hashes()
    return name in hashes and len(hashes) == len(cluster.nodes) and len(set(hashes.values())) == 1


async def _says_why(cluster: ChaosCluster, name: str) -> bool:
    status = await cluster.status(name)
    return status is not None and "days" in status["clock"]["objection"]
