"""A client that speaks frames by hand: for what a good client would never send, and for looking at every byte back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from disheap.interfaces import Connection, Transport
from disheap.protocol import frames, handshake
from disheap.protocol.frames import FrameReader, Kind, SessionOptions
from disheap.protocol.handshake import Goodbye, Hello, Welcome

PATIENCE_S = 10.0


class WireClient:
    """A `Receiver` with a queue of frames. `opened(...)` gives one with a session."""

    def __init__(self) -> None:
        self.connection: Connection
        self.inbox: list[tuple[int, bytes]] = []
        self._arrived = asyncio.Event()
        self.lost = asyncio.Event()
        self.session = 0
        self.secret = b""
        self.seq = 0
        self.welcome: Welcome
        self._reader = FrameReader(1 << 26)

    # --- Receiver ---

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        self.inbox.extend(self._reader.frames(data))
        self._arrived.set()

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()

    # --- verbs ---

    @classmethod
    async def connected(cls, transport: Transport, address: str, cluster_id: str = "", *, group: int = 0) -> WireClient:
        client = cls()
        await transport.connect(address, client, PATIENCE_S)
        client.connection.write(handshake.hello(Kind.HELLO, Hello(cluster_id, group=group, client="test")))
        _, client.welcome = handshake.open_welcome(frames.open_plain(await client.frame(Kind.WELCOME)), Welcome)
        return client

    @classmethod
    async def opened(
        cls, transport: Transport, address: str, timeout_ms: int = 60_000, *, group: int = 0
    ) -> WireClient:
        client = await cls.connected(transport, address, group=group)
        options = msgspec.msgpack.encode(SessionOptions(timeout_ms))
        client.connection.write(frames.envelope(Kind.OPEN, 0, 0, 1, 0, options))
        status, _, _, body = frames.open_reply(await client.frame(Kind.REPLY))
        assert status == 0, body
        client.session, _, client.secret = frames.GRANT.unpack(body)
        return client

    async def attach(self, session: int, secret: bytes, held: bytes = b"") -> tuple[int, bytes]:
        """(status, body)."""
        self.connection.write(frames.envelope(Kind.ATTACH, 0, session, 1, 0, secret + held))
        status, _, _, body = frames.open_reply(await self.frame(Kind.REPLY))
        if status == 0:
            self.session = session
        return status, body

    def send(self, body: bytes, seq: int | None = None, confirmed: int = 0, flags: int = 0) -> int:
        if seq is None:
            seq = self.seq = self.seq + 1
        self.connection.write(frames.envelope(Kind.COMMAND, flags, self.session, seq, confirmed, body))
        return seq

    async def call(self, body: bytes, seq: int | None = None, confirmed: int = 0) -> tuple[int, bytes]:
        """(status, body) of the command's reply; pushes stay in the queue."""
        return (await self.reply_to(self.send(body, seq, confirmed)))[1:]

    async def reply_to(self, seq: int) -> tuple[int, int, bytes]:
        """(log index, status, body)."""
        frame = await self.take(lambda kind, frame: kind == Kind.REPLY and frames.open_reply(frame)[1] == seq)
        status, _, index, body = frames.open_reply(frame)
        return index, status, body

    async def query(self, body: bytes, kind: int = Kind.QUERY) -> tuple[int, bytes]:
        self.connection.write(frames.request(kind, 7, body))
        status, _, _, answer = frames.open_reply(await self.frame(Kind.ANSWER))
        return status, answer

    async def admin(self, **request: Any) -> dict[str, Any]:
        status, body = await self.query(msgspec.msgpack.encode(request), Kind.ADMIN)
        answer = msgspec.msgpack.decode(body)
        assert status == 0, answer
        return dict(answer)

    async def frame(self, expected: int) -> bytes:
        """The next frame of that kind; what came before it stays in the inbox."""
        return await self.take(lambda kind, _: kind == expected)

    async def take(self, wanted: Callable[[int, bytes], bool]) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for place, (kind, frame) in enumerate(self.inbox):
                    if wanted(kind, frame):
                        del self.inbox[place]
                        return frame
                self._arrived.clear()
                await self._arrived.wait()

    async def goodbye(self) -> Goodbye:
        """The GOODBYE that has to come; then the connection ends."""
        frame = await self.frame(Kind.GOODBYE)
        await asyncio.wait_for(self.lost.wait(), PATIENCE_S)
        return handshake.open_goodbye(frames.open_plain(frame))

    def close(self) -> None:
        self.connection.close()


async def wait_until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """For states that no event announces; looks again at every turn of the loop's timers."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {patience_s} s: {what}"
        await asyncio.sleep(0.002)
