"""A node whose data were wiped takes no part under its old identity, whoever was restarted meanwhile (storage-rules
11). So the first start of a cluster has conditions, which are tested here as well."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from disheap.cli.cluster import _troubles
from disheap.errors import DiskFailed, StorageError, StorageFull, WrongCluster
from disheap.interfaces import KnownPeers
from disheap.kernel.types import Member, Membership, NodeId
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.runtime.disk.thread import FailStopDisk
from disheap.runtime.membership.incarnations import IncarnationCheck
from disheap.runtime.replica.lifecycle import State

TWO, THREE = NodeId(2), NodeId(3)
NOBODY_MET = KnownPeers(False, ())


async def stopped(cluster: Cluster) -> list[str]:
    """All nodes, stopped. Returns their names."""
    names = list(cluster.configs)
    for name in names:
        if name in cluster.nodes:
            await cluster.stop(name)
    return names


# --- whole nodes -----------------------------------------------------------------------------------------------------


async def test_a_wiped_node_is_refused_by_nodes_that_were_restarted_meanwhile(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await (await cluster.wait_leader()).apply(b"+1")
        names = await stopped(cluster)
        shutil.rmtree(tmp_path / "n3")
        for name in names:
            await cluster.start(name)
        leader = await cluster.wait_leader()
        assert await leader.apply(b"+1") == b"2"

        others = [cluster.nodes["n1"], cluster.nodes["n2"]]
        await wait_until(lambda: all(node.refusals() for node in others), "both refuse it")
        assert all("without the data" in reason for node in others for reason in node.refusals())
        wiped = cluster.nodes["n3"]
        status = await wiped.status()
        assert status["role"] == "new"
        assert "welcome" in status["repair"]["missing"]
        assert status["repair"]["waiting_for"] == ["n1", "n2"]
        assert wiped.group.raft.term == 0
        await wait_until(lambda: all(wiped.refusal_by(peer) for peer in wiped.book.ids()[:2]), "it knows that it is")
        (trouble,) = _troubles(await wiped.status())
        assert trouble.startswith("takes no part: n1, n2 refused it:") and "without the data that it had" in trouble
        assert not list(_troubles(await others[0].status()))


async def test_a_wiped_node_and_one_that_has_everything_are_no_majority(tmp_path: Path) -> None:
    """Two of three are up, and one of them has forgotten its vote: nobody leads."""
    async with Cluster(tmp_path, storage="file") as cluster:
        await stopped(cluster)
        shutil.rmtree(tmp_path / "n3")
        await cluster.start("n2")
        wiped = await cluster.start("n3")
        await wait_until(lambda: bool(cluster.nodes["n2"].refusals()), "it is refused")
        assert wiped.lifecycle.state is State.WAITING
        await cluster.start("n1")
        assert (await cluster.wait_leader()).name in ("n1", "n2")
        assert wiped.lifecycle.state is State.WAITING


async def test_a_first_start_waits_for_every_member_and_says_for_whom(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, storage="file")
    try:
        one, two = await cluster.start("n1"), await cluster.start("n2")
        await wait_until(lambda: one.maintenance.repair_status().get("waiting_for") == ["n3"], "it waits for the third")
        assert one.lifecycle.state is two.lifecycle.state is State.WAITING
        assert (await one.status())["role"] == "new"
        await cluster.start("n3")
        async with asyncio.timeout(20):
            await wait_until(lambda: any(node.group.leads for node in cluster.nodes.values()), "one leads")
        await wait_until(
            lambda: not any(node.maintenance.repair_status() for node in cluster.nodes.values()), "all take part"
        )
    finally:
        await stopped(cluster)


async def test_two_of_three_start_without_the_third_when_all_have_met_once(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await wait_until(
            lambda: not any(node.maintenance.repair_status() for node in cluster.nodes.values()), "all take part"
        )
        await stopped(cluster)
        await cluster.start("n1")
        await cluster.start("n2")
        assert await (await cluster.wait_leader()).apply(b"+1") == b"1"


async def test_a_directory_of_an_earlier_release_takes_part_and_remembers(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        names = await stopped(cluster)
        for path in tmp_path.glob("*/groups/0/members"):
            path.unlink()
        await cluster.start("n1")
        await cluster.start("n2")
        await cluster.wait_leader()
        await cluster.start("n3")
        await wait_until(lambda: all(map(cluster.nodes["n1"].is_connected, (TWO, THREE))), "all have met")
        await stopped(cluster)
        shutil.rmtree(tmp_path / "n3")
        for name in names:
            await cluster.start(name)
        await wait_until(lambda: bool(cluster.nodes["n1"].refusals()), "it is refused")


async def test_a_cluster_of_one_has_nobody_to_wait_for(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        assert await cluster.nodes["n1"].apply(b"+1") == b"1"


# --- the order of things ---------------------------------------------------------------------------------------------


class Disk:
    """Jobs wait until they are let go."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.jobs.append((work, done))

    def go_on(self) -> None:
        work, done = self.jobs.pop(0)
        try:
            result, error = work(), None
        except Exception as failure:
            result, error = None, failure
        done(result, error)


class Host:
    """A node of two others, and its storage."""

    def __init__(self, kept: KnownPeers = NOBODY_MET) -> None:
        self.kept = kept
        self.error: Exception | None = None
        self.events: list[object] = []
        self.thread = Disk()
        self.number = 0
        self.incarnation_check = IncarnationCheck(self, asyncio.new_event_loop())  # type: ignore[arg-type]
        self.incarnation_check.recall([TWO, THREE], kept)

    def known_peers(self) -> KnownPeers:
        return self.kept

    def save_known_peers(self, peers: KnownPeers) -> None:
        if self.error is not None:
            raise self.error
        self.kept = peers

    def storage(self) -> Host:
        return self

    def disk(self) -> Disk:
        return FailStopDisk(self.thread, self.failed)

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def all_members_met(self) -> None:
        self.events.append("takes part")

    def failed(self, error: BaseException) -> None:
        self.events.append(error)


