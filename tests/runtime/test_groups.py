"""Three nodes with three groups: one counter and two heaps. What happens to one group is nothing to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap import Node, NodeConfig
from disheap.errors import ConfigError, UnknownGroup, WrongDirectory
from disheap.interfaces import MachineContext
from disheap.kernel.types import NodeId
from disheap.protocol import broker
from disheap.protocol.frames import Fault, Status
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.replica.lifecycle import State
from disheap.testing.inspected import InspectedMember

COUNTER, FIRST_HEAP, SECOND_HEAP = GROUPS = (0, 1, 2)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Node n1 leads group 0, n2 group 1 and n3 group 2."""
    cluster = Cluster(tmp_path, storage="file")
    for name, config in cluster.configs.items():
        cluster.configs[name] = msgspec.structs.replace(
            config, groups=3, group_machines=("counter", "heap", "heap"), machine="heap"
        )
    async with cluster:
        for group, name in zip(GROUPS, cluster.configs, strict=True):
            await lead(cluster, name, group)
        yield cluster


def leader(cluster: Cluster, group: int) -> InspectedMember | None:
    """Who leads the group and has committed in its term."""
    for node in cluster.nodes.values():
        found = node.replicas[group].group
        if found.leads and found.applied.term == found.raft.term:
            return node
    return None


async def lead(cluster: Cluster, name: str, group: int) -> None:
    target = NodeId(list(cluster.configs).index(name) + 1)
    for _ in range(20):
        await wait_until(lambda: leader(cluster, group) is not None, f"group {group} has a leader")
        before = leader(cluster, group)
        if before is not None and before.name == name:
            return
        if before is not None:
            before.replicas[group].group.transfer(target)
            await before.replicas[group].wait_for_transfer()  # which may be given up
    raise AssertionError(f"{name} does not lead group {group}")


def terms(cluster: Cluster, *groups: int) -> list[tuple[int, int]]:
    """The term of each replica of these groups. A group that notices something elects, and its term rises."""
    return [
        (int(node.replicas[group].group.raft.term), int(node.replicas[group].group.raft.leader))
        for node in cluster.nodes.values()
        for group in groups
    ]


async def client(cluster: Cluster, group: int) -> WireClient:
    node = leader(cluster, group)
    assert node is not None
    return await WireClient.opened(cluster.transport, node.client_address, 60_000, group=group)


def holding(cluster: Cluster, group: int) -> set[bytes]:
    return {node.replicas[group].group.sessions.state_hash() for node in cluster.nodes.values()}


async def wait_equal(cluster: Cluster, group: int) -> None:
    def places() -> set[int]:
        return {int(node.replicas[group].group.applied.index) for node in cluster.nodes.values()}

    await wait_until(lambda: len(places()) == 1, f"group {group} is at one index on all nodes")
    assert len(holding(cluster, group)) == 1, f"the replicas of group {group} differ"


async def test_each_group_has_its_own_log_leader_and_machine(cluster: Cluster) -> None:
    counter, heap = await client(cluster, COUNTER), await client(cluster, FIRST_HEAP)
    assert (await counter.call(b"+5"))[0] == Status.OK
    assert (await heap.call(broker.encode(broker.CreateTopic("jobs"))))[0] == Status.OK
    for group in GROUPS:
        await wait_equal(cluster, group)
    node = cluster.nodes["n1"]
    machines = [replica.group.sessions.machine for replica in node.replicas]
    assert machines[COUNTER].query(0, 0, b"total") == b"5"
    assert [replica.group.leads for replica in node.replicas] == [True, False, False]
    status = await node.status(group=FIRST_HEAP)
    assert (status["group"], status["machine"], status["leader"]) == (FIRST_HEAP, "heap", "n2")
    rows = [(row["group"], row["machine"], row["leader"], row["lifecycle"]) for row in status["groups"]]
    assert rows == [(0, "counter", "n1", "running"), (1, "heap", "n2", "running"), (2, "heap", "n3", "running")]


async def test_a_machine_is_told_its_own_group(cluster: Cluster) -> None:
    parts = cluster.nodes["n1"]._parts
    told: list[int] = []

    def build(kind: str, name: str, tables: object, context: MachineContext, origin: str) -> None:
        told.append(context.group)

    parts._registry.build = build  # type: ignore[assignment, method-assign]
    for group in GROUPS:
        parts.machine(group)
    assert told == list(GROUPS)


async def test_a_topic_of_another_group_is_unknown_and_nothing_changes(cluster: Cluster) -> None:
    first, second = await client(cluster, FIRST_HEAP), await client(cluster, SECOND_HEAP)
    await first.call(broker.encode(broker.CreateTopic("jobs")))
    status, body = await second.call(broker.encode(broker.Enqueue("jobs", broker.NewMessage(b"x"))))
    assert status == Status.ERROR
    refusal = msgspec.msgpack.decode(body, type=Fault)
    assert "jobs" in refusal.message, refusal
    await wait_equal(cluster, SECOND_HEAP)
    assert holding(cluster, FIRST_HEAP) != holding(cluster, SECOND_HEAP)


async def test_a_command_of_another_machine_is_refused_and_ends_nothing(cluster: Cluster) -> None:
    counter = await client(cluster, COUNTER)
    assert (await counter.call(broker.encode(broker.CreateTopic("jobs"))))[0] == Status.ERROR
    assert (await counter.call(b"+1"))[0] == Status.OK


