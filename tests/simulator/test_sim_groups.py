"""Three nodes with three groups and a leader on each. What happens to one group is nothing to the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from disheap.errors import DiskFailed
from disheap.protocol import broker
from disheap.runtime.replica.lifecycle import State
from tests.simulator.several_groups import COUNTER, FIRST_HEAP, GROUPS, RAFT, SECOND_HEAP, GroupsCluster

TICK_S = RAFT.tick_ms / 1000
"""Nobody campaigns sooner than one tick after a leader is gone."""
Scenario = Callable[[GroupsCluster], Awaitable[None]]


def run(scenario: Scenario, seed: int = 1) -> GroupsCluster:
    """The scenario between a beginning and an end: see `GroupsCluster.begin` and `end`."""
    cluster = GroupsCluster(seed)

    async def whole() -> None:
        await cluster.begin()
        await scenario(cluster)
        await cluster.end()

    cluster.run(whole())
    return cluster


def test_each_group_has_a_leader_of_its_own_and_checks_of_its_own() -> None:
    async def scenario(cluster: GroupsCluster) -> None:
        assert [cluster.leader(group) for group in GROUPS] == cluster.hosts
        await cluster.progress(GROUPS, 30)

    cluster = run(scenario)
    logs = [one.safety.log for one in cluster.groups]
    assert all(len(log) > 30 for log in logs)
    assert len({tuple(log) for log in logs}) == len(GROUPS)
    assert all(one.safety.elections and one.history.replies for one in cluster.groups)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
@pytest.mark.parametrize("group", GROUPS)
def test_groups_that_others_lead_do_not_notice_the_death_of_a_leader(group: int, power: bool) -> None:
    async def scenario(cluster: GroupsCluster) -> None:
        leader = cluster.hosts[group]
        async with cluster.others(group):
            cluster.kill(leader, power)
            await cluster.wait(lambda: cluster.serves(group) is not None, "the group has no other leader")
            await cluster.progress((group,))
        assert cluster.serves(group) is not leader
        async with cluster.others(group):
            cluster.start(leader)
            await cluster.wait(lambda: cluster.is_equal(group), "the node does not catch up")

    run(scenario)


@pytest.mark.parametrize("group", GROUPS)
def test_a_quarantine_of_one_group_is_nothing_to_the_others(group: int) -> None:
    """On a node that follows in this group and leads another one."""

    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[(group + 1) % 3]
        replica = host.replica(group)
        async with cluster.others(group):
            cluster.spoil_state(host, group, spoil)
            await cluster.wait(lambda: replica.lifecycle.state is State.QUARANTINED, "the difference is not seen")
            await cluster.progress((group,))
        states = [one.lifecycle.state for one in host.node.replicas]
        assert states.count(State.RUNNING) == 2, states
        assert host.node.failure is None
        cluster.stop(host)
        await cluster.wait(lambda: host.state == "down", "the node does not stop")
        cluster.start(host)
        await cluster.wait(lambda: host.votes, "the state is not built anew")

    def spoil(machine: Any) -> None:
        if group == COUNTER:
            machine.total += 1000
        else:
            machine.apply(0, 0, 1, broker.encode(broker.CreateTopic("only-here")))

    run(scenario)


@pytest.mark.parametrize("group", GROUPS)
def test_damage_in_one_groups_directory_is_nothing_to_the_others(group: int) -> None:
    """The node starts with it: the other groups take part at once, and this one when the others have repaired it."""

    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[(group + 1) % 3]
        cluster.kill(host)
        cluster.damage_block(host, group)
        await cluster.wait(lambda: all(map(cluster.serves, GROUPS)), "a group has no leader")
        await cluster.progress(GROUPS)
        states: list[State] = []
        async with cluster.others(group):
            cluster.start(host)
            await cluster.wait(lambda: host.has_opened(group), "the node does not start")
            states += [one.lifecycle.state for one in host.node.replicas]
            await cluster.wait(lambda: cluster.is_equal(group), "the log is not repaired")
        assert states == [State.REPAIRING if one == group else State.RUNNING for one in GROUPS]

    run(scenario)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_waits_for_people_holds_up_no_other(group: int) -> None:
    """Its last entries are damaged on two nodes, and the third one is down: there is no good copy of them."""

    async def scenario(cluster: GroupsCluster) -> None:
        away, *damaged = (cluster.hosts[(group + step) % 3] for step in range(3))
        cluster.clients[group].is_over = True
        await cluster.wait(lambda: cluster.clients[group].done.done(), "the client does not end")
        await cluster.wait(lambda: cluster.is_equal(group), "the replicas differ")
        for host in cluster.hosts:
            cluster.kill(host)
        for host in damaged:
            cluster.damage_block(host, group)
            cluster.start(host)
        others = tuple(other for other in GROUPS if other != group)
        await cluster.progress(others)
        for host in damaged:
            assert host.replica(group).lifecycle.state is State.REPAIRING
            assert away.name in host.replica(group).maintenance.repair_status()["waiting_for"]
            assert host.replica(others[0]).lifecycle.state is State.RUNNING
        async with cluster.others(group):
            cluster.start(away)
            await cluster.wait(lambda: cluster.is_equal(group), "the good copy does not repair the others")

    run(scenario)


def test_a_failed_disk_operation_of_a_group_ends_its_node_and_names_the_group() -> None:
    """The process is what a supervisor restarts. Groups that other nodes lead do not notice."""

    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[FIRST_HEAP]
        async with cluster.others(FIRST_HEAP):
            host.faults.only, host.faults.error_in = FIRST_HEAP, 0
            await cluster.wait(lambda: host.state == "down", "the node goes on although its disk has failed")
            await cluster.wait(lambda: cluster.serves(FIRST_HEAP) is not None, "the group has no other leader")
        error = cluster.ends[host.name]
        assert isinstance(error, DiskFailed)
        assert f"/groups/{FIRST_HEAP}/" in str(error)
        host.faults.clear()
        cluster.start(host)
        await cluster.wait(lambda: host.votes, "the node does not come back")

    run(scenario)


@pytest.mark.parametrize("group", GROUPS)
def test_a_disk_that_hangs_for_one_group_costs_no_other_its_leader(group: int) -> None:
    """All groups are led by one node. Only the one whose files do not answer gets another leader."""

    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[0]
        for one in GROUPS:
            await cluster.lead(host, one)
        async with cluster.others(group):
            host.set_slowness(1e9, group)
            await cluster.wait(lambda: cluster.serves(group) not in (None, host), "the group has no other leader")
            await cluster.progress((group,))
        assert all(cluster.serves(one) is host for one in GROUPS if one != group)
        cluster.kill(host)
        cluster.start(host)

    run(scenario)


def test_a_full_disk_in_one_groups_directory_stops_no_other_group() -> None:
    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[SECOND_HEAP]
        host.faults.only, host.faults.full = COUNTER, True
        async with cluster.others(COUNTER):
            await cluster.progress((COUNTER,), 300)
        assert host.faults.has_been_full
        assert [one.lifecycle.state for one in host.node.replicas] == [State.RUNNING] * 3
        host.faults.clear()

    run(scenario)


def test_a_node_that_stops_hands_over_every_group_that_it_leads() -> None:
    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[0]
        for group in GROUPS:
            await cluster.lead(host, group)
        for client in cluster.clients:
            client.look_again()
        cluster.stop(host)
        await cluster.wait(lambda: host.state == "down", "the node does not stop")
        await cluster.progress(GROUPS)
        for client in cluster.clients:
            assert client.slowest_s < TICK_S / 2, f"group {client.group} waited for an election"
        cluster.start(host)

    run(scenario)


def test_the_groups_of_a_node_do_not_time_out_together() -> None:
    """Each draws an election timeout of its own. Else one node would begin to lead all groups at the same moment."""

    async def scenario(cluster: GroupsCluster) -> None:
        host = cluster.hosts[0]
        for group in GROUPS:
            await cluster.lead(host, group)
        before = [one.safety.elections for one in cluster.groups]
        cluster.on_lead = lambda host, group: elected_s.setdefault(group, cluster.loop.now) and None
        cluster.kill(host)
        await cluster.wait(
            lambda: all(one.safety.elections > count for one, count in zip(cluster.groups, before, strict=True)),
            "a group has no other leader",
        )
        cluster.start(host)

    elected_s: dict[int, float] = {}
    run(scenario)
    assert max(elected_s.values()) - min(elected_s.values()) > TICK_S
