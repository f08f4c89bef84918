"""What an operator asks of a node, what it counts, and what it does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import Cluster, transfer
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits, NodeConfig, RaftConfig
from disheap.errors import DiskFailed
from disheap.interfaces import Connection, Receiver, Transport
from disheap.kernel.types import NodeId
from disheap.protocol import frames
from disheap.protocol.frames import Fault, Kind, Status
from disheap.runtime import tuning
from disheap.testing.inspected import InspectedMember as Node


async def test_an_admin_request_that_fails_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]

        async def usage() -> None:
            raise DiskFailed("the disk is gone")

        monkeypatch.setattr(node.replicas[0].directory, "usage", usage)
        status, body = await client.query(msgspec.msgpack.encode({"op": "status"}), Kind.ADMIN)
        assert status == Status.ERROR
        assert "the disk is gone" in msgspec.msgpack.decode(body, type=Fault).message


def _raise() -> dict[str, int]:
    raise KeyError("no such table")


@pytest.mark.parametrize(
    ("stats", "error"),
    [
        (_raise, "KeyError: 'no such table'"),
        (list, "it returned list"),
        (lambda: {"largest": "oak"}, "it returned str under 'largest'"),
        (lambda: {"largest": 1 << 64}, "it returned int under 'largest'"),
        (lambda: {5: 5}, "it returned int under 5"),
        (lambda: {str(number): number for number in range(101)}, "it returned 101 counters"),
    ],
)
async def test_a_machine_that_cannot_count_keeps_no_status_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: Callable[[], Any], error: str
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, machine = await cluster.client(), cluster.nodes["n1"].group.sessions.machine
        monkeypatch.setattr(machine, "stats", stats)
        monkeypatch.setattr(machine, "session_stats", lambda session: stats(), raising=False)
        _, body = await client.query(msgspec.msgpack.encode({"op": "status"}), Kind.ADMIN)
        told = msgspec.msgpack.decode(body)
        assert told["machine_stats"] == {} and told["machine_stats_error"].startswith(error)
        _, body = await client.query(msgspec.msgpack.encode({"op": "sessions"}), Kind.ADMIN)
        (row,) = msgspec.msgpack.decode(body)["sessions"]
        assert row["machine_stats"] == {} and row["machine_stats_error"].startswith(error)


async def test_admin_requests_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, nodes=1, limits=Limits(queries=2)) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        go_on = asyncio.Event()

        async def admin(request: dict[str, object], group: int) -> dict[str, object]:
            await go_on.wait()
            return {}

        monkeypatch.setattr(node, "admin", admin)
        for number in range(3):
            client.connection.write(frames.request(Kind.ADMIN, number, msgspec.msgpack.encode({"op": "status"})))
        status, number, _, body = frames.open_reply(await client.frame(Kind.ANSWER))
        assert (status, number, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, 2, "overloaded")
        go_on.set()
        answers = [frames.open_reply(await client.frame(Kind.ANSWER))[:2] for _ in range(2)]
        assert answers == [(Status.OK, 0), (Status.OK, 1)]


async def test_counters_count_what_their_names_say(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        client, leader = await cluster.client(), await cluster.wait_leader()
        await client.call(b"+1")
        before = leader.group.counters.raft_failed_entries_total
        await client.call(b"not a command")
        assert leader.group.counters.raft_failed_entries_total == before + 1
        changes = leader.group.counters.raft_leader_changes_total
        await transfer(leader)
        await wait_until(lambda: leader.group.leader != 0, "it follows the next")
        assert leader.group.counters.raft_leader_changes_total == changes + 1


async def test_a_stall_of_the_loop_gives_no_transfer_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator was told that it was given up, and it went on all the same."""
    async with Cluster(tmp_path) as cluster:
        leader, loop = await cluster.wait_leader(), asyncio.get_running_loop()
        asked = asyncio.ensure_future(leader.admin({"op": "transfer"}))
        await asyncio.sleep(0)
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + 1.0)
        told = await asked
        assert told["leader"] in [node.name for node in cluster.nodes.values() if node is not leader]