def members_of(*ids: int) -> Membership:
    """The membership of some of the three that there were."""
    return Membership(tuple(Member(NodeId(one), True, b"") for one in ids), 3)


def hello(node: int, incarnation: int) -> PeerHello:
    return PeerHello("c", node, f"n{node}", 1, "", (PeerGroup(incarnation, "heap", (1, 1)),))


def test_a_member_is_welcomed_when_it_is_on_disk_and_not_before() -> None:
    """Also one that dials again while the first write is under way."""
    host = Host()
    host.incarnation_check.meet(TWO, 7, host.events.append)
    host.incarnation_check.meet(TWO, 7, host.events.append)
    assert host.events == []
    host.thread.go_on()
    assert host.events == [True]
    assert host.kept == KnownPeers(False, ((2, 7),), listed=3)
    host.thread.go_on()
    host.incarnation_check.meet(TWO, 7, host.events.append)
    assert host.events == [True, True, True]


def test_a_node_takes_part_when_it_is_durable_that_all_have_welcomed_it() -> None:
    host = Host()
    for node in (TWO, THREE):
        host.incarnation_check.welcomed(node, 7, host.events.append)
    host.thread.go_on()
    assert not host.incarnation_check.all_met
    host.thread.go_on()
    assert host.events == [True, True]
    host.thread.go_on()
    assert host.events == [True, True, "takes part"]
    assert host.kept == KnownPeers(True, ((2, 7), (3, 7)), listed=3)


def test_having_been_met_is_not_having_been_welcomed() -> None:
    host = Host()
    for node in (TWO, THREE):
        host.incarnation_check.meet(node, 7, host.events.append)
        host.thread.go_on()
    assert host.thread.jobs == []
    assert not host.incarnation_check.all_met


@pytest.mark.parametrize("takes_part", [False, True])
def test_a_member_has_one_incarnation_for_ever(takes_part: bool) -> None:
    """A node that does not take part yet is no exception: the one that it met may take part already."""
    host = Host(KnownPeers(takes_part, ((2, 7),)))
    host.incarnation_check.check(TWO, "n2", 7)
    host.incarnation_check.check(THREE, "n3", 8)
    with pytest.raises(WrongCluster, match="without the data that it had"):
        host.incarnation_check.check(TWO, "n2", 8)


ALL, WITHOUT_THREE = members_of(1, 2, 3), members_of(1, 2)


def test_a_removed_member_is_known_until_a_restart_begins_without_it() -> None:
    """The schedule that is prevented: a member is wiped and removed, and another one is restarted. That one begins with
    its snapshot, in which the wiped node is a member still. Without its incarnation it would welcome it."""
    host = Host(KnownPeers(True, ((2, 7), (3, 7))))
    host.incarnation_check.follow(WITHOUT_THREE, ALL)
    assert host.thread.jobs == []
    restarted = Host(host.kept)
    for check in (host.incarnation_check, restarted.incarnation_check):
        with pytest.raises(WrongCluster, match="without the data that it had"):
            check.check(THREE, "n3", 8)
    host.incarnation_check.follow(WITHOUT_THREE, WITHOUT_THREE)
    host.thread.go_on()
    assert host.kept == KnownPeers(True, ((2, 7),))


def test_nobody_waits_for_the_welcome_of_a_member_that_is_gone() -> None:
    host = Host()
    host.incarnation_check.welcomed(TWO, 7, host.events.append)
    host.thread.go_on()
    host.incarnation_check.follow(WITHOUT_THREE, ALL)
    host.incarnation_check.tick()
    host.thread.go_on()
    assert host.events == [True, "takes part"]


def test_a_storage_that_is_being_opened_anew_makes_them_meet_again() -> None:
    host = Host()
    host.error = StorageError("closed")
    host.incarnation_check.welcomed(TWO, 7, host.events.append)
    host.thread.go_on()
    assert host.events == [False]
    host.error = None
    host.incarnation_check.welcomed(TWO, 7, host.events.append)
    host.thread.go_on()
    assert host.events == [False, True]


@pytest.mark.parametrize("error", [StorageError("closed"), StorageFull("full")])
def test_what_could_not_be_written_at_the_last_welcome_is_written_later(error: StorageError) -> None:
    """Nobody welcomes it a second time: without another attempt it would stay outside for ever."""
    host = Host()
    for node in (TWO, THREE):
        host.incarnation_check.welcomed(node, 7, host.events.append)
    host.thread.go_on()
    host.thread.go_on()
    host.error = error
    host.thread.go_on()
    assert not host.incarnation_check.all_met
    host.error = None
    host.incarnation_check.tick()
    host.incarnation_check.tick()
    host.thread.go_on()
    assert host.thread.jobs == []
    assert host.events == [True, True, "takes part"]
    assert host.kept == KnownPeers(True, ((2, 7), (3, 7)), listed=3)


def test_a_node_that_has_stopped_begins_nothing_when_its_last_write_returns() -> None:
    host = Host()
    for node in (TWO, THREE):
        host.incarnation_check.welcomed(node, 7, host.events.append)
    host.thread.go_on()
    host.incarnation_check.end()
    host.thread.go_on()
    assert host.thread.jobs == [] and host.events == [True]


def test_a_disk_that_fails_ends_the_node() -> None:
    host = Host()
    host.error = DiskFailed("no")
    host.incarnation_check.meet(TWO, 7, host.events.append)
    host.thread.go_on()
    assert host.events == [host.error, False]
