"""Nodes are upgraded to the next release, and rolled back, while a run lasts.

Operators stop or kill a node and start it with the other release. They roll back until they see that the version was
raised. At the end all nodes run the next release, and the version has to be raised in every group. The draws are of a
generator of their own. `releases` judges a node that ends because it is too old.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from disheap.errors import RequestError
from disheap.runtime.hosted_replica import Replica
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.faults.actions import FaultActions
from disheap.testing.simulator.world.rng import Rng

CALM_S = (6.0, 12.0)
"""Operators often wait until a node is back before anything else is done."""


class Upgrades:
    """`make` upgrades until it is cancelled, then `finish`."""

    def __init__(self, cluster: Cluster, actions: FaultActions, rng: Rng, pace_s: float) -> None:
        self._cluster = cluster
        self._actions = actions
        self._rng = rng
        self._pace_s = pace_s
        self._is_over = False
        machines = [cluster.plugin_of("machine", one.machine) for one in cluster.groups]
        self._next = [machine.versions[1] + 1 for machine in machines]

    async def make(self) -> None:
        """One node after another."""
        while True:
            await asyncio.sleep(self._pace_s * self._rng.seconds(0.3, 1.7))
            hosts = [host for host in self._cluster.hosts if host.is_up and host.has_group and self._may_change(host)]
            if hosts:
                self._change(self._rng.pick(hosts))

    def _may_change(self, host: Host) -> bool:
        return not (host.runs_next and self._is_raised())

    def _is_raised(self) -> bool:
        """Whether an operator sees a later version on some node. Machines that are added from then on get the next
        release."""
        running = [host for host in self._cluster.hosts if host.is_up and host.has_group]
        is_raised = any(self._runs(host, group) for host in running for group in range(len(self._next)))
        self._cluster.releases.later_hosts_run_next |= is_raised
        return is_raised

    def _runs(self, host: Host, group: int) -> bool:
        """Whether the host's replica has applied the raise."""
        return bool(host.replica(group).group.sessions.machine_version == self._next[group])

    def _change(self, host: Host) -> None:
        """Stop the node, or kill it, and start it with the other release."""
        host.runs_next = not host.runs_next
        self._actions.record("upgrade" if host.runs_next else "roll back", host)
        loop, start = self._cluster.loop, self._actions.start_if_down(host)
        if self._rng.chance(0.7):  # only a leader that hears everybody for a while raises a version
            self._actions.calm_until = loop.now + self._rng.seconds(*CALM_S)
            loop.at(loop.now + self._rng.seconds(2.0, CALM_S[0]), partial(self._let_lead, host), ())
        if self._rng.chance(0.5):
            self._cluster.kill(host)
            loop.at(loop.now + self._rng.seconds(0.05, 3.0), start, ())
        else:
            self._cluster.stop(host)
            loop.at(loop.now + self._rng.seconds(3.0, 8.0), start, ())

    def _let_lead(self, host: Host) -> None:
        """Operators hand leadership to a node that is back, before the next one is stopped."""
        for group in range(len(self._next)):
            leader = self._cluster.leader(group)
            if leader is not None and leader is not host and host.is_up and not self._is_over:
                leader.process.soon(partial(self._transfer, leader.replica(group), host))

    def _transfer(self, replica: Replica, host: Host) -> None:
        with suppress(RequestError):  # another one leads by now, or the node is no member any more
            replica.group.transfer(self._cluster.node_id(host))

    def finish(self) -> None:
        """Every node runs the next release, from its next start on."""
        self._is_over = self._cluster.releases.later_hosts_run_next = True
        for host in self._cluster.hosts:
            if not (host.runs_next and host.ran_next):
                host.runs_next = True
                self._actions.record("upgrade", host)
                if host.state in ("up", "frozen"):
                    self._cluster.kill(host)

    def are_raised(self) -> bool:
        """Whether every member has applied the raise in every group, or one of them cannot take part."""
        members = self._cluster.members()
        groups = range(len(self._next))
        if not all(host.votes_in(group) for host in members for group in groups):
            return any(host.state == "lost" or host.wiped for host in members)
        return all(self._runs(host, group) for host in members for group in groups)