async def test_a_client_that_is_gone_before_it_was_attached_is_detached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the machine would go on giving it messages until its session lapses."""
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        table = node.group.sessions.table
        client.close()
        await wait_until(lambda: table[client.session].attachment == 0, "the first connection is gone")
        kinds: list[int] = []
        submit = node.group.submit

        def watched(envelopes: bytes) -> None:
            kinds.append(frames.open_envelope(envelopes).kind)
            submit(envelopes)

        monkeypatch.setattr(node.group, "submit", watched)
        again = await WireClient.connected(cluster.transport, node.client_address)
        again.connection.write(frames.envelope(Kind.ATTACH, 0, client.session, 1, 0, client.secret))
        again.close()
        await wait_until(lambda: kinds == [Kind.ATTACH, Kind.DETACH], "both are in the log")
        await wait_idle(node)
        assert table[client.session].attachment == 0


async def wait_idle(node: Node) -> None:
    group = node.group
    await wait_until(lambda: not group.gathering and group.applied.index == group.raft.last_index, "all applied")


async def test_a_transport_that_fails_in_an_unforeseen_way_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    transport = cluster.registry.get("transport", "inproc")
    connect = transport.connect
    failures: list[str] = []

    async def flaky(self: Transport, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        if len(failures) < 6:
            failures.append(address)
            raise OSError("no route to host")
        connection: Connection = await connect(self, address, receiver, timeout_s)
        return connection

    monkeypatch.setattr(transport, "connect", flaky)
    async with cluster:
        await wait_until(
            lambda: all(node.is_connected(NodeId(n)) for node in cluster.nodes.values() for n in (1, 2, 3)), "all meet"
        )


def test_a_chunk_of_a_snapshot_is_waited_for_as_long_whatever_a_tick_is() -> None:
    for tick_ms in (1, 10, 50, 100):
        config = NodeConfig(name="n1", raft=RaftConfig(tick_ms=tick_ms))
        assert tuning.kernel_config(config, NodeId(1)).chunk_timeout_ticks * tick_ms == 3000


async def test_a_hash_is_of_the_entry_that_it_names_and_commands_go_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million messages stopped the loop for a second."""
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        before = await node.admin({"op": "hash"})
        assert before["applied_index"] == node.group.applied.index
        hashing, told = node.group.sessions.hashing, asyncio.Event()

        def long() -> Iterator[bytes]:
            slices = hashing()
            while not told.is_set():
                yield b""
            yield from slices

        monkeypatch.setattr(node.group.sessions, "hashing", long)
        asked = asyncio.ensure_future(node.admin({"op": "hash"}))
        await asyncio.sleep(0)
        await node.apply(b"+1")
        told.set()
        assert await asked == before
        monkeypatch.undo()
        after = await node.admin({"op": "hash"})
        assert after["applied_index"] > before["applied_index"]
        assert after["state_hash"] != before["state_hash"]


async def test_an_operator_ends_a_session_and_its_client_is_told(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        client, operator = await cluster.client(), await cluster.client()
        (listed,) = (await operator.admin(op="sessions", after=0, limit=1))["sessions"]
        assert (listed["session"], listed["attached"]) == (client.session, True)
        ended = await operator.admin(op="end-session", session=client.session)
        assert ended["session"] == client.session
        goodbye = await client.goodbye()
        assert (goodbye.code, "operator" in goodbye.message) == ("session-expired", True)
        left = (await operator.admin(op="sessions"))["sessions"]
        assert [row["session"] for row in left] == [operator.session]
        await cluster.wait_equal()


@pytest.mark.parametrize("request_", [{"limit": 0}, {"limit": 501}, {"limit": "x"}, {"after": "x"}, {"label": 5}])
async def test_a_page_of_sessions_that_makes_no_sense_is_refused(tmp_path: Path, request_: dict[str, object]) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client = await cluster.client()
        body = msgspec.msgpack.encode({"op": "sessions", **request_})
        status, answer = await client.query(body, Kind.ADMIN)
        assert (status, msgspec.msgpack.decode(answer, type=Fault).code) == (Status.ERROR, "invalid-argument")
