"""The proxy: what it lets through arrives whole and in order, and each fault is what it says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from disheap.cli.processes.local_cluster import free_ports
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerGroup, PeerHello
from tests.chaos.network import CLIENT, HOST, Network, read_frame

HELLO = handshake.hello(Kind.PEER_HELLO, PeerHello("c", 2, "n2", 1, "", (PeerGroup(1, "heap", (1, 1)),)))
PATIENCE_S = 10.0


class Listener:
    """What stands behind the proxy: remembers frames, and answers each with its length."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                frame = await read_frame(reader)
                self.got.put_nowait(frame)
                writer.write(frame)
        self.ended.set()
        writer.close()

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.got.get(), PATIENCE_S)


class Place:
    def __init__(self) -> None:
        self.listener = Listener()
        peer, client, behind = free_ports(3)
        self.ports = {"peers": peer, "clients": client}
        self.behind = behind
        self.network = Network({"n1": (peer, behind)}, {"n1": (client, behind)}, random.Random(1))

    async def dial(self, kind: str = "peers") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.ports[kind])
        if kind == "peers":
            writer.write(HELLO)
            assert await self.listener.next() == HELLO
        return reader, writer


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    server = await asyncio.start_server(found.listener.serve, HOST, found.behind)
    async with found.network:
        yield found
    server.close()


def numbered(count: int) -> list[bytes]:
    return [frames.plain(Kind.PEER_MESSAGE, b"%d" % number) for number in range(count)]


async def test_frames_and_answers_pass_whole_and_in_order(place: Place) -> None:
    reader, writer = await place.dial()
    assert await read_frame(reader) == HELLO
    for frame in numbered(50):
        writer.write(frame)
        assert await place.listener.next() == frame
        assert await read_frame(reader) == frame


async def test_a_blocked_road_holds_what_is_said_until_it_is_healed(place: Place) -> None:
    _, writer = await place.dial()
    road = place.network.road("n2", "n1")
    road.block()
    writer.write(b"".join(numbered(3)))
    _, stranger = await place.dial("clients")
    stranger.write(frames.plain(Kind.PING))  # goes another road
    assert await place.listener.next() == frames.plain(Kind.PING)
    road.heal()
    assert [await place.listener.next() for _ in range(3)] == numbered(3)


async def test_a_blocked_way_back_lets_the_other_way_through(place: Place) -> None:
    reader, writer = await place.dial()
    assert await read_frame(reader) == HELLO
    place.network.road("n2", "n1").block(back=True)
    place.network.road("n2", "n1").open.set()
    writer.write(numbered(1)[0])
    assert await place.listener.next() == numbered(1)[0]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read_frame(reader), 0.1)


async def test_a_reset_ends_both_ends(place: Place) -> None:
    reader, _ = await place.dial()
    assert await read_frame(reader) == HELLO
    place.network.road("n2", "n1").reset()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(read_frame(reader), PATIENCE_S)
    await asyncio.wait_for(place.listener.ended.wait(), PATIENCE_S)


async def test_frames_between_nodes_are_lost_doubled_and_overtaken_as_asked(place: Place) -> None:
    _, writer = await place.dial()
    road, sent = place.network.road("n2", "n1"), numbered(400)
    road.loss, road.doubled, road.overtaken = 0.1, 0.1, 0.1
    writer.write(b"".join(sent))
    await writer.drain()
    writer.write(last := frames.plain(Kind.PEER_MESSAGE, b"last"))
    got = []
    while not got or (got[-1] != last and len(got) < len(sent) + road.twice - road.lost):
        got.append(await place.listener.next())
    arrived = [frame for frame in got if frame != last]
    assert road.lost and road.twice and road.swapped
    assert abs(len(arrived) - (len(sent) - road.lost + road.twice)) <= 2  # the last ones may be lost or held
    assert set(arrived) <= set(sent)
    assert arrived != sorted(arrived, key=sent.index)


async def test_what_a_client_says_is_never_garbled(place: Place) -> None:
    _, writer = await place.dial("clients")
    road = place.network.road(CLIENT, "n1")
    road.loss = road.doubled = road.overtaken = 0.5
    writer.write(b"".join(numbered(100)))
    assert [await place.listener.next() for _ in range(100)] == numbered(100)
