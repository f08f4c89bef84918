"""A node runs without the garbage collector. What the service does in the node's own process leaves nothing behind.

The requests themselves run in the server's process, which has a collector.
"""

from __future__ import annotations

import json

import pytest
from serving import PATIENCE_S, Site, enqueue
from tests.support.leftovers import grown_by

from disheap_grpc.v1 import broker_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS = 150


async def test_a_status_leaves_nothing_in_the_node(site: Site) -> None:
    async def ask() -> None:
        await site.cluster.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE_S)

    await nothing_grows(ask)


async def test_a_consumer_leaves_nothing_in_the_node(site: Site) -> None:
    async def consume() -> None:
        await enqueue(site, b"x")
        call = site.broker.Consume(timeout=PATIENCE_S)
        await call.write(pb.ConsumeRequest(start=pb.ConsumeStart(topic="jobs")))
        await call.read()
        lease = (await call.read()).delivery.lease
        await call.write(pb.ConsumeRequest(ack=pb.AckRequest(leases=[lease])))
        await call.read()
        call.cancel()

    await nothing_grows(consume)


async def nothing_grows(work: object) -> None:
    left = await grown_by(ROUNDS, work, ("disheap.kernel.types.Entry", "disheap_memory.storage.Block"))  # type: ignore[arg-type]
    disheaps = {name: count for name, count in left.items() if name.startswith("disheap")}
    assert not disheaps, json.dumps(disheaps, indent=1)
