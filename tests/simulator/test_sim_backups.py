"""Backups of simulated nodes under load: each holds the state of one entry, and everything acknowledged before."""

from __future__ import annotations

from typing import Any

from disheap.errors import NotLeader
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap.testing.simulator.cluster.hosts import Host
from tests.simulator.several_groups import FIRST_HEAP, GROUPS, TOPIC, GroupsCluster
from tests.simulator.test_sim_groups import run

COMMANDS = 5


async def begin(host: Host) -> dict[str, Any]:
    answer: dict[str, Any] = await host.process.start(host.node.admin({"op": "backup"}, FIRST_HEAP))
    return answer


async def read(host: Host, number: int) -> tuple[int, bytes]:
    """The index, and the bytes of the snapshot."""
    data = b""
    while True:
        request = {"op": "backup-read", "backup": number, "offset": len(data)}
        page = await host.process.start(host.node.admin(request, FIRST_HEAP))
        if page["ready"]:
            data += page["data"]
            if page["is_last"]:
                return page["index"], data


def check(cluster: GroupsCluster, host: Host, index: int, data: bytes, acknowledged: list[int]) -> None:
    """The state is the one that the nodes had after that entry, and holds what was acknowledged."""
    machine = host.replica(FIRST_HEAP)._shared.parts.machine(FIRST_HEAP)
    state = Sessions(machine, SessionLimits(), ReplySink())
    state.restore(iter([data]))
    known, _ = cluster.groups[FIRST_HEAP].safety.hashes[index]
    assert state.state_hash() == known
    assert machine.stats()["ready"] >= len(acknowledged), TOPIC


def test_a_backup_under_load_is_of_one_entry_whoever_leads() -> None:
    """The leader changes between a backup and the next one, and once while a backup is being read."""

    async def scenario(cluster: GroupsCluster) -> None:
        client = cluster.clients[FIRST_HEAP]
        for leader in (cluster.hosts[1], cluster.hosts[2], cluster.hosts[0]):
            await cluster.lead(leader, FIRST_HEAP)
            await cluster.progress(GROUPS, COMMANDS)
            acknowledged = list(client.acknowledged)
            begun = await begin(leader)
            await cluster.progress((FIRST_HEAP,), COMMANDS)
            if leader is cluster.hosts[2]:
                await cluster.lead(cluster.hosts[0], FIRST_HEAP)
            check(cluster, leader, *await read(leader, begun["backup"]), acknowledged)
            await leader.process.start(leader.node.admin({"op": "backup-end", "backup": begun["backup"]}, FIRST_HEAP))

    run(scenario, seed=5)


def test_a_leader_that_was_cut_off_begins_no_backup() -> None:
    """It still believes that it leads. What the others confirm meanwhile would be missing."""

    async def scenario(cluster: GroupsCluster) -> None:
        leader = cluster.hosts[FIRST_HEAP]
        for other in cluster.hosts:
            if other is not leader:
                cluster.network.cut(leader.name, other.name)
                cluster.network.cut(other.name, leader.name)
        assert leader.replica(FIRST_HEAP).group.leads
        refused: list[BaseException] = []
        try:
            await begin(leader)
        except NotLeader as error:
            refused.append(error)
        cluster.network.heal_all()
        assert refused and not len(leader.replica(FIRST_HEAP).group.backups)

    run(scenario, seed=6)
