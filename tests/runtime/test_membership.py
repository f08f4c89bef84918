"""Members that come and go at run time: who is let in, who is told to go, and what a change may never cost."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster, Node, TestRegistry, transfer
from tests.support.wire import wait_until

import disheap
from disheap.config.node_config import Limits, MemberConfig, NodeConfig, RaftConfig
from disheap.errors import (
    LastVoter,
    MemberAlive,
    NotCaughtUp,
    NotLeader,
    NotSent,
    QuorumAtRisk,
    RequestTimeout,
    UnknownMember,
)
from disheap.interfaces import PeerStore
from disheap.kernel.membership import voters_of
from disheap.kernel.types import EntryKind, Membership
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.membership.directory import role_of
from disheap.runtime.replica.lifecycle import State


class Growing:
    """A cluster that begins with one node, n1, which others join."""

    def __init__(
        self,
        directory: Path,
        storage: str = "file",
        raft: RaftConfig = FAST,
        machine: str = "counter",
        **changes: Any,
    ) -> None:
        self.registry = TestRegistry.load()
        self.directory = directory
        self.nodes: dict[str, Node] = {}
        self.base = NodeConfig(
            name="n1",
            bootstrap=True,
            transport="inproc",
            storage=storage,
            codec="none",
            machine=machine,
            raft=raft,
            **changes,
        )

    def config(self, name: str, /, **changes: Any) -> NodeConfig:
        own = {"name": name, "peer_listen": f"{name}:8300", "client_listen": f"{name}:8400"}
        ways = {} if name == "n1" else {"bootstrap": False, "join_addresses": ("n1:8300",)}
        own |= {"data_dir": str(self.directory / name), **ways, **changes}
        return msgspec.structs.replace(self.base, **own)

    async def start(self, name: str, **changes: Any) -> Node:
        node = self.nodes[name] = Node(self.config(name, **changes), registry=self.registry)
        await asyncio.wait_for(node.start(), 20)
        return node

    async def stop(self, name: str, hand_over: bool = False) -> None:
        await self.nodes.pop(name).stop(hand_over)

    def leader(self) -> Node:
        (leader,) = (node for node in self.nodes.values() if node.group.leads)
        return leader

    async def wait_leader(self) -> Node:
        await wait_until(lambda: sum(node.group.leads for node in self.nodes.values()) == 1, "one node leads")
        return self.leader()

    async def wait_voters(self, *names: str) -> None:
        def voters(node: Node) -> set[str]:
            return {node.book.name(one.id) for one in node.group.applied.membership.members if one.voter}

        await wait_until(
            lambda: all(voters(node) == set(names) for name, node in self.nodes.items() if name in names),
            f"all nodes know the voters {names}",
        )

    async def grow(self, *names: str) -> None:
        for name in names:
            await self.start(name)
        await self.wait_voters("n1", *names)


SECRET = "the-secret-of-this-cluster-" + 8 * "0"


@contextlib.asynccontextmanager
async def growing(directory: Path, **settings: Any) -> AsyncIterator[Growing]:
    cluster = Growing(directory, **settings)
    try:
        await cluster.start("n1")
        yield cluster
    finally:
        await asyncio.gather(*(node.stop(hand_over=False) for node in cluster.nodes.values()))


async def test_a_founder_serves_at_once_and_draws_the_id_of_its_cluster(tmp_path: Path) -> None:
    ids = []
    for storage in ("file", "memory"):
        async with growing(tmp_path / storage, storage=storage) as cluster:
            await cluster.wait_leader()
            assert await cluster.nodes["n1"].apply(b"+1") == b"1"
            ids.append(cluster.nodes["n1"].cluster_id)
    assert len(set(ids)) == 2 and all(len(drawn) == 32 for drawn in ids)


async def test_a_cluster_grows_to_three_and_shrinks_to_one_and_loses_nothing(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        assert await cluster.nodes["n1"].apply(b"+1") == b"1"
        await cluster.grow("n2", "n3")
        assert await (await cluster.wait_leader()).apply(b"+1") == b"2"
        for name in ("n3", "n2"):
            leader = await cluster.wait_leader()
            changed = await leader.membership.change("remove", name)
            assert (changed.name, changed.role) == (name, "removed")
            await wait_until(lambda name=name: cluster.nodes[name].membership.is_removed, "it is told")
        assert await cluster.leader().apply(b"+1") == b"3"
        assert [member.id for member in cluster.leader().group.raft.membership.members] == [1]


async def test_a_leader_that_leaves_hands_over_first_and_goes_quiet(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leaves = await cluster.wait_leader()
        term = leaves.group.raft.term
        changed = await leaves.membership.leave(timeout_s=20)
        assert (changed.name, changed.role) == (leaves.name, "removed")
        assert leaves.lifecycle.state is State.REMOVED
        status = await leaves.status()
        assert status["role"] == "removed" and status["removed"]
        others = [node for node in cluster.nodes.values() if node is not leaves]
        await wait_until(lambda: any(node.group.leads for node in others), "another one leads")
        assert max(node.group.raft.term for node in others) == term + 1, "no election besides the transfer"
        await wait_until(lambda: not any(node.is_connected(status["node_id"]) for node in others), "they let go of it")


async def test_a_removed_node_stays_quiet_after_a_restart_and_says_so(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        gone = next(node for node in cluster.nodes.values() if node is not leader)
        await leader.membership.change("remove", gone.name)
        await wait_until(lambda: gone.membership.is_removed, "it is told")
        await cluster.stop(gone.name)
        again = await cluster.start(gone.name)
        assert again.membership.is_removed and again.lifecycle.state is State.REMOVED
        assert again.group.raft.term == gone.group.raft.term
        assert not any(map(again.is_connected, again.book.others()))


async def test_a_node_that_was_down_when_it_was_removed_is_told_when_it_comes_back(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        down = next(name for name in ("n3", "n2") if name != leader.name)
        await cluster.stop(down)
        await wait_until(lambda: len(leader.group.contact.members_in_touch()) == 2, "the leader misses it")
        term = leader.group.raft.term
        await leader.membership.change("replace", down)
        again = await cluster.start(down)
        await wait_until(lambda: again.membership.is_removed, "it is told")
        assert leader.group.leads and leader.group.raft.term == term


async def test_a_wiped_node_is_refused_and_comes_back_by_replace_under_a_new_id(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        wiped = next(name for name in ("n3", "n2") if name != leader.name)
        await cluster.stop(wiped)
        shutil.rmtree(tmp_path / wiped)
        starting = asyncio.create_task(cluster.start(wiped, join_addresses=(f"{leader.name}:8300",)))
        with pytest.raises(NotLeader):
            follower = next(node for node in cluster.nodes.values() if not node.group.leads)
            await follower.membership.change("replace", wiped)
        before = leader.book.find(wiped)
        others = {node.group.raft.id for node in cluster.nodes.values() if node.name != wiped}
        await wait_until(lambda: leader.group.contact.members_in_touch() == others, "it alone is missed")
        await leader.membership.change("replace", wiped)
        node = await asyncio.wait_for(starting, 20)
        assert node.group.raft.id > before
        await cluster.wait_voters(*cluster.nodes)


async def test_a_change_that_would_lose_the_quorum_is_refused_unless_it_is_forced(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        down, alive = (name for name in ("n1", "n2", "n3") if name != leader.name)
        await cluster.stop(down)
        await wait_until(lambda: len(leader.group.contact.members_in_touch()) == 2, "the leader misses it")
        for op in ("remove", "demote"):
            with pytest.raises(QuorumAtRisk, match="--force"):
                await leader.membership.change(op, alive)  # type: ignore[arg-type]
        answering = cluster.nodes[alive].group.raft.id
        await wait_until(lambda: answering in leader.group.contact.members_in_touch(), "the other one answers")
        with pytest.raises(MemberAlive):
            await leader.membership.change("replace", alive)
        with pytest.raises(UnknownMember):
            await leader.membership.change("remove", "n9")
        assert len(leader.group.raft.membership.members) == 3
        await leader.membership.change("demote", down)
        with pytest.raises(NotCaughtUp):
            await leader.membership.change("promote", down)
        await leader.membership.change("remove", down, force=True)
        assert await leader.apply(b"+1") == b"1"


async def test_the_last_voter_is_never_removed(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        for op in ("remove", "demote"):
            with pytest.raises(LastVoter):
                await leader.membership.change(op, "n1", force=True)  # type: ignore[arg-type]
        with pytest.raises(LastVoter):
            await leader.membership.leave()
        assert leader.group.leads


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": "another"}, "is called 'disheap'"),
        ({"name": "n1", "peer_listen": "other:8300"}, "has a member called 'n1'"),
        ({"peer_listen": "n1:8300 ", "peer_advertise": "n1:8300"}, "has the peer address n1:8300"),
        ({"machine": "heap"}, "runs the machine 'heap'"),
        ({"groups": 2}, "hosts 2 groups"),
        ({"limits": Limits(session_window=77)}, "other bounds"),
        ({"cluster_secret": "another-secret-of-the-cluster-" + 8 * "0"}, "another cluster secret"),
    ],
)
async def test_who_does_not_fit_is_not_let_in_and_is_told_why(
    changes: dict[str, Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = SECRET if "cluster_secret" in changes else ""
    async with growing(tmp_path, cluster_secret=secret) as cluster:
        leader = await cluster.wait_leader()
        node = Node(cluster.config("n2", **changes), registry=cluster.registry)
        task = asyncio.create_task(node.start())
        await wait_until(lambda: reason in caplog.text, "it is refused, and says why")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await node.stop()
        assert len(leader.group.raft.membership.members) == 1
        assert not (tmp_path / "n2" / "groups").exists()


async def test_a_member_that_comes_back_with_another_address_is_found_there(tmp_path: Path) -> None:
    async with growing(tmp_path, cluster_secret=SECRET) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        moved = next(name for name in ("n3", "n2") if name != leader.name)
        await cluster.stop(moved)
        node = await cluster.start(moved, peer_listen="elsewhere:8300", client_listen="elsewhere:8400")
        await wait_until(lambda: leader.book.record(node.group.raft.id).peer == "elsewhere:8300", "the log has it")
        assert "elsewhere:8400" in leader.book.clients()
        await leader.apply(b"+1")
        await wait_until(lambda: node.group.applied.index >= leader.group.applied.index, "it follows")


async def test_who_proves_nothing_does_not_send_a_member_somewhere_else(tmp_path: Path) -> None:
    """On loopback, without a secret, any process could say that it is the member."""
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        moved = next(name for name in ("n3", "n2") if name != leader.name)
        member = cluster.nodes[moved].group.raft.id
        await cluster.stop(moved)
        node = await cluster.start(moved, peer_listen="elsewhere:8300", client_listen="elsewhere:8400")
        await wait_until(lambda: node.is_connected(leader.group.raft.id), "its hello was read")
        assert leader.book.peer(member) == f"{moved}:8300"
        assert "elsewhere:8400" not in leader.book.clients()


async def test_a_follower_and_a_learner_catch_up_from_a_snapshot_while_writes_go_on(tmp_path: Path) -> None:
    raft = msgspec.structs.replace(FAST, snapshot_threshold=10, trailing_entries=0, trailing_bytes=0)
    async with growing(tmp_path, raft=raft) as cluster:
        leader = await cluster.wait_leader()
        for _ in range(30):
            await leader.apply(b"+1")
        leader.group.snapshotter.take()
        await wait_until(lambda: leader.group.raft.snapshot_index > 0, "the log begins later")

        async def write() -> None:
            while True:
                await leader.apply(b"+1")

        writing = asyncio.create_task(write())
        learner = await cluster.start("n2", join_as_learner=True)
        await cluster.grow("n3")
        await wait_until(lambda: learner.group.applied.index > 30, "the learner follows")
        writing.cancel()
        assert [role_of(member) for member in leader.book.members()] == ["voter", "learner", "voter"]

        def has_all() -> bool:
            raft = leader.group.raft
            (peer,) = (peer for peer in raft.peers() if peer.id == learner.group.raft.id)
            return peer.recently_active and peer.match == raft.last_index

        await wait_until(has_all, "the leader knows that the learner has everything")
        changed = await leader.membership.change("promote", "n2")
        assert changed.role == "voter"


async def test_a_founder_that_has_grown_is_not_alone_after_a_restart(tmp_path: Path) -> None:
    """It would drop a block that is torn, and vote, and the other has acknowledged what is in it."""
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2")
        await cluster.stop("n2")
        await cluster.stop("n1")
        opened: list[bool] = []
        storage = cluster.registry.get("storage", "file")
        with pytest.MonkeyPatch.context() as patch:
            real = storage.open
            patch.setattr(
                storage,
                "open",
                lambda self, identity, tail, alone: opened.append(alone) or real(self, identity, tail, alone),
            )
            node = await cluster.start("n1")
        assert opened == [False]
        assert not node.group.leads
        await cluster.start("n2")
        await cluster.wait_leader()


async def test_members_are_those_of_every_group(tmp_path: Path) -> None:
    async with growing(tmp_path, groups=2) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")

        def members(group: int) -> list[tuple[int, bool]]:
            leader = next(node for node in cluster.nodes.values() if node.replica(0).group.leads)
            return [(one.id, one.voter) for one in leader.replica(group).group.applied.membership.members]

        await wait_until(lambda: members(1) == members(0) == [(1, True), (2, True), (3, True)], "all groups have them")
        leader = await cluster.wait_leader()
        gone = next(name for name in ("n3", "n2") if name != leader.name)
        await leader.membership.change("remove", gone)
        await wait_until(lambda: cluster.nodes[gone].membership.is_removed, "it is told when no group has it")
        assert len(members(0)) == len(members(1)) == 2


async def test_a_join_that_was_broken_off_does_not_keep_the_name(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        node = Node(cluster.config("n2"), registry=cluster.registry)
        request = asyncio.create_task(node.start())
        await wait_until(lambda: len(leader.group.applied.membership.members) == 2, "it is let in")
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        shutil.rmtree(tmp_path / "n2", ignore_errors=True)
        again = await cluster.start("n2")
        assert again.group.raft.id in (2, 3)
        await cluster.wait_voters("n1", "n2")


async def test_a_node_that_breaks_off_before_its_directories_exist_keeps_its_id(tmp_path: Path) -> None:
    """With several groups it has made some of them. Without its incarnations it would be refused as one that was
    wiped."""
    async with growing(tmp_path, groups=3) as cluster:
        leader = await cluster.wait_leader()
        node = Node(cluster.config("n2"), registry=cluster.registry)
        made = []

        async def breaks_off(replica: Any) -> Any:
            made.append(replica.number)
            if len(made) == 2:
                raise ConnectionError("the power is cut")
            return await opened(replica)

        opened, Replica.open = Replica.open, breaks_off  # type: ignore[method-assign]
        try:
            with pytest.raises(ConnectionError):
                await node.start()
        finally:
            Replica.open = opened  # type: ignore[method-assign]
        assert made == [2, 1]
        await cluster.grow("n2")
        assert [member.id for member in leader.group.raft.membership.members] == [1, 2]
        assert cluster.nodes["n2"]._id == 2


async def test_a_program_lets_its_node_join_and_leave(tmp_path: Path) -> None:
    config = NodeConfig(name="n1", bootstrap=True, transport="inproc", storage="memory", client_listen="n1:8400")
    config = msgspec.structs.replace(config, peer_listen="n1:8300", raft=FAST)
    other = msgspec.structs.replace(config, name="n2", bootstrap=False, peer_listen="n2:8300", client_listen="n2:8400")
    lost = msgspec.structs.replace(other, name="n3", peer_listen="n3:8300", client_listen="n3:8400")
    async with disheap.Node(config) as first:
        await first.wait_for_leader()
        node = disheap.Node(other)
        with pytest.raises(NotSent):
            await node.status()
        assert await node.join(["n1:8300"], timeout_s=20) == 2
        assert [row["role"] for row in (await node.status())["members"]] == ["voter", "voter"]
        with pytest.raises(RequestTimeout):
            await disheap.Node(lost).join(["nowhere:8300"], timeout_s=0.1)
        await node.leave(timeout_s=20)
        assert (await node.status())["role"] == "removed"
        await node.stop()
        with pytest.raises(LastVoter):
            await first.leave()


async def test_a_member_that_was_away_hears_a_leader_that_it_has_never_met(tmp_path: Path) -> None:
    """A dead member keeps nobody from joining. When it is back, its own log does not have the present leader."""
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        away = next(name for name in ("n3", "n2") if name != leader.name)
        await cluster.stop(away)
        await cluster.start("n4", join_addresses=(f"{leader.name}:8300",))
        await wait_until(
            lambda: cluster.nodes["n4"].group.raft.id in voters_of(leader.group.applied.membership), "votes"
        )
        await transfer(leader, "n4")
        last = cluster.nodes["n4"]
        await wait_until(lambda: last.group.leads, "the new one leads")
        await last.apply(b"+1")
        back = await cluster.start(away)
        assert last.group.raft.id not in [one.id for one in back.group.applied.membership.members]
        await wait_until(lambda: back.group.applied.index >= last.group.applied.index, "it follows the stranger")
        assert back.group.leader == last.group.raft.id


async def test_a_node_joins_a_cluster_that_began_with_a_static_list(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        leader = await cluster.wait_leader()
        base = cluster.configs["n1"]
        config = msgspec.structs.replace(
            base,
            name="n4",
            members=(),
            join_addresses=("n1:8300", "n2:8300"),
            peer_listen="n4:8300",
            client_listen="n4:8400",
            data_dir=str(tmp_path / "n4"),
        )
        node = cluster.nodes["n4"] = Node(config, registry=cluster.registry)
        await node.start()
        await node.membership.wait_joined()
        await leader.apply(b"+1")
        assert await cluster.wait_equal()
        await cluster.stop("n1")
        longer = (*base.members, MemberConfig("n4", "n4:8300", "n4:8400"))
        again = await cluster.start("n1", members=longer)
        await wait_until(lambda: again.group.leader != 0, "the log counts, and not the changed list")
        assert len(again.group.raft.membership.members) == 4


async def test_a_replica_without_members_takes_no_snapshot(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        group = leader.group
        there = group.applied
        group.applied = there._replace(membership=Membership(()))
        group.snapshotter.take()
        assert not group.snapshotter.running
        group.applied = there
        group.snapshotter.take()
        assert group.snapshotter.running


async def test_the_voters_are_on_the_disk_before_the_entry_that_names_them(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        storage, done = leader.storage(), []
        assert isinstance(storage, PeerStore)
        append, save = storage.append, storage.save_known_peers
        storage.append = lambda entries: done.append([one.kind for one in entries]) or append(entries)  # type: ignore
        storage.save_known_peers = lambda peers: done.append(peers.voters) or save(peers)  # type: ignore
        await cluster.grow("n2")
        assert done.index((1, 2)) < max(at for at, kinds in enumerate(done) if EntryKind.MEMBERSHIP in kinds)
        assert storage.known_peers().voters == (1, 2)


async def test_a_removed_node_that_leads_another_group_gives_it_up(tmp_path: Path) -> None:
    """Group 0 sends it nothing any more, so its own group 0 does not know."""
    async with growing(tmp_path, groups=2) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")

        def voters(group: int) -> set[int]:
            return {int(one) for one in voters_of(cluster.leader().replica(group).group.applied.membership)}

        await wait_until(lambda: voters(0) == voters(1) == {1, 2, 3}, "all vote in all groups")
        leader = cluster.leader()
        gone = next(node for node in cluster.nodes.values() if node is not leader)
        for node in cluster.nodes.values():
            if node.replica(1).group.leads and node is not gone:
                await transfer(node, gone.name, 1)
        await wait_until(lambda: gone.replica(1).group.leads, "it leads the second group")
        await leader.membership.change("remove", gone.name)
        await wait_until(lambda: gone.membership.is_removed, "it is told when no group has it")
        assert gone.group.raft.id not in voters(1)
