"""`disheap bench --backlog`: rates, latency and memory while more and more messages wait in one topic.

Owns the depths, the filling, and what is measured at each of them. On nodes of its own it also measures a restart and a
node that joins. The workloads themselves are in `native`.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import msgspec

import disheap.sync
from disheap.cli.bench import native
from disheap.cli.bench.figures import percentile_us
from disheap.cli.processes.local_cluster import ClusterFailed, LocalCluster
from disheap.client.api.asynchronous import Client
from disheap.errors import RequestError
from disheap.protocol import broker

SHALLOWEST = 10_000
STEP = 10**0.5
PRIORITIES = range(-5, 5)
"""The waiting messages have these. What is measured has priority 0, so it goes into the middle of the order."""
DRAIN_S = 600.0
RECOVERY_S = 600.0
"""A restart or a join that takes longer is given up."""
POLL_S = 0.05


class Depth(msgspec.Struct, frozen=True):
    """One line of the table. `bytes_per_message`: what the node that answers has in memory for each waiting message,
    without its payload. The latencies are those of one enqueue after another."""

    workload: str
    nodes: int
    backlog: int
    payload_bytes: int
    fill_per_second: float
    enqueue_per_second: float
    pop_per_second: float
    p50_us: float
    p99_us: float
    longest_us: float
    resident_bytes: int
    bytes_per_message: int


class Recovery(msgspec.Struct, frozen=True):
    """What happens to the nodes of a deep topic. `restart_s`: from the start of all nodes, after they were killed,
    until they serve. `join_s`: from the start of one more node until it has all and votes. The latencies are those of
    one enqueue after another while it joins."""

    workload: str
    nodes: int
    backlog: int
    restart_s: float
    join_s: float
    p50_us: float
    p99_us: float
    longest_us: float


def depths(backlog: int) -> list[int]:
    """From `SHALLOWEST` to `backlog`, two in each power of ten."""
    steps, depth = [], float(SHALLOWEST)
    while _rounded(depth) < backlog:
        steps.append(_rounded(depth))
        depth *= STEP
    return [*steps, backlog]


def _rounded(depth: float) -> int:
    """One digit and zeros: 31,623 becomes 30,000."""
    unit: int = 10 ** (len(str(round(depth))) - 1)
    return round(depth / unit) * unit


class Backlog:
    """One topic that grows. `nodes` is for the results."""

    def __init__(self, url: str, topic: str, payload: bytes, seconds: float, window: int, nodes: int) -> None:
        self._url, self._topic, self._payload = url, topic, payload
        self._seconds, self._window, self._nodes = seconds, window, nodes
        self._random = random.Random(0)
        self._waiting = 0
        self._empty_bytes = self._resident_bytes()

    async def measure(self, client: Client, depth: int) -> Depth:
        """Fills the topic up to `depth`, and measures there. What is measured is taken out again."""
        began = time.perf_counter()
        more = depth - self._waiting
        await self._fill(client, more)
        fill_s = time.perf_counter() - began
        resident_bytes = self._resident_bytes()
        trips = (await native.round_trip(client, self._topic, self._payload, self._seconds)).figures()
        pipeline = await native.enqueue(client, self._topic, self._payload, self._window, self._seconds)
        surplus = (await client.topic(self._topic).stats()).ready - depth
        pops = await native.pop(client, self._topic, surplus, DRAIN_S)
        self._waiting = (await client.topic(self._topic).stats()).ready
        return Depth(
            workload="backlog",
            nodes=self._nodes,
            backlog=depth,
            payload_bytes=len(self._payload),
            fill_per_second=round(more / fill_s, 1),
            enqueue_per_second=pipeline.figures()["operations_per_second"],
            pop_per_second=pops.figures()["operations_per_second"],
            p50_us=trips["p50_us"],
            p99_us=trips["p99_us"],
            longest_us=trips["longest_us"],
            resident_bytes=resident_bytes,
            bytes_per_message=round((resident_bytes - self._empty_bytes) / depth) - len(self._payload),
        )

    async def _fill(self, client: Client, messages: int) -> None:
        """At random priorities, always the same ones."""
        kinds = [broker.NewMessage(self._payload, priority) for priority in PRIORITIES]
        batch = max(1, min(native.FILL_BATCH, native.FILL_BATCH_BYTES // max(1, len(self._payload))))
        starts = iter(range(0, messages, batch))

        async def filler() -> None:
            for start in starts:
                count = min(batch, messages - start)
                await client.topic(self._topic).enqueue_many(self._random.choices(kinds, k=count))

        await asyncio.gather(*(filler() for _ in range(native.FILL_BATCHES)))

    def _resident_bytes(self) -> int:
        with disheap.sync.connect(self._url, observer=True) as client:
            status: dict[str, Any] = client.status()
        return int(status["memory"]["resident_bytes"])


def restart(cluster: LocalCluster, topic: str, backlog: int) -> float:
    """Kills all nodes and starts them again. Returns after how many seconds a client finds what waits."""
    for name in cluster.places:
        cluster.kill(name)
    began = time.monotonic()
    for name in cluster.places:
        cluster.start(name)
    cluster.wait_ready(RECOVERY_S)
    with disheap.sync.connect(cluster.url) as client:
        found = client.topic(topic).stats().ready
    if found != backlog:
        raise ClusterFailed(f"{found} of {backlog} messages were there after a restart")
    return time.monotonic() - began


async def join(cluster: LocalCluster, client: Client, topic: str, payload: bytes) -> tuple[float, Sequence[int]]:
    """Starts one more node. Returns after how many seconds it has all and votes, and the latencies meanwhile, in ns."""
    latencies = array("q")
    began = time.monotonic()
    name = cluster.add()
    joined = asyncio.create_task(asyncio.to_thread(_wait, lambda: _votes(cluster, name)))
    while not joined.done():
        began_ns = perf_counter_ns()
        await client.topic(topic).enqueue(payload)
        latencies.append(perf_counter_ns() - began_ns)
    await joined
    return time.monotonic() - began, sorted(latencies)


def _votes(cluster: LocalCluster, name: str) -> bool:
    """Whether the node is a voter by its own word, so it has applied the change that made it one."""
    cluster.check_alive()
    try:
        own = cluster.status(name)
    except RequestError:
        return False
    return any(member["is_self"] and member["role"] == "voter" for member in own["members"]) and bool(own["leader"])


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RECOVERY_S
    while not is_so():
        if time.monotonic() > deadline:
            raise ClusterFailed(f"the new node had not caught up after {RECOVERY_S:g} s")
        time.sleep(POLL_S)


def recovered(nodes: int, backlog: int, restart_s: float, join_s: float, latencies_ns: Sequence[int]) -> Recovery:
    """The result. The latencies are sorted."""
    return Recovery(
        workload="recovery",
        nodes=nodes,
        backlog=backlog,
        restart_s=round(restart_s, 2),
        join_s=round(join_s, 2),
        p50_us=percentile_us(latencies_ns, 0.5),
        p99_us=percentile_us(latencies_ns, 0.99),
        longest_us=percentile_us(latencies_ns, 1.0),
    )
