"""Three whole nodes with three heap groups, and clients that make batches over them."""

from __future__ import annotations

import msgspec

from disheap.testing.simulator.clients.group_batches import GroupBatcher, GroupState, Ledger, object_to, read_state
from disheap.testing.simulator.clients.judgement import judge
from disheap.testing.simulator.clients.promises import Promises
from disheap.testing.simulator.cluster.configs import MEMORY_MARKS
from disheap.testing.simulator.cluster.hosts import Host
from tests.simulator.disturbing import DisturbedCluster
from tests.simulator.several_groups import GROUPS, RAFT


class TransactionCluster(DisturbedCluster):
    """Node n1 leads group 0, n2 group 1 and n3 group 2, once `begin` is over. `ledger` has what was promised."""

    def __init__(self, seed: int) -> None:
        raft = msgspec.structs.replace(RAFT, snapshot_threshold=40)
        super().__init__(seed, ("heap",) * len(GROUPS), raft=raft)
        for host in self.hosts:
            limits = msgspec.structs.replace(host.config.limits, memory_high_water_bytes=max(MEMORY_MARKS))
            host.config = msgspec.structs.replace(host.config, limits=limits)
        self.ledger = Ledger()
        self.batchers: list[GroupBatcher] = []

    def batcher(self, name: str, always_all: bool = False, pace_s: float = 0.3) -> GroupBatcher:
        """Starts a client."""
        made = GroupBatcher(self, self.ledger, name, self.rng.fork(), GROUPS, pace_s, always_all=always_all)
        self.batchers.append(made)
        made.start()
        return made

    async def begin(self) -> None:
        for host in self.hosts:
            self.start(host)
        for group in GROUPS:
            await self.lead(self.hosts[group], group)

    def are_led(self) -> bool:
        """Whether every group is served."""
        return all(self.serves(group) is not None for group in GROUPS)

    def state(self, host: Host, group: int) -> GroupState:
        """What a node's machine of a group holds."""
        return read_state(host.replica(group).group.sessions.machine)

    def is_decided(self) -> bool:
        """Whether no transaction is open in a group, and no group has something for another one."""
        for group in GROUPS:
            leader = self.serves(group)
            if leader is None:
                return False
            stats = leader.replica(group).group.sessions.machine.stats()
            if stats["transactions"] or stats["forwarding"]:
                return False
        return True

    async def end(self) -> None:
        for batcher in self.batchers:
            batcher.stop()
        await self.wait(
            lambda: all(one.done.done() or not one.process.alive for one in self.batchers), "a client does not end"
        )
        for one in self.batchers:
            if one.process.alive:
                one.done.result()
        await self.wait(self.is_decided, "a transaction is open, or a decision is not told")
        await self.wait(lambda: all(map(self.is_equal, GROUPS)), "the replicas of a group differ")
        for group in GROUPS:
            hashes = {host.replica(group).group.sessions.state_hash() for host in self.hosts}
            assert len(hashes) == 1, f"group {group}: one index, and two states"
        objections = object_to(self.ledger, {group: self.state(self.hosts[0], group) for group in GROUPS})
        assert not objections, objections

    def judge(self) -> dict[str, int]:
        """Holds what every client was answered and pushed against the logs. Returns how often rare ways were taken."""
        found: dict[str, int] = {}
        for checks in self.groups:
            for way, times in judge(self, checks, Promises(), {}).items():
                found[way] = found.get(way, 0) + times
        return found
