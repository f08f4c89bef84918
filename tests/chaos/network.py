"""The fault proxy: every byte between nodes, and between clients and nodes, goes through here.

A *road* leads from one party to one node; all that is said on connections dialled from the one to the other goes along
it. Nodes send to each other only on connections that they dialled, so a road that is blocked one way is a one-way cut.
The members' list names the proxies, the same on every node; who dials is read from the first frame.

On roads between nodes whole frames may be lost, doubled or overtaken, for consensus must stand that. What goes between
a client and a node is a stream, and only late, or cut off.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerHello

HOST = "127.0.0.1"
CLIENT = "client"
QUEUED = 512
"""Pieces under way on one connection; beyond it the sender is not read from, as with a full TCP window."""
READ_BYTES = 64 << 10
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST and drops what is queued


@dataclass
class Road:
    """How one party reaches one node. Everything may be changed while traffic flows."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0  # the share of whole frames that never arrive
    doubled: float = 0.0
    overtaken: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    open_back: asyncio.Event = field(default_factory=asyncio.Event)
    connections: dict[_Relay, None] = field(default_factory=dict)
    lost: int = 0
    twice: int = 0
    swapped: int = 0

    def __post_init__(self) -> None:
        self.heal()

    def block(self, back: bool = False) -> None:
        """A black hole: nothing is refused, nothing arrives. With `back` no answer does either."""
        self.open.clear()
        if back:
            self.open_back.clear()

    def reset(self) -> None:
        """Every connection ends with RST."""
        for relay in list(self.connections):
            relay.reset()

    def heal(self) -> None:
        self.delay_s = self.jitter_s = self.loss = self.doubled = self.overtaken = 0.0
        self.open.set()
        self.open_back.set()


class Network:
    """`async with Network(...)`. `peers` and `clients`: node -> (port of its proxy, port that it listens on)."""

    def __init__(
        self, peers: dict[str, tuple[int, int]], clients: dict[str, tuple[int, int]], generator: random.Random
    ) -> None:
        self._ports = {"peers": peers, "clients": clients}
        self.names = list(clients)
        self._random = generator
        self._roads: dict[tuple[str, str], Road] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Network:
        for kind, ports in self._ports.items():
            for target, (port, behind) in ports.items():
                self._servers.append(await self._listen(target, port, behind, kind == "peers"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def road(self, source: str, target: str) -> Road:
        return self._roads.setdefault((source, target), Road())

    def roads(self, sources: Iterable[str], targets: Iterable[str]) -> list[Road]:
        found, ends = list(sources), list(targets)
        return [self.road(source, target) for source in found for target in ends if source != target]

    def around(self, name: str) -> list[Road]:
        """All roads between a node and its peers, in both directions."""
        others = [other for other in self.names if other != name]
        return self.roads([name], others) + self.roads(others, [name])

    def between_nodes(self) -> list[Road]:
        return self.roads(self.names, self.names)

    def heal(self) -> None:
        for road in self._roads.values():
            road.heal()

    async def _listen(self, target: str, port: int, behind: int, is_peer: bool) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
                await self._relay(reader, writer, target, behind, is_peer)
            _abort(writer)

        return await asyncio.start_server(accept, HOST, port)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, behind: int, is_peer: bool
    ) -> None:
        first = await read_frame(reader) if is_peer else b""
        source = self._dialler(first) if is_peer else CLIENT
        road = self.road(source, target)
        await road.open.wait()  # a connection that is begun meanwhile hangs, as in a black hole
        back_reader, back_writer = await asyncio.open_connection(HOST, behind)
        relay = _Relay(road, self._random, is_peer, (reader, writer), (back_reader, back_writer))
        road.connections[relay] = None
        try:
            await relay.run(first)
        finally:
            road.connections.pop(relay, None)
            _abort(back_writer)

    def _dialler(self, first: bytes) -> str:
        """The name in a node's hello; a stranger's connection goes the client's road."""
        if first[4] != Kind.PEER_HELLO:
            return CLIENT
        return handshake.open_hello(frames.open_plain(first), PeerHello)[1].name


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Relay:
    """One connection. There and back are each a reader that stamps what comes and a writer that waits for its time."""

    def __init__(self, road: Road, generator: random.Random, is_peer: bool, near: Ends, far: Ends) -> None:
        self._road, self._random, self._is_peer = road, generator, is_peer
        self._near, self._far = near, far
        self._jobs: list[asyncio.Task[None]] = []

    async def run(self, first: bytes) -> None:
        """Runs until either side is done."""
        there: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED)
        back: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED)
        if first:
            there.put_nowait((0.0, first))
        road = self._road
        pieces = split_frames(self._near[0]) if self._is_peer else chunks(self._near[0])
        jobs = [
            self._take(pieces, there),
            self._pass(there, self._far[1], road.open, self._is_peer),
            self._take(chunks(self._far[0]), back),
            self._pass(back, self._near[1], road.open_back, False),
        ]
        self._jobs = [asyncio.ensure_future(job) for job in jobs]
        try:
            await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in self._jobs:
                job.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)

    def reset(self) -> None:
        for job in self._jobs:
            job.cancel()

    async def _take(self, pieces: AsyncIterator[bytes], queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        async for piece in pieces:
            road = self._road
            late_s = road.delay_s + road.jitter_s * self._random.random()
            await queue.put((loop.time() + late_s, piece))
        while not queue.empty():  # what was said before the end arrives before the end
            await asyncio.sleep(0.01)

    async def _pass(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        is_open: asyncio.Event,
        garbles: bool,
    ) -> None:
        loop, behind = asyncio.get_running_loop(), b""
        greeted = False
        while True:
            due, piece = await queue.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await is_open.wait()
            if garbles and greeted:
                piece, behind = self._garbled(piece, behind)
            greeted = True
            writer.write(piece)
            await writer.drain()

    def _garbled(self, frame: bytes, behind: bytes) -> tuple[bytes, bytes]:
        """What to send now, and the frame that waits to be overtaken by the next."""
        road, draw = self._road, self._random.random
        if road.loss and draw() < road.loss:
            road.lost += 1
            frame = b""
        elif road.doubled and draw() < road.doubled:
            road.twice += 1
            frame = frame + frame
        elif road.overtaken and not behind and draw() < road.overtaken:
            road.swapped += 1
            return b"", frame
        return frame + behind, b""


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(READ_BYTES):
        yield data


async def split_frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    with suppress(asyncio.IncompleteReadError):
        while True:
            yield await read_frame(reader)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(frames.LENGTH_BYTES)
    return head + await reader.readexactly(int.from_bytes(head, "little"))


def _abort(writer: asyncio.StreamWriter) -> None:
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
