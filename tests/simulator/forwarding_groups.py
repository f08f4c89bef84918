"""Three whole nodes with three groups whose machine forwards. Clients have each group send words to the others.
Meanwhile nodes die, with and without their power, are cut off and freeze, links lose messages, and leaders move.

A client never sends a word twice. So a word without an answer may be there or not, and one with an answer is a promise.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from disheap.errors import DisheapError
from disheap.plugins.registry import Registry
from disheap.testing.simulator.cluster.configs import MEMORY_MARKS
from disheap.testing.simulator.cluster.hosts import Host
from tests.simulator.disturbing import DisturbedCluster
from tests.simulator.several_groups import GROUPS, RAFT
from tests.support.relay import Relay

ANSWER_S = 2.0
"""After so long the outcome of a command is not known."""
ROUTES = tuple((source, target) for source in GROUPS for target in GROUPS if source != target)


class RelayRegistry(Registry):
    """The installed plugins, and the relay."""

    def get(self, kind: str, name: str) -> type[Any]:  # type: ignore[override]
        return Relay if (kind, name) == ("machine", "relay") else super().get(kind, name)


class ForwardingCluster(DisturbedCluster):
    """`promised` has, for each source and target, the words by their numbers."""

    def __init__(self, seed: int) -> None:
        raft = msgspec.structs.replace(RAFT, snapshot_threshold=40)
        super().__init__(seed, ("relay",) * len(GROUPS), RelayRegistry.load(), raft)
        for host in self.hosts:
            limits = msgspec.structs.replace(host.config.limits, memory_high_water_bytes=max(MEMORY_MARKS))
            host.config = msgspec.structs.replace(host.config, limits=limits)
        self.promised: dict[tuple[int, int], dict[int, str]] = {route: {} for route in ROUTES}

    def machine(self, host: Host, group: int) -> Relay:
        """That of a node which has opened the group."""
        found = host.replica(group).group.sessions.machine
        assert isinstance(found, Relay)
        return found

    def is_done(self) -> bool:
        """All replicas are equal, and nothing waits for another group, or for an answer."""
        return all(map(self.is_equal, GROUPS)) and not any(
            host.node._forwarding._sent
            or any(self.machine(host, one).outboxes or host.replica(one).node_commands._waiting for one in GROUPS)
            for host in self.hosts
        )

    # --- clients ---

    async def work(self, source: int, count: int) -> None:
        """Each word goes to one of the other groups. A group without a leader is waited for."""
        others = tuple(group for group in GROUPS if group != source)
        for number in range(count):
            target, word = self.rng.pick(others), f"g{source}w{number}"
            reply = await self._ask(source, b">%d:%s" % (target, word.encode()))
            if reply is not None:
                self.promised[source, target][int(reply)] = word
            await asyncio.sleep(self.rng.seconds(0.0, 0.3))

    async def _ask(self, group: int, command: bytes) -> bytes | None:
        """The reply; None when the outcome is not known."""
        await self.wait(lambda: self.leader(group) is not None, f"nobody leads group {group}")
        leader = self.leader(group)
        assert leader is not None
        process = leader.process
        asked = process.start(leader.node.apply(command, ANSWER_S, group=group))
        over_at = self.loop.now + 2 * ANSWER_S
        while not asked.done() and process.alive and self.loop.now < over_at:
            await asyncio.sleep(0.02)
        if not asked.done():
            return None
        try:
            return bytes(asked.result())
        except DisheapError:
            return None

    # --- the end ---

    def check(self) -> None:
        """Nothing is lost, nothing came twice, and all is in order for each source."""
        machines = {}
        for group in GROUPS:
            hashes = {host.replica(group).group.sessions.state_hash() for host in self.hosts}
            assert len(hashes) == 1, f"group {group}: one index, and two states"
            machines[group] = self.machine(self.hosts[0], group)
        for source, target in ROUTES:
            taken = machines[target].taken.get(source, [])
            assert len(set(taken)) == len(taken), f"a word from {source} to {target} came twice"
            assert len(taken) == machines[source].last.get(target, 0), f"a word from {source} to {target} is lost"
            order = [int(word.partition("w")[2]) for word in taken]
            assert order == sorted(order), f"words from {source} to {target} came in another order"
            for number, word in self.promised[source, target].items():
                assert taken[number - 1] == word, f"word {number} from {source} to {target} is another"
