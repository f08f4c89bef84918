"""A simulated cluster that lives through one script, instead of through random faults."""

from __future__ import annotations

from typing import Any

from disheap.testing.simulator.cluster.cluster import Cluster


class ScriptedCluster(Cluster):
    """Its scenarios are coroutines on its loop."""

    def run(self, work: Any) -> None:
        """Runs a scenario to its end, and then ends all nodes. Raises what the scenario or a node raised."""
        task = self.loop.create_task(work)
        try:
            self.loop.run_until(task.done)
            task.result()
            self.check_errors()
        finally:
            for host in self.hosts:
                if host.state in ("up", "frozen"):
                    self._end(host, silently=False)
            self.loop.close()
