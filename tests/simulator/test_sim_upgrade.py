"""A rolling upgrade from one release to the next in a simulated cluster, in both orders, with ways back before the
raise. The simulator's own checks see every step: one index never has two states."""

from __future__ import annotations

import pytest

from disheap.protocol import broker
from tests.simulator.upgrading import LATER, NEW, OLD, TOPIC, MixedCluster

ORDERS = (("n1", "n2", "n3"), ("n3", "n2", "n1"))


async def begun(cluster: MixedCluster) -> None:
    for host in cluster.hosts:
        cluster.start(host)
    await cluster.whole()
    await cluster.ask(broker.CreateTopic(TOPIC))
    await cluster.work(expects_new=False)


async def upgraded(cluster: MixedCluster, order: tuple[str, ...]) -> None:
    await begun(cluster)
    for name in order:
        await cluster.change(name, NEW)
    await cluster.wait(lambda: cluster.versions() == {2}, "the version is not raised")
    await cluster.work(expects_new=True)


@pytest.mark.parametrize("order", ORDERS, ids=["up", "down"])
@pytest.mark.parametrize("seed", [1, 2])
def test_old_and_new_nodes_agree_and_each_can_go_back_before_the_raise(order: tuple[str, ...], seed: int) -> None:
    cluster = MixedCluster(seed)
    first, second, last = order

    async def life() -> None:
        await begun(cluster)
        for name in (first, second):
            await cluster.change(name, NEW, power=seed % 2 == 0)
            await cluster.work(expects_new=False)
        for name in (last, first):  # an old and a new leader
            await cluster.lead(name)
            await cluster.work(expects_new=False)
        await cluster.snapshots()
        await cluster.change(second, OLD)  # reads the snapshot that its newer release wrote
        await cluster.work(expects_new=False)
        await cluster.change(second, NEW)
        await cluster.leave(last)
        await cluster.work(expects_new=False)
        await cluster.snapshots()
        await cluster.come_back(last, OLD)  # is sent the snapshot of a newer leader
        assert cluster.host(last).node.group.raft.snapshot_index > 0
        await cluster.work(expects_new=False)
        assert cluster.versions() == {1}, "raised while a member is old"
        await cluster.change(last, NEW)
        await cluster.wait(lambda: cluster.versions() == {2}, "the version is not raised")
        await cluster.work(expects_new=True)

    cluster.run(life())
    assert (cluster.refused, cluster.accepted) == (8, 1)
    assert not cluster.too_old


@pytest.mark.parametrize("order", ORDERS, ids=["up", "down"])
def test_a_member_that_is_away_keeps_the_version_down(order: tuple[str, ...]) -> None:
    """It was new when it was heard last, and is old when it comes back."""
    cluster = MixedCluster(3)
    first, second, last = order

    async def life() -> None:
        await begun(cluster)
        for name in (first, second):
            await cluster.change(name, NEW)
        await cluster.lead(second)
        await cluster.leave(first, power=True)
        await cluster.change(last, NEW)
        await cluster.work(expects_new=False)
        await cluster.come_back(first, OLD)
        await cluster.work(expects_new=False)
        assert cluster.versions() == {1}
        assert not cluster.too_old

    cluster.run(life())


@pytest.mark.parametrize("order", ORDERS, ids=["up", "down"])
def test_the_version_outlives_restarts_snapshots_and_new_leaders(order: tuple[str, ...]) -> None:
    cluster = MixedCluster(4)
    first, _, last = order

    async def life() -> None:
        await upgraded(cluster, order)
        await cluster.snapshots()
        await cluster.leave(first)
        await cluster.work(expects_new=True)
        await cluster.snapshots()
        await cluster.come_back(first, NEW)  # is sent a snapshot of version 2
        for name in (first, last):
            await cluster.lead(name)
            await cluster.work(expects_new=True)
        for name in order:
            await cluster.change(name, NEW, power=True)
            await cluster.work(expects_new=True)
        assert cluster.versions() == {2}
        tallies = {host.node.group.sessions.machine.tally for host in cluster.hosts}  # type: ignore[attr-defined]
        assert tallies == {cluster.accepted}

    cluster.run(life())


@pytest.mark.parametrize("has_snapshot", [True, False], ids=["snapshot", "log"])
def test_a_node_that_is_too_old_after_the_raise_is_refused_and_says_why(has_snapshot: bool) -> None:
    cluster = MixedCluster(5)
    last = "n3"

    async def life() -> None:
        await upgraded(cluster, ORDERS[0])
        if has_snapshot:
            await cluster.snapshots()
        await cluster.leave(last)
        cluster.release[last] = OLD
        cluster.start(cluster.host(last))
        others = [cluster.host(name) for name in ("n1", "n2")]
        needed = ("machine_version 2", "runs 1 to 1", "nstall the release that the other")
        if has_snapshot:
            await cluster.wait(lambda: last in cluster.too_old, "it starts")
            assert all(words in cluster.too_old[last] for words in needed)
        else:
            said = lambda node: [text for text in node.refusals() if all(words in text for words in needed)]  # noqa: E731
            await cluster.wait(lambda: all(said(host.node) for host in others), "nobody refuses it")
            assert cluster.host(last).node.group.sessions.machine_version == 1
            cluster.kill(cluster.host(last))
        await cluster.work(expects_new=True)
        await cluster.come_back(last, NEW)
        assert cluster.versions() == {2}

    cluster.run(life())


def test_a_release_without_version_1_goes_on_from_a_snapshot_of_version_2() -> None:
    cluster = MixedCluster(6)

    async def life() -> None:
        await upgraded(cluster, ORDERS[0])
        await cluster.snapshots()
        for name in ORDERS[0]:
            await cluster.change(name, LATER)
        await cluster.work(expects_new=True)
        assert not cluster.too_old

    cluster.run(life())


def test_a_new_cluster_of_a_release_without_version_1_says_so_in_its_log() -> None:
    cluster = MixedCluster(7)
    cluster.release = dict.fromkeys(cluster.release, LATER)

    async def life() -> None:
        for host in cluster.hosts:
            cluster.start(host)
        await cluster.whole()
        await cluster.ask(broker.CreateTopic(TOPIC))
        await cluster.work(expects_new=True)
        for name in ORDERS[0]:
            await cluster.change(name, LATER, power=True)
        await cluster.work(expects_new=True)
        assert cluster.versions() == {2} and not cluster.too_old

    cluster.run(life())
