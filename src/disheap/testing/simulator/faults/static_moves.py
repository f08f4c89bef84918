"""All members of a static list move to other addresses at once, as when a whole site gets new machines or ports.

All nodes are killed, and all configurations get the new list. Then the nodes start, one by one. Nobody is at an address
that the log names, so the nodes have to find each other by the list. It may come at any moment of a run, also when
members have moved one by one before. It needs a secret, as any move does. The draws are of a generator of their own.
"""

from __future__ import annotations

import asyncio

import msgspec

from disheap.config.node_config import MemberConfig, NodeConfig
from disheap.runtime.membership.directory import record_of
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.faults.actions import FaultActions
from disheap.testing.simulator.world.rng import Rng

KIND = "move all"
LOOK_EVERY_S = 0.2
PORTS = 1000
"""Further than single moves go, so that no address is used twice."""


class StaticMoves:
    """`make` moves until it is cancelled."""

    def __init__(self, cluster: Cluster, actions: FaultActions, rng: Rng) -> None:
        self._cluster = cluster
        self._actions = actions
        self._rng = rng

    async def make(self) -> None:
        """One move after another, with a pause before each. Each waits until all nodes run and know their members."""
        while True:
            await asyncio.sleep(self._rng.seconds(1.0, 10.0))
            while not self._can_move():
                await asyncio.sleep(LOOK_EVERY_S)
            self._move()

    def _can_move(self) -> bool:
        """A list counts before the first start only, so every node has to know the members by itself."""
        listed = self._listed()
        is_proved = bool(self._cluster.first_config.cluster_secret)
        are_certain = self._actions.have_started() and all(map(self._is_certain, listed))
        return (
            is_proved and len(listed) > 1 and are_certain and all(self._is_found(one, listed) for one in self._joined())
        )

    def _listed(self) -> list[Host]:
        """Members with a static list. Nodes that have joined stay where they are, and the others dial them."""
        return [host for host in self._cluster.members() if host.config.members]

    def _joined(self) -> list[Host]:
        return [host for host in self._cluster.members() if not host.config.members]

    def _is_found(self, host: Host, listed: list[Host]) -> bool:
        """Whether all nodes of the list look for it where it is. If it has just moved, too, nobody finds anybody: no
        list says where it is, and it does not know the new list."""
        address = host.config.peer_listen
        logs = [one.replica(group.number).group.applied for one in listed for group in self._cluster.groups]
        return all(address in {record_of(member).peer for member in log.membership.members} for log in logs)

    def _is_certain(self, host: Host) -> bool:
        """Whether each of its logs has a membership that is committed and durable. A node that has met newer members
        than its log has refuses another list."""
        if not (host.is_up and host.has_group) or host.wiped:
            return False
        peers = host.replica(0).storage().known_peers()  # type: ignore[attr-defined]
        if not peers.voters and len(peers.incarnations) + 1 != len(host.config.members):
            return False
        groups = [host.replica(one.number).group for one in self._cluster.groups]
        return all(0 < group.raft.membership_index <= group.applied.index for group in groups)

    def _move(self) -> None:
        listed = self._listed()
        places = {host.config.name: _further(host.config) for host in listed}
        self._actions.record(KIND, what=" ".join(f"{one.name} to {one.peer}" for one in places.values()))
        for host in listed:
            self._cluster.kill(host)
            members = tuple(places.get(one.name, one) for one in host.config.members)
            own = places[host.config.name]
            host.config = msgspec.structs.replace(
                host.config, peer_listen=own.peer, client_listen=own.client, members=members
            )
            self._actions.later(0.1, 4.0, self._actions.start_if_down(host))
        for worker in self._actions.workers:
            worker.follow_members()


def _further(config: NodeConfig) -> MemberConfig:
    machine, _, port = config.peer_listen.rpartition(":")
    return MemberConfig(config.name, f"{machine}:{int(port) + PORTS}", f"{machine}:{int(port) + PORTS + 100}")
