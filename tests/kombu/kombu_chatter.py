"""The chatter of many idle Celery workers, from one thread: `python tests/kombu/kombu_chatter.py --help`.

Each has what a worker with `-E` has: two connections, and a dispatcher that sends a heartbeat every two seconds. Beside
that it has the queue of gossip with everybody's worker events, and the queue of remote control. The objects are
Celery's own. The program starts nodes, and says what they wrote, synchronised and computed meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery
from kombu_cluster import Cluster, NodeProcess

import disheap.sync
from kombu import Consumer

HEARTBEAT_S = 2.0
SETTLE_S = 5.0
"""After the last declaration. The storage flushes what an append has left by then."""


class IdleWorker:
    """One worker, as the broker sees it. `heard` counts the heartbeats by host name."""

    def __init__(self, app: Celery, name: str) -> None:
        self.name = name
        self.heard: Counter[str] = Counter()
        self.commands: list[str] = []
        self.connections = [app.connection_for_read(), app.connection_for_write()]
        reading, writing = self.connections
        channel = reading.channel()
        self._receiver = app.events.Receiver(channel, routing_key="worker.#", queue_ttl=HEARTBEAT_S)
        self._consumer = self._receiver.get_consumers(partial(Consumer, channel), channel)[0]
        self._receiver.process = self._on_event
        self._consumer.consume()
        self._node = app.control.mailbox.Node(
            name, state=None, channel=reading.channel(), handlers={"ping": self._ping}
        )
        self._pidbox = self._node.listen(callback=lambda body, message: self._node.handle_message(body, message))
        self._dispatcher = app.events.Dispatcher(writing, hostname=name)

    def send_heartbeat(self) -> None:
        fields = {"active": 0, "processed": 0, "loadavg": (0.1, 0.2, 0.3), "freq": HEARTBEAT_S}
        identity = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}
        self._dispatcher.send("worker-heartbeat", **fields, **identity)

    def look(self) -> None:
        """What the worker's loop does when a socket is readable, and once a second."""
        for connection in self.connections:
            connection.connection.heartbeat()
            connection.connection.dispatch()

    def close(self) -> None:
        for connection in self.connections:
            connection.release()

    def _on_event(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "worker-heartbeat":
            self.heard[event["hostname"]] += 1

    def _ping(self, *_: Any, **__: Any) -> dict[str, str]:
        self.commands.append("ping")
        return {"ok": "pong"}


class Crowd:
    """Idle workers, turned by whoever calls `run`."""

    def __init__(self, url: str, count: int) -> None:
        self.app = Celery("crowd", broker=url, set_as_current=False)
        self.workers = [IdleWorker(self.app, f"idle{number}@here") for number in range(count)]
        self.sent = 0

    def run(self, seconds: float) -> None:
        """Has the workers chatter for so long. Their heartbeats are spread over the period, and none begins in the last
        half second."""
        began = now = time.monotonic()
        due = [began + HEARTBEAT_S * at / len(self.workers) for at in range(len(self.workers))]
        looked = began
        with selectors.DefaultSelector() as selector:
            while (now := time.monotonic()) < began + seconds:
                for at, worker in enumerate(self.workers):
                    if due[at] <= now and now < began + seconds - 0.5:
                        worker.send_heartbeat()
                        self.sent += 1
                        due[at] += HEARTBEAT_S
                if now - looked > 1:
                    looked = now
                    for worker in self.workers:
                        worker.look()
                self._wait(selector, 0.02)

    def hear_all(self, timeout_s: float = 20.0) -> None:
        """Waits until each worker has heard whatever was sent. Raises `AssertionError` after `timeout_s`."""
        until = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            while (heard := {sum(worker.heard.values()) for worker in self.workers}) != {self.sent}:
                assert time.monotonic() < until, f"{self.sent} heartbeats were sent, and the workers heard {heard}"
                self._wait(selector, 0.02)

    def _wait(self, selector: selectors.BaseSelector, seconds: float) -> None:
        """Serves those that have something to read. A client may have got another socket meanwhile."""
        known = {key.fd: key.data for key in selector.get_map().values()}
        for worker in self.workers:
            for connection in worker.connections:
                descriptor = connection.connection.driver.fileno()
                if descriptor >= 0 and known.pop(descriptor, None) is not worker:
                    selector.register(descriptor, selectors.EVENT_READ, worker)
        for gone in known:
            selector.unregister(gone)
        for key, _ in selector.select(seconds):
            key.data.look()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.app.close()


class Meter:
    """What a node does: bytes to its disk, entries, CPU seconds. Asks without a session, so that it adds nothing."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._syncs = Path(f"{node.directory / node.name}.syncs")

    def read(self) -> dict[str, float]:
        with disheap.sync.connect(self._node.url, observer=True) as client:
            entries = client.status()["counters"]["raft_applied_entries_total"]
        lines = Path(f"/proc/{self._node.pid}/io").read_text().splitlines()
        written = dict(line.split(": ") for line in lines)["write_bytes"]
        user, system = Path(f"/proc/{self._node.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        cpu_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return {"entries": entries, "bytes": int(written), "syncs": self._syncs.stat().st_size, "cpu_s": cpu_s}

    def since(self, before: dict[str, float]) -> dict[str, float]:
        return {name: round(value - before[name], 3) for name, value in self.read().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3)
    parser.add_argument("--uvloop", action="store_true", help="for the nodes")
    options = parser.parse_args()
    os.environ["UVLOOP"] = "1" if options.uvloop else ""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), "file") if options.nodes == 3 else None
        nodes = cluster.nodes if cluster else [NodeProcess(Path(directory), "file")]
        url = cluster.url if cluster else nodes[0].url
        leader = cluster.leader().name if cluster else nodes[0].name
        try:
            crowd = Crowd(url, options.workers)
            crowd.run(SETTLE_S)
            meters = {node.name: Meter(node) for node in nodes}
            before = {name: meter.read() for name, meter in meters.items()}
            crowd.sent, began = 0, time.monotonic()
            crowd.run(options.seconds)
            seconds = time.monotonic() - began
            found = {name: meter.since(before[name]) for name, meter in meters.items()}
            for counts in found.values():
                counts["cpu_percent"] = round(100 * counts.pop("cpu_s") / seconds, 2)
            json.dump(
                {"workers": options.workers, "seconds": seconds, "sent": crowd.sent, "leader": leader, **found},
                sys.stdout,
                indent=1,
            )
            crowd.close()
        finally:
            for node in nodes:
                node.kill()


if __name__ == "__main__":
    main()
