"""What is held for all clients' connections together: unfinished frames, answers and pushes that nobody reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits
from disheap.protocol import broker, frames
from disheap.protocol.frames import Fault, Kind, Status
from disheap.runtime.clients.buffers import STALLED_S, UNCOUNTED_BYTES, Buffers
from disheap.runtime.clients.server import Server
from disheap.testing.inspected import InspectedMember as Node

KIB = 1 << 10
MIB = 1 << 20


class Connection:
    def __init__(self, unsent: int = 0, took_at: float = 0.0) -> None:
        self.unsent_bytes = unsent
        self.took_at = took_at
        self.dropped: list[str] = []

    def drop_unfinished_frame(self, limit_bytes: int) -> None:
        self.dropped.append("frame")

    def drop_unsent(self, limit_bytes: int) -> None:
        self.dropped.append("output")


def test_the_oldest_unfinished_frame_gives_way() -> None:
    buffers, connections = Buffers(MIB, MIB), [Connection() for _ in range(5)]
    for one in connections[:4]:
        buffers.hold_input(one, 256 * KIB)
    assert buffers.input_bytes == MIB and not any(one.dropped for one in connections)
    buffers.hold_input(connections[0], 0)
    buffers.hold_input(connections[0], 200 * KIB)
    buffers.hold_input(connections[4], 100 * KIB)
    assert [one.dropped for one in connections] == [[], ["frame"], [], [], []], "the first finished its frame in time"
    assert buffers.input_bytes == (200 + 256 + 256 + 100) * KIB


def test_a_frame_that_grows_keeps_its_age_and_one_that_follows_begins_anew() -> None:
    buffers, first, second, third = Buffers(MIB, MIB), Connection(), Connection(), Connection()
    buffers.hold_input(first, 300 * KIB)
    buffers.hold_input(second, 300 * KIB)
    buffers.hold_input(first, 400 * KIB)
    buffers.hold_input(first, 100 * KIB)
    buffers.hold_input(third, 700 * KIB)
    assert (first.dropped, second.dropped, third.dropped) == ([], ["frame"], [])


def test_small_beginnings_are_not_counted() -> None:
    buffers, one = Buffers(MIB, MIB), Connection()
    buffers.hold_input(one, UNCOUNTED_BYTES)
    assert buffers.input_bytes == 0


def test_who_takes_nothing_gives_way_before_the_largest() -> None:
    now = 10.0
    stalled, small, large = Connection(300, 0.0), Connection(200, now), Connection(900, now - STALLED_S / 2)
    buffers = Buffers(MIB, 1200)
    buffers.check_output([stalled, small, large], now)
    assert [one.dropped for one in (stalled, small, large)] == [["output"], [], []]
    assert buffers.output_bytes == 1100 and buffers.has_room_for_answers()
    buffers.check_output([small, Connection(1100, now)], now)
    assert small.dropped == [] and buffers.output_bytes == 200


# --- through a node --------------------------------------------------------------------------------------------------

FRAME_BYTES = 256 * KIB
LIMITS = Limits(
    frame_bytes=FRAME_BYTES,
    input_bytes=8 * FRAME_BYTES,
    write_buffer_bytes=4 * MIB,
    output_bytes=8 * MIB,
    queries_per_connection=20,
)


def server_of(node: Node) -> Server:
    return node.clients


async def connected(cluster: Cluster) -> WireClient:
    return await WireClient.connected(cluster.transport, "n1:8400")


async def test_unfinished_frames_of_all_connections_take_no_more_than_the_limit(
    tmp_path: Path,
) -> None:
    async with Cluster(tmp_path, nodes=1, limits=LIMITS) as cluster:
        server, client = server_of(cluster.nodes["n1"]), await cluster.client()
        beginning = frames.request(Kind.QUERY, 1, b"x" * (FRAME_BYTES - 100))[:-1]
        many = [await connected(cluster) for _ in range(30)]
        for one in many:
            one.connection.write(beginning)
        await wait_until(lambda: sum(one.lost.is_set() for one in many) == 22, "all but eight were closed")
        assert 7 * FRAME_BYTES < server.acceptor.buffers.input_bytes <= 8 * FRAME_BYTES
        goodbye = await many[0].goodbye()
        assert goodbye.code == "overloaded" and "limits.input_bytes" in goodbye.message
        assert await client.call(b"+1" + b" " * (FRAME_BYTES - 200)) == (Status.OK, b"1")
        many[-1].connection.write(b"x")
        assert (await many[-1].frame(Kind.ANSWER))[4] == Kind.ANSWER, "a frame that is finished is answered"
        assert server.acceptor.buffers.input_bytes < 7 * FRAME_BYTES, "and counts no more"
        for one in many:
            one.close()
        await wait_until(lambda: server.acceptor.buffers.input_bytes == 0, "nothing is held for those that are gone")


async def peeking(cluster: Cluster) -> WireClient:
    """With a megabyte to look at."""
    client = await cluster.client()
    await client.call(broker.encode(broker.CreateTopic("jobs")))
    for _ in range(5):
        await client.call(broker.encode(broker.Enqueue("jobs", broker.NewMessage(b"x" * 200_000))))
    return client


PEEK = broker.encode(broker.Peek("jobs", 5))


async def test_answers_are_made_only_when_they_are_read_and_come_in_order(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, limits=LIMITS, machine="heap") as cluster:
        server, client = server_of(cluster.nodes["n1"]), await peeking(cluster)
        idle = await connected(cluster)
        idle.connection.pause_reading()
        for number in range(20):
            idle.connection.write(frames.request(Kind.QUERY, number, PEEK))
        await wait_until(lambda: server._queries.under_way >= 15, "the questions wait")
        held = next(one for one in server._connections if one.queries)
        assert held._connection.buffered() <= 3 * MIB
        assert (await client.query(PEEK))[0] == Status.OK, "the others are answered"
        idle.connection.resume_reading()
        answers = [frames.open_reply(await idle.frame(Kind.ANSWER))[:2] for _ in range(20)]
        assert answers == [(Status.OK, number) for number in range(20)]
        assert server._queries.under_way == 0


async def test_questions_beyond_what_one_connection_may_have_under_way_are_refused(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, limits=LIMITS, machine="heap") as cluster:
        server, client = server_of(cluster.nodes["n1"]), await peeking(cluster)
        idle = await connected(cluster)
        idle.connection.write(b"".join(frames.request(Kind.QUERY, number, PEEK) for number in range(25)))
        answers = [frames.open_reply(await idle.frame(Kind.ANSWER)) for _ in range(25)]
        refused = {
            number: msgspec.msgpack.decode(body, type=Fault).code for status, number, _, body in answers if status
        }
        assert refused == dict.fromkeys(range(20, 25), "overloaded")
        assert (await client.query(PEEK))[0] == Status.OK
        assert server._queries.under_way == 0


async def test_questions_of_a_connection_that_is_gone_leave_their_places(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, limits=LIMITS, machine="heap") as cluster:
        server = server_of(cluster.nodes["n1"])
        await peeking(cluster)
        idle = await connected(cluster)
        idle.connection.pause_reading()
        for number in range(20):
            idle.connection.write(frames.request(Kind.QUERY, number, PEEK))
        await wait_until(lambda: server._queries.under_way >= 15, "the questions wait")
        idle.connection.abort()
        await wait_until(lambda: server._queries.under_way == 0, "they are gone with it")


async def test_over_all_connections_no_more_waits_than_the_limit(tmp_path: Path) -> None:
    """Each connection is within its own bound; and each takes its deliveries without an ack, so they all come."""
    async with Cluster(tmp_path, nodes=1, limits=LIMITS, machine="heap") as cluster:
        server, client = server_of(cluster.nodes["n1"]), await cluster.client()
        await client.call(broker.encode(broker.CreateTopic("jobs")))
        idle = [await cluster.client() for _ in range(12)]
        for one in idle:
            await one.call(broker.encode(broker.Subscribe("jobs", 100, no_ack=True)))
            one.connection.pause_reading()
        for _ in range(120):
            await client.call(broker.encode(broker.Enqueue("jobs", broker.NewMessage(b"x" * 200_000))))
            await asyncio.sleep(0)
        await wait_until(lambda: any(one.lost.is_set() for one in idle), "some are closed")
        await wait_until(
            lambda: server.acceptor.buffers.output_bytes <= LIMITS.output_bytes, "what waits is within the limit"
        )
        assert not all(one.lost.is_set() for one in idle)
        assert (await client.call(broker.encode(broker.Purge("jobs"))))[0] == Status.OK


async def test_a_question_whose_connection_ends_before_the_read_leaves_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader asks a majority whether it still leads. Until then the question waits at the group."""
    async with Cluster(tmp_path, nodes=1, limits=LIMITS, machine="heap") as cluster:
        server, waiting = server_of(cluster.nodes["n1"]), []
        monkeypatch.setattr(server.group, "read", waiting.append)
        asking = await connected(cluster)
        (held,) = server._connections
        asking.connection.write(frames.request(Kind.QUERY, 1, PEEK))
        await wait_until(lambda: bool(waiting), "the question waits")
        asking.connection.abort()
        await wait_until(lambda: held.closed, "its connection is gone")
        waiting.pop()(True)
        assert server._queries.under_way == 0
        assert held not in server.acceptor._slow
