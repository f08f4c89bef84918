"""Messages between two groups under kills, partitions and new leaders: none is lost, none comes twice, all in order."""

from __future__ import annotations

import pytest

from tests.simulator.two_groups import TwoGroups
from tests.support.relay import Relay

WORDS = 120


@pytest.mark.parametrize("seed", range(1, 7))
def test_every_message_to_another_group_arrives_once_and_in_order(seed: int) -> None:
    world = TwoGroups(seed)

    def are_empty() -> bool:
        clusters = world.groups.values()
        return all(cluster.is_whole() and not cluster.machine().outboxes for cluster in clusters)

    def standing() -> str:
        return str([(host.name, host.state) for cluster in world.groups.values() for host in cluster.hosts])

    async def life() -> None:
        for cluster in world.groups.values():
            for host in cluster.hosts:
                cluster.start(host)
            await world.wait(cluster.is_whole, standing)
        forwarding = world.start(world.forward())
        disturbing = world.start(world.disturb())
        for working in [world.start(world.work(source, WORDS)) for source in (0, 1)]:
            await working
        world.has_ended = True
        await disturbing
        await forwarding
        world.has_ended, world.loss = False, 0.0
        forwarding = world.start(world.forward())
        await world.wait(are_empty, standing)
        world.has_ended = True
        await forwarding
        for group, cluster in world.groups.items():
            hashes = {host.node.group.sessions.state_hash() for host in cluster.hosts}
            assert len(hashes) == 1, "one index, and two states"
            machines[group] = cluster.machine()

    machines: dict[int, Relay] = {}
    world.run(life())
    for source, target in ((0, 1), (1, 0)):
        taken = machines[target].taken[source]
        assert len(set(taken)) == len(taken), "a word came twice"
        assert len(taken) == machines[source].last[target], "a word is lost"
        order = [int(word.partition("w")[2]) for word in taken]
        assert order == sorted(order), "they came in another order"
        for number, word in world.put[source].items():
            assert taken[number - 1] == word, f"word {number} was promised, and is another"
        assert len(world.put[source]) > WORDS // 2, "hardly anything was promised"
    assert world.kills and world.repeated, "nothing went wrong"
