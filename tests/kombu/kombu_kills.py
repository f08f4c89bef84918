"""Celery workers while leader after leader is killed: `python tests/kombu/kombu_kills.py --kills 100`.

Three nodes with files on loopback, and workers that acknowledge late. Each worker always has two tasks under way that
take longer than every timeout of its session. In each round the leader gets a SIGKILL, and every worker has to run a
task that is published from then on. The nodes and workers are processes of their own. Prints a JSON report; the exit
code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError
from kombu_app import app, append_late
from kombu_cluster import Cluster, Worker, wait_until

import disheap.sync
from disheap.errors import DisheapError

SESSION_TIMEOUT_MS = 8000
URL_OPTIONS = f"?session_timeout_ms={SESSION_TIMEOUT_MS}&timeout_s=8"
LONG_S = 10.0
"""How long a long task takes: longer than the session's timeout, the request's, and that for attaching again."""
LONG_AT_ONCE = 2
SLOTS = LONG_AT_ONCE + 1
CONSUMES_WITHIN_S = 10.0


class Kills:
    """Workers of a cluster whose leaders are killed. `times` are the seconds until each worker consumed again."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.times: list[float] = []
        self.cluster = Cluster(directory / "data", storage="file")
        self.trace = directory / "trace"
        self.trace.touch()
        self.url = self.cluster.url + URL_OPTIONS
        self._published: dict[str, list[str]] = {}  # by queue
        self._connection = app.connection_for_write(self.url)
        self.names = [f"k{number}" for number in range(workers)]
        self.workers = [
            Worker(self.url, directory / f"{name}.log", "-n", f"{name}@here", "-Q", name, "-c", str(SLOTS))
            for name in self.names
        ]

    def wait_ready(self) -> None:
        for worker in self.workers:
            worker.wait_ready()

    def run_round(self, number: int) -> float:
        """Kills the leader. Returns the seconds until every worker has run a task that was published after it."""
        self._top_up(number)
        leader = self._leader()
        began = time.monotonic()
        leader.kill()
        probes = [f"probe-{number}-{name}" for name in self.names]
        for name, probe in zip(self.names, probes, strict=True):
            self._publish(name, probe, 0.0)
        wait_until(lambda: set(probes) <= set(self.lines()), "every worker consumes again", 6 * CONSUMES_WITHIN_S)
        self.times.append(time.monotonic() - began)
        leader.start()
        wait_until(self._is_whole, "the node is back")
        return self.times[-1]

    def lines(self) -> list[str]:
        """What the tasks that ran to their end have left."""
        return self.trace.read_text().split()

    def finish(self) -> dict[str, Any]:
        """Waits for the last tasks, and ends the workers. Returns what was found."""
        published = [text for texts in self._published.values() for text in texts]
        wait_until(lambda: set(published) <= set(self.lines()), "all tasks ran", 10 * LONG_S)
        codes = [worker.stop() for worker in self.workers]
        ran = Counter(self.lines())
        return {
            "kills": len(self.times),
            "tasks": len(published),
            "lost": sorted(set(published) - set(ran)),
            "twice": sorted(text for text, count in ran.items() if count > 1),
            "lost connections": sum(worker.log_text().count("Connection to broker lost") for worker in self.workers),
            "exit codes": codes,
            "median_s": round(statistics.median(self.times), 2),
            "worst_s": round(max(self.times), 2),
        }

    def close(self) -> None:
        self._connection.release()
        for worker in self.workers:
            if not worker.ended:
                worker.kill()
        self.cluster.kill()

    def _top_up(self, number: int) -> None:
        """Publishes long tasks until each worker has as many as it may run beside a short one."""
        done = set(self.lines())
        for name in self.names:
            texts = self._published.setdefault(name, [])
            for extra in range(LONG_AT_ONCE - sum(text not in done for text in texts)):
                self._publish(name, f"long-{number}-{extra}-{name}", LONG_S)

    def _publish(self, queue: str, text: str, pause_s: float) -> None:
        """Publishes until the broker has confirmed it, under one id, as an application would."""
        while True:
            try:
                arguments = (str(self.trace), text, pause_s)
                append_late.apply_async(arguments, queue=queue, task_id=text, connection=self._connection)
            except OperationalError:
                continue
            self._published.setdefault(queue, []).append(text)
            return

    def _leader(self) -> Any:
        while True:
            try:
                return self.cluster.leader()
            except (DisheapError, StopIteration):
                time.sleep(0.1)

    def _is_whole(self) -> bool:
        """Whether every node knows the leader."""
        try:
            return all(self._knows_leader(node.url) for node in self.cluster.nodes)
        except DisheapError:
            return False

    def _knows_leader(self, url: str) -> bool:
        with disheap.sync.connect(url, observer=True) as client:
            return bool(client.status()["leader"])


def kill_leaders(directory: Path, kills: int, workers: int, say: Callable[[str], None] = lambda line: None) -> Any:
    """Runs `kills` rounds. Returns the report."""
    run = Kills(directory, workers)
    try:
        run.wait_ready()
        for number in range(kills):
            say(f"{number + 1}: {run.run_round(number):.2f} s")
        return run.finish()
    finally:
        run.close()


def faults(report: dict[str, Any]) -> list[str]:
    """What did not hold, in words."""
    found = [f"{name}: {report[name]}" for name in ("lost", "twice", "lost connections") if report[name]]
    if report["worst_s"] > CONSUMES_WITHIN_S:
        found.append(f"a worker consumed again after {report['worst_s']} s")
    if any(report["exit codes"]):
        found.append(f"exit codes {report['exit codes']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = kill_leaders(
            Path(directory), options.kills, options.workers, lambda line: print(line, file=sys.stderr)
        )
    report["faults"] = faults(report)
    print(json.dumps(report, indent=1))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
