"""Whole nodes in one loop: failover, restart, sessions across leaders, snapshots, time. The machine is a counter."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.nodes import FAST, Cluster, TestRegistry
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits, NodeConfig, RaftConfig
from disheap.errors import ConfigError, NotLeader, OutcomeUnknown, UnknownMember, WrongDirectory
from disheap.protocol.frames import Kind, Status
from disheap.runtime.clients import redirecting
from disheap.testing.counter import CounterMachine
from disheap.testing.inspected import InspectedMember as Node

SMALL_SNAPSHOTS = RaftConfig(
    tick_ms=10,
    heartbeat_ms=20,
    election_timeout_ms=150,
    commit_timeout_ms=10,
    snapshot_threshold=20,
    trailing_entries=5,
    trailing_bytes=4096,
    log_cache_bytes=4096,
    chunk_bytes=4096,
)
SEGMENTS = {"storage": {"file": {"segment_bytes": 65_536}}}


def total_of(node: Node) -> int:
    machine = node.group.sessions.machine
    assert isinstance(machine, CounterMachine)
    return machine.total


async def test_one_node_serves_within_moments(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client = await cluster.client()
        assert await client.call(b"+5") == (Status.OK, b"5")
        assert await client.query(b"total") == (Status.OK, b"5")


@pytest.mark.parametrize(("nodes", "storage", "warnings"), [(2, "memory", 2), (2, "file", 0), (1, "memory", 0)])
async def test_a_member_whose_storage_forgets_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nodes: int, storage: str, warnings: int
) -> None:
    async with Cluster(tmp_path, nodes=nodes, storage=storage):
        said = [text for text in caplog.messages if "keeps nothing beyond this process" in text]
    assert len(said) == warnings
    assert all(f"'storage': '{storage}'" in text for text in said)


async def test_three_nodes_hold_the_same_state(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        client = await cluster.client()
        for _ in range(20):
            await client.call(b"+1")
        await cluster.wait_equal()
        assert [total_of(node) for node in cluster.nodes.values()] == [20, 20, 20]


async def test_a_follower_says_who_leads_and_takes_no_commands(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        follower = cluster.followers()[0]
        client = await WireClient.connected(cluster.transport, follower.client_address)
        assert not client.welcome.leads
        assert client.welcome.leader == leader.client_address
        client.session = 1
        client.send(b"+1")
        goodbye = await client.goodbye()
        assert (goodbye.code, goodbye.leader) == ("not-leader", leader.client_address)


async def test_a_session_goes_on_at_the_next_leader_and_nothing_is_applied_twice(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        client = await cluster.client()
        assert await client.call(b"+1", seq=1) == (Status.OK, b"1")
        old = await cluster.wait_leader()
        await cluster.stop(old.name)
        leader = await cluster.wait_leader()
        again = await WireClient.connected(cluster.transport, leader.client_address)
        assert await again.attach(client.session, client.secret, b"x") == (Status.OK, b"welcome back x")
        assert await again.call(b"+1", seq=1) == (Status.OK, b"1"), "the kept reply"
        assert await again.call(b"+1", seq=2) == (Status.OK, b"2")
        await cluster.start(old.name)
        await cluster.wait_equal()


async def test_the_leader_sends_its_clients_to_the_next_one_when_it_hands_over(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        client = await cluster.client()
        old = await cluster.wait_leader()
        await cluster.stop(old.name, hand_over=True)
        goodbye = await client.goodbye()
        leader = await cluster.wait_leader()
        assert (goodbye.code, goodbye.leader) == ("not-leader", leader.client_address)


async def test_a_former_leader_sends_a_bounded_number_of_clients_away_in_one_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redirecting, "REDIRECTS_AT_ONCE", 2)
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        clients = [await cluster.client() for _ in range(5)]
        replica = node.replicas[0]
        replica.server.lead(False)
        connections = list(replica.server._redirecting._leaving)
        assert len(connections) == len(clients)
        closed = []
        replica.server.redirect_clients()
        while not all(connection.closed for connection in connections):
            closed.append(sum(connection.closed for connection in connections))
            await asyncio.sleep(0)
        assert closed == [2, 4]
        for client in clients:
            await asyncio.wait_for(client.lost.wait(), 10)


async def test_leadership_goes_where_an_operator_sends_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        target = cluster.followers()[0]
        admin = await WireClient.connected(cluster.transport, (await cluster.wait_leader()).client_address)
        assert await admin.admin(op="transfer", target=target.name) == {"leader": target.name}
        assert target.group.leads


async def test_an_unknown_target_of_a_transfer_is_named_in_the_refusal(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        with pytest.raises(UnknownMember, match="no member is called 'n9'"):
            await cluster.nodes["n1"].admin({"op": "transfer", "target": "n9"})


@pytest.mark.parametrize("codec", ["none", "zstd"])
async def test_all_nodes_stop_and_start_again_with_everything_acknowledged(tmp_path: Path, codec: str) -> None:
    async with Cluster(tmp_path, storage="file", codec=codec) as cluster:
        client = await cluster.client()
        for _ in range(50):
            await client.call(b"+1")
        for name in list(cluster.nodes):
            await cluster.stop(name)
        await asyncio.gather(*(cluster.start(name) for name in cluster.configs))
        client = await cluster.client()
        assert await client.query(b"total") == (Status.OK, b"50")
        await cluster.wait_equal()


async def test_a_node_that_was_away_catches_up_from_the_log(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        away = cluster.followers()[0].name
        await cluster.stop(away)
        client = await cluster.client()
        for _ in range(30):
            await client.call(b"+1")
        node = await cluster.start(away)
        await cluster.wait_equal()
        assert total_of(node) == 30
        assert node.group.raft.first_index == 1


async def test_a_node_that_was_away_too_long_gets_a_snapshot_and_then_the_log(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file", raft=SMALL_SNAPSHOTS, tables=SEGMENTS) as cluster:
        away = cluster.followers()[0].name
        await cluster.stop(away)
        client = await cluster.client()
        padding = b"+1" + b" " * 3000  # int() takes blanks: entries that fill segments
        leader = await cluster.wait_leader()
        for count in range(200):
            await client.call(padding, confirmed=count)
        await wait_until(lambda: leader.group.raft.first_index > 50, "the log is trimmed")
        node = await cluster.start(away)
        await cluster.wait_equal()
        assert total_of(node) == 200
        assert node.group.raft.first_index > 1, "the log begins behind the snapshot"
        await client.call(b"+1", confirmed=200)
        await cluster.wait_equal()
        restarted = await cluster.restart(away)
        await cluster.wait_equal()
        assert total_of(restarted) == 201


async def test_a_node_restarts_from_its_own_snapshot(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file", raft=SMALL_SNAPSHOTS, tables=SEGMENTS) as cluster:
        client = await cluster.client()
        for count in range(100):
            await client.call(b"+1", confirmed=count)
        node = cluster.nodes["n1"]
        await wait_until(lambda: node.group.counters.raft_snapshots_total > 1, "snapshots are taken")
        await cluster.restart("n1")
        client = await cluster.client()
        assert await client.query(b"total") == (Status.OK, b"100")


async def test_a_snapshot_on_request_is_of_one_index_on_all_nodes(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        leader = await cluster.wait_leader()
        index = (await leader.admin({"op": "snapshot"}))["index"]
        nodes = list(cluster.nodes.values())
        await wait_until(lambda: all(n.group.counters.raft_snapshots_total == 1 for n in nodes), "all have one")
        for name in list(cluster.nodes):
            await cluster.stop(name)
        for name in cluster.configs:
            assert list((tmp_path / name).rglob(f"*{index:x}*")) or list((tmp_path / name).rglob(f"*{index}*"))


async def test_a_session_that_is_not_heard_of_lapses_and_its_timers_with_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path, limits=Limits(session_timeout_min_ms=1)) as cluster:
        client = await cluster.client(timeout_ms=50)
        leader = await cluster.wait_leader()
        client.close()
        await wait_until(lambda: not leader.group.sessions.table, "the session lapses")
        await cluster.wait_equal()


async def test_a_client_that_only_pings_keeps_its_session(tmp_path: Path) -> None:
    from disheap.protocol import frames

    async with Cluster(tmp_path, nodes=1, limits=Limits(session_timeout_min_ms=1)) as cluster:
        client = await cluster.client(timeout_ms=700)
        node = cluster.nodes["n1"]
        for _ in range(10):
            client.connection.write(frames.plain(Kind.PING))
            await client.frame(Kind.PONG)
            await asyncio.sleep(0.1)
        assert client.session in node.group.sessions.table


async def test_a_new_leader_gives_every_session_a_full_period_of_grace(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file", limits=Limits(session_timeout_min_ms=1)) as cluster:
        client = await cluster.client(timeout_ms=2000)
        old = await cluster.wait_leader()
        await cluster.stop(old.name)
        leader = await cluster.wait_leader()
        again = await WireClient.connected(cluster.transport, leader.client_address)
        status, _ = await again.attach(client.session, client.secret)
        assert status == Status.OK


async def test_a_timer_rings_though_nobody_sends_anything(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        client = await cluster.client()
        assert await client.call(b"@100") == (Status.OK, b"set")
        frame = await client.frame(Kind.PUSH)
        assert frame.endswith(b"ring")


async def test_postponed_work_is_done_a_slice_an_entry(tmp_path: Path) -> None:
    async with Cluster(tmp_path, limits=Limits(apply_work_limit=10)) as cluster:
        client = await cluster.client()
        leader = await cluster.wait_leader()
        before = leader.group.applied.index
        await client.call(b"w95")
        machine = leader.group.sessions.machine
        await wait_until(lambda: not machine.backlog(), "the work is done")
        assert leader.group.applied.index - before >= 10
        await cluster.wait_equal()


async def test_commands_are_not_read_while_too_many_wait_and_none_is_lost(tmp_path: Path) -> None:
    limits = Limits(gather_bytes=8192, frame_bytes=8192, entry_bytes=4096, uncommitted_bytes=8192)
    async with Cluster(tmp_path, nodes=3, limits=limits) as cluster:
        client = await cluster.client()
        seqs = [client.send(b"+1" + b" " * 500) for _ in range(300)]
        for seq in seqs:
            _, status, _ = await client.reply_to(seq)
            assert status == Status.OK
        assert await client.query(b"total") == (Status.OK, b"300")


async def test_requests_under_way_end_as_unknown_when_leadership_is_lost(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.wait_leader()
        await leader.apply(b"+1")
        for name in [node.name for node in cluster.followers()]:
            await cluster.stop(name)
        with pytest.raises(OutcomeUnknown):
            await leader.apply(b"+1")
        with pytest.raises(NotLeader):
            await leader.apply(b"+1")
        with pytest.raises(NotLeader):
            await leader.query(b"total")


async def test_a_node_refuses_the_data_of_another(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        for name in list(cluster.nodes):
            await cluster.stop(name)
        with pytest.raises(WrongDirectory):
            await cluster.start("n1", data_dir=str(tmp_path / "n2"))
        cluster.nodes.clear()


async def test_nodes_that_were_told_different_members_do_not_mix(tmp_path: Path) -> None:
    async with Cluster(tmp_path / "a", nodes=2) as cluster:
        members = cluster.configs["n1"].members
        other = NodeConfig(
            name="n2",
            cluster="another",
            members=members,
            peer_listen="elsewhere:1",
            client_listen="elsewhere:2",
            transport="inproc",
            storage="memory",
            machine="counter",
            raft=FAST,
        )
        await cluster.stop("n2")
        async with Node(other, registry=TestRegistry.load()) as stranger:
            await wait_until(lambda: any("belongs to cluster" in r for r in cluster.nodes["n1"].refusals()), "refused")
            assert not stranger.group.leads


async def test_nodes_with_other_bounds_in_the_machine_do_not_mix(tmp_path: Path) -> None:
    """What bounds a command decides its reply; replicas that answer differently are no replicas."""
    async with Cluster(tmp_path, nodes=2) as cluster:
        await cluster.stop("n2")
        await cluster.start("n2", limits=Limits(session_window=17))
        one = cluster.nodes["n1"]
        await wait_until(lambda: any("all nodes need the same" in reason for reason in one.refusals()), "refused")


async def test_a_node_that_lost_its_data_is_not_let_back_under_its_old_identity(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="memory") as cluster:
        away = cluster.followers()[0].name
        await cluster.restart(away)
        others = [node for name, node in cluster.nodes.items() if name != away]
        await wait_until(lambda: all(node.refusals() for node in others), "both refuse it")
        assert all("without the data" in reason for node in others for reason in node.refusals())
        client = await cluster.client()
        assert await client.call(b"+1") == (Status.OK, b"1")


def test_a_name_that_no_member_has_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="n1"):
        Node(NodeConfig(name="stranger", members=NodeConfig(name="n1").member_list()))


class Newer(CounterMachine):
    versions = (1, 2)


class NewerRegistry(TestRegistry):
    machines = {"counter": Newer}  # noqa: RUF012


async def test_the_machine_version_is_raised_once_every_member_knows_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path, registry=NewerRegistry.load()) as cluster:
        nodes = list(cluster.nodes.values())
        await wait_until(lambda: all(n.group.sessions.machine_version == 2 for n in nodes), "raised everywhere")
        await cluster.wait_equal()


async def test_the_machine_version_stays_while_one_member_is_older(tmp_path: Path) -> None:
    async with Cluster(tmp_path, registry=NewerRegistry.load(), storage="file") as cluster:
        cluster.registry = TestRegistry.load()
        for name in list(cluster.nodes):
            await cluster.stop(name)
        for name in cluster.configs:
            (tmp_path / name).rename(tmp_path / f"old-{name}")
        cluster.registry = TestRegistry.load()
        await cluster.start("n1")
        cluster.registry = NewerRegistry.load()
        await asyncio.gather(cluster.start("n2"), cluster.start("n3"))
        client = await cluster.client()
        for _ in range(20):
            await client.call(b"+1")
        assert {n.group.sessions.machine_version for n in cluster.nodes.values()} == {1}
        status = await (await cluster.wait_leader()).status()
        assert (status["machine_version"], status["log_version"]) == (1, 1)
        supported = {member["name"]: member["machine_versions"] for member in status["members"]}
        assert supported == {"n1": [1, 1], "n2": [1, 2], "n3": [1, 2]}