async def test_the_loss_of_one_groups_leader_is_nothing_to_groups_that_others_lead(cluster: Cluster) -> None:
    others = (FIRST_HEAP, SECOND_HEAP)
    heap = await client(cluster, FIRST_HEAP)
    await cluster.stop("n1")
    before = terms(cluster, *others)
    await wait_until(lambda: leader(cluster, COUNTER) is not None, "the counter has another leader")
    assert (await heap.call(broker.encode(broker.CreateTopic("jobs"))))[0] == Status.OK
    assert terms(cluster, *others) == before
    await cluster.start("n1")
    for group in GROUPS:
        await wait_equal(cluster, group)


async def test_a_quarantine_of_one_group_is_nothing_to_the_others(cluster: Cluster) -> None:
    node, others = cluster.nodes["n1"], (FIRST_HEAP, SECOND_HEAP)
    before = terms(cluster, *others)
    node.replicas[COUNTER].quarantine("the test says so")
    assert [one.lifecycle.state for one in node.replicas] == [State.QUARANTINED, State.RUNNING, State.RUNNING]
    await wait_until(lambda: leader(cluster, COUNTER) not in (None, node), "the counter has another leader")
    for group in GROUPS:
        assert leader(cluster, group) is not None
    assert (await (await client(cluster, FIRST_HEAP)).call(broker.encode(broker.CreateTopic("jobs"))))[0] == Status.OK
    assert terms(cluster, *others) == before
    assert node.failure is None


async def test_damage_in_one_groups_directory_is_nothing_to_the_others(cluster: Cluster) -> None:
    counter, others = await client(cluster, COUNTER), (FIRST_HEAP, SECOND_HEAP)
    for _ in range(4):
        await counter.call(b"+1")
    await cluster.stop("n3")
    directory = Path(cluster.configs["n3"].data_dir) / "groups" / str(COUNTER)
    path = max(directory.glob("log-*"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[data.index(b"DHB1") + 70] ^= 1
    path.write_bytes(data)
    states: list[State] = []
    node = await cluster.start("n3")
    states += [one.lifecycle.state for one in node.replicas]
    assert states[1:] == [State.RUNNING, State.RUNNING]
    assert states[0] is State.REPAIRING
    await wait_until(lambda: all(one.group.is_running for one in node.replicas), "the counter is repaired")
    before = terms(cluster, *others)
    await wait_equal(cluster, COUNTER)
    assert terms(cluster, *others) == before


async def test_log_damage_found_while_running_repairs_one_replica_alone(cluster: Cluster) -> None:
    node, others = cluster.nodes["n2"], (COUNTER, SECOND_HEAP)
    before, groups = terms(cluster, *others), [replica.group for replica in node.replicas]
    node.replicas[FIRST_HEAP].repair("the test says so")
    await wait_until(lambda: node.replicas[FIRST_HEAP].group.is_running, "the log is read anew")
    assert [replica.group is old for replica, old in zip(node.replicas, groups, strict=True)] == [True, False, True]
    assert terms(cluster, *others) == before


async def test_apply_and_query_name_their_group(cluster: Cluster) -> None:
    assert await cluster.nodes["n1"].apply(b"+3", group=COUNTER) == await cluster.nodes["n1"].query(b"total")
    with pytest.raises(UnknownGroup, match="no group 3"):
        await cluster.nodes["n1"].apply(b"+3", group=3)


async def test_a_failed_disk_of_one_group_ends_the_node_and_every_replica_of_it(cluster: Cluster) -> None:
    node, error = cluster.nodes["n2"], RuntimeError("a bug in one group")
    replica: Replica = node.replicas[SECOND_HEAP]
    replica.group.fail(error)
    assert await node.wait_failed() is error
    assert {one.lifecycle.state for one in node.replicas} == {State.FAILED}


def test_machines_are_named_for_each_group_or_for_none(tmp_path: Path) -> None:
    config = Cluster(tmp_path).configs["n1"]
    with pytest.raises(ConfigError, match="group_machines names 1 machines, and groups is 2"):
        msgspec.structs.replace(config, groups=2, group_machines=("heap",))


async def test_a_start_with_fewer_groups_than_the_directory_has_is_refused(tmp_path: Path) -> None:
    """The messages of the others were out of reach, without a word."""

    def alone(groups: int) -> Node:
        return Node(
            NodeConfig(name="n1", alone=True, data_dir=str(tmp_path), client_listen="127.0.0.1:0", groups=groups)
        )

    async with alone(3) as node:
        await node.wait_for_leader(group=2)
    with pytest.raises(WrongDirectory, match=r"data of the groups \[1, 2\], and groups is 1.* Set groups to 3"):
        await alone(1).start()
    async with alone(3) as node:
        await node.wait_for_leader(group=2)


async def test_nodes_with_another_number_of_groups_refuse_each_other(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.configs["n3"] = msgspec.structs.replace(cluster.configs["n3"], groups=2)
    try:
        await asyncio.gather(*(cluster.start(name) for name in cluster.configs))
        one = cluster.nodes["n1"]
        await wait_until(lambda: any("hosts 2 groups, this node 1" in text for text in one.refusals()), "it is refused")
    finally:
        await asyncio.gather(*(node.stop(hand_over=False) for node in cluster.nodes.values()))
