"""One run: a cluster, a load, one fault after another, and at the end everything healed, drained and judged."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field

from tests.chaos import faults
from tests.chaos.faults import Fault, FaultFailed, Scene
from tests.chaos.history import Verdict, judge
from tests.chaos.network import Network
from tests.chaos.nodes import ChaosCluster
from tests.chaos.workload import Workload

READY_S = 60.0
SERVICE_S = 60.0
"""Healed, the cluster has to serve again within this; it takes 1 to 3 s on a quiet machine."""
EQUAL_S = 60.0
SHOWN = 20


@dataclass
class Report:
    seed: int
    nodes: int
    seconds: float = 0.0
    operations: int = 0
    enqueued: int = 0
    delivered: int = 0
    settled: int = 0
    unknown: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    not_possible_here: dict[str, str] = field(default_factory=dict)
    frames_lost: int = 0
    frames_doubled: int = 0
    frames_overtaken: int = 0
    longest_without_service_s: float = 0.0
    during: str = ""
    lost: int = 0
    doubled: int = 0
    two_leases: int = 0
    out_of_order: int = 0
    wrong: int = 0
    replicas_equal: bool = False
    complaints: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.replicas_equal and not self.complaints

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "ok": self.ok}

    def text(self) -> str:
        lines = [
            f"{'passed' if self.ok else 'FAILED'}: {self.nodes} nodes, {self.seconds:.0f} s, seed {self.seed}",
            f"operations   {self.operations} ({self.enqueued} enqueued, {self.delivered} deliveries, "
            f"{self.settled} settled, {self.unknown} of unknown outcome)",
            f"faults       {sum(self.faults.values())} survived: "
            + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
            f"frames       {self.frames_lost} lost, {self.frames_doubled} doubled, {self.frames_overtaken} overtaken",
            f"no service   {self.longest_without_service_s:.1f} s at the longest, during {self.during or 'no fault'}",
            f"lost         {self.lost}",
            f"doubled      {self.doubled}",
            f"two leases   {self.two_leases}",
            f"out of order {self.out_of_order}",
            f"wrong        {self.wrong}",
            f"replicas     {'equal' if self.replicas_equal else 'DIFFER'}",
        ]
        lines += [f"not possible here: {name}: {reason}" for name, reason in self.not_possible_here.items()]
        return "\n".join(lines + [f"! {line}" for line in self.complaints[:SHOWN]])


Say = Callable[[str], None]


def run(
    *, nodes: int, seconds: float, seed: int, kinds: Sequence[Fault] | None = None, say: Say = lambda _: None
) -> Report:
    """Every process is gone when it returns. Raises `FaultFailed` and `TimeoutError` where the cluster does not come
    back; the nodes' logs go to standard error then."""
    tmpfs = not faults.why_no_tmpfs()
    found, missing = faults.available(tmpfs)
    chosen = list(kinds) if kinds is not None else found
    report = Report(seed=seed, nodes=nodes, not_possible_here=missing)
    with ChaosCluster(nodes, tmpfs=tmpfs) as cluster:
        asyncio.run(_Run(cluster, report, chosen, seed, say).go(seconds))
    return report


class _Run:
    def __init__(self, cluster: ChaosCluster, report: Report, kinds: list[Fault], seed: int, say: Say) -> None:
        self._cluster, self._report, self._kinds, self._say = cluster, report, kinds, say
        self._random = random.Random(seed)
        self._times: list[tuple[float, float, str]] = []  # begin, service again, fault

    async def go(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        nodes = self._cluster.nodes.values()
        peers = {node.name: (node.peer_proxy, node.peer_port) for node in nodes}
        clients = {node.name: (node.client_proxy, node.client_port) for node in nodes}
        async with AsyncExitStack() as stack:
            network = await stack.enter_async_context(Network(peers, clients, random.Random(self._random.random())))
            load = Workload(self._cluster.url, random.Random(self._random.random()))
            await load.start()
            await load.wait_service(READY_S)
            begin = loop.time()
            scene = Scene(self._cluster, network, self._random)
            await self._faults(scene, load, begin + seconds)
            end = loop.time()
            await load.stop()
            await load.drain()
            self._report.replicas_equal = await self._wait_equal()
            self._fill_in(load, network, begin, end)
            self._judge(judge(load.history))

    async def _faults(self, scene: Scene, load: Workload, until: float) -> None:
        """Each kind before any comes again, in an order of chance."""
        loop, counts, queue = asyncio.get_running_loop(), Counter[str](), list[Fault]()
        while loop.time() < until:
            queue = queue or self._random.sample(self._kinds, len(self._kinds))
            fault = queue.pop()
            name, begin = fault.__name__, loop.time()
            await fault(scene)
            scene.network.heal()
            self._check_ended(name, self._cluster.revive())
            await load.wait_service(SERVICE_S)
            self._times.append((begin, loop.time(), name))
            counts[name] += 1
            self._report.faults = dict(counts)
            self._say(f"{name}: served again {loop.time() - begin:.1f} s after it began")
            await asyncio.sleep(self._random.uniform(0.2, 1.0))
            if load.failure is not None:
                raise load.failure

    def _check_ended(self, fault: str, ended: list[str]) -> None:
        """Nobody ends on his own account."""
        expected = ("kill", "error", "restart", "clocks", "files")
        if ended and not any(word in fault for word in expected):
            raise FaultFailed(f"{', '.join(ended)} ended during {fault}, which ends nobody")

    async def _wait_equal(self) -> bool:
        """All replicas hold the same state at the same index."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + EQUAL_S
        while loop.time() < deadline:
            found = await self._cluster.hashes()
            if len(found) == len(self._cluster.nodes) and len({index for index, _ in found.values()}) == 1:
                return len(set(found.values())) == 1
            await asyncio.sleep(0.1)
        raise FaultFailed(f"the replicas did not come to one index within {EQUAL_S} s: {found}")

    def _fill_in(self, load: Workload, network: Network, begin: float, end: float) -> None:
        report, history = self._report, load.history
        report.seconds = end - begin
        report.operations = history.operations
        report.enqueued = sum(entry.outcome.value == "ok" for entry in history.enqueues)
        report.delivered, report.settled = len(history.deliveries), len(history.settles)
        report.unknown = sum(entry.outcome.value == "unknown" for entry in (*history.enqueues, *history.settles))
        roads = network.between_nodes()
        report.frames_lost = sum(road.lost for road in roads)
        report.frames_doubled = sum(road.twice for road in roads)
        report.frames_overtaken = sum(road.swapped for road in roads)
        report.longest_without_service_s, at = history.longest_gap_s(begin, end)
        overlapping = [
            name for first, last, name in self._times if first <= at + report.longest_without_service_s / 2 <= last
        ]
        report.during = ", ".join(overlapping)

    def _judge(self, verdict: Verdict) -> None:
        report = self._report
        report.lost, report.doubled = len(verdict.lost), len(verdict.doubled)
        report.two_leases, report.out_of_order = len(verdict.two_leases), len(verdict.order)
        report.wrong = len(verdict.wrong)
        report.complaints = verdict.complaints()


def new_seed() -> int:
    return int.from_bytes(os.urandom(4), "big")


def say_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
