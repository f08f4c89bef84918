"""How long clients are without service when the leader fails: `python -m tests.chaos.failover [--help]`.

Nodes are processes on loopback. In each round the leader is stopped (SIGSTOP, as a host that falls silent) or killed.
Four clients are asked at that moment: an asyncio producer and consumer, a kombu producer and consumer. The time is told
until each message is confirmed, and until it is delivered. Sessions that lapse are counted; none may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import disheap
import kombu
from disheap.cli.processes.local_cluster import LocalCluster, local_cluster
from disheap.errors import SessionExpired

TOPIC = "failover"
SETTLE_S = 2.0
ROUND_S = 60.0


class Native(threading.Thread):
    """An asyncio producer and an asyncio consumer, on a loop of their own."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.arrived = threading.Semaphore(0)
        self.lapsed = 0
        self._url = url
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._client: Any

    def run(self) -> None:
        asyncio.run(self._work())

    def wait_ready(self) -> None:
        assert self._ready.wait(ROUND_S)

    def publish(self) -> None:
        async def enqueue() -> None:
            await self._client.topic(TOPIC).enqueue(b"x", timeout_s=ROUND_S)

        asyncio.run_coroutine_threadsafe(enqueue(), self._loop).result(ROUND_S)

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with disheap.connect(self._url) as self._client, disheap.connect(self._url) as taker:
            await self._client.create_topic(TOPIC)
            self._ready.set()
            while True:
                try:
                    async for delivery in taker.topic(TOPIC).consume():
                        delivery.ack_nowait()
                        self.arrived.release()
                except SessionExpired:
                    self.lapsed += 1


class Kombu(threading.Thread):
    """A kombu producer and a kombu consumer. They use the blocking driver."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.arrived = threading.Semaphore(0)
        self.lapsed = 0
        self._url = url
        self._ready = threading.Event()
        self._producer: Any

    def run(self) -> None:
        while True:
            with kombu.Connection(self._url) as connection, connection.SimpleQueue(TOPIC + "-kombu") as queue:
                self._ready.set()
                try:
                    while True:
                        queue.get(timeout=ROUND_S * 10).ack()
                        self.arrived.release()
                except connection.connection_errors:
                    self.lapsed += 1

    def wait_ready(self) -> None:
        assert self._ready.wait(ROUND_S)
        self._producer = kombu.Connection(self._url).SimpleQueue(TOPIC + "-kombu")

    def publish(self) -> None:
        self._producer.put(b"x")


def measure(clients: dict[str, Native | Kombu], fail: Callable[[], None]) -> dict[str, float]:
    """Seconds from the failure until each of them is served."""
    times: dict[str, float] = {}
    began = time.monotonic()
    fail()

    def publish(name: str, client: Native | Kombu) -> None:
        client.publish()
        times[f"{name} confirmed"] = time.monotonic() - began

    def receive(name: str, client: Native | Kombu) -> None:
        if client.arrived.acquire(timeout=ROUND_S):
            times[f"{name} delivered"] = time.monotonic() - began

    work = [threading.Thread(target=do, args=pair) for pair in clients.items() for do in (publish, receive)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    return times


def run(nodes: int, rounds: int, how: str, frozen: int, session_timeout_ms: int, say: Callable[[str], None]) -> Any:
    results: dict[str, list[float]] = {}
    with ExitStack() as stack:
        cluster = stack.enter_context(local_cluster(nodes, prefix="disheap-failover-"))
        url = f"{cluster.url}?session_timeout_ms={session_timeout_ms}"
        clients: dict[str, Native | Kombu] = {"native": Native(url), "kombu": Kombu(url)}
        for client in clients.values():
            client.start()
            client.wait_ready()
        for number in range(rounds):
            leader = cluster.leader()
            victims = [leader, *(name for name in cluster.places if name != leader)][:frozen]
            time.sleep(SETTLE_S + number % 4 / 5)  # so that rounds meet the pings at different places
            times = measure(clients, lambda who=victims: _fail(cluster, who, how))  # type: ignore[misc]
            for name, seconds in times.items():
                results.setdefault(name, []).append(seconds)
            say(f"{number + 1}: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(times.items())))
            _mend(cluster, victims, how)
            cluster.wait_ready()
        lapsed = sum(client.lapsed for client in clients.values())
    summary = {
        name: {"median": round(statistics.median(times), 2), "worst": round(max(times), 2)}
        for name, times in sorted(results.items())
    }
    return {"nodes": nodes, "how": how, "frozen": frozen, "rounds": rounds, "lapsed": lapsed, "seconds": summary}


def _fail(cluster: LocalCluster, victims: list[str], how: str) -> None:
    for name in victims:
        if how == "kill":
            cluster.kill(name)
        else:
            os.kill(cluster.pid(name), signal.SIGSTOP)


def _mend(cluster: LocalCluster, victims: list[str], how: str) -> None:
    for name in victims:
        if how == "kill":
            cluster.start(name)
        else:
            os.kill(cluster.pid(name), signal.SIGCONT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failover", description=__doc__)
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--how", choices=("stop", "kill"), default="stop")
    parser.add_argument("--frozen", type=int, default=1, help="nodes that fail, the leader among them")
    parser.add_argument("--session-timeout-ms", type=int, default=15_000)
    options = parser.parse_args()
    report = run(
        options.nodes,
        options.rounds,
        options.how,
        options.frozen,
        options.session_timeout_ms,
        lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(report, indent=1))
    return 1 if report["lapsed"] else 0


if __name__ == "__main__":
    sys.exit(main())
