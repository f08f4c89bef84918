"""Requests from inside the node's own process, for `Node.apply` and `Node.query`.

Owns the session of this process. Its commands go the same way as a client's, as frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from disheap.errors import ConnectionLost, NotLeader, OutcomeUnknown, RequestTimeout, request_error
from disheap.protocol import frames, handshake
from disheap.protocol.frames import NODE_FRAME_BYTES, Fault, FrameReader, Kind, SessionOptions, Status
from disheap.protocol.handshake import Goodbye, Hello
from disheap.runtime.clients.connection import ClientConnection
from disheap.runtime.clients.server import Server

SESSION_TIMEOUT_MS = 60_000
"""Its connection cannot break while the node leads. After that the session lapses after this time."""
OPEN_SEQ = 1


class LocalSession:
    """The other end of a `ClientConnection`, without a socket: it is the connection's `Connection` itself."""

    remote = "this process"
    certificate_names: tuple[str, ...] | None = None

    def __init__(self, server: Server) -> None:
        self.ended = False  # it is of no use any more
        self._closed = False
        self._reader = FrameReader(NODE_FRAME_BYTES)
        self._session = 0
        self._seq = 0
        self._confirmed = 0
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._opened: asyncio.Future[bytes] = server.loop.create_future()
        self._server = server
        self._port: ClientConnection = server.acceptor.accept_local()
        self._port.connection_made(self)

    async def open(self) -> None:
        """Raises `NotLeader`."""
        content = Hello(group=self._server.number, client="library")
        self._port.data_received(handshake.hello(Kind.HELLO, content, self._server.acceptor.versions))
        options = msgspec.msgpack.encode(SessionOptions(SESSION_TIMEOUT_MS, "library"))
        self._port.data_received(frames.envelope(Kind.OPEN, 0, 0, OPEN_SEQ, 0, options))
        self._session, _, _ = frames.GRANT.unpack(await self._opened)

    async def call(self, command: bytes, deadline: float) -> bytes:
        """The machine's reply. Raises what the machine refused, `OutcomeUnknown` when leadership is lost meanwhile, and
        `TimeoutError` at the deadline, by the loop's clock."""
        self._seq += 1
        seq, loop = self._seq, self._server.loop
        answer: asyncio.Future[bytes] = loop.create_future()
        self._answers[seq] = answer
        self._port.data_received(frames.envelope(Kind.COMMAND, 0, self._session, seq, self._confirmed, command))
        timer = loop.call_at(deadline, _expire, answer)  # `asyncio.timeout` would take a tenth of the whole call
        try:
            return await answer
        finally:
            timer.cancel()
            del answer  # an error's traceback holds this frame, and the future holds the error: a cycle

    # --- Connection --------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Read the frames that the node sends to this session."""
        for kind, frame in self._reader.frames(bytes(data)):
            if kind == Kind.REPLY:
                self._reply(*frames.open_reply(frame))
            elif kind == Kind.GOODBYE:
                self._goodbye(handshake.open_goodbye(frames.open_plain(frame)))

    def buffered(self) -> int:
        """Returns 0: frames are handled in `write`."""
        return 0

    def pause_reading(self) -> None:
        """Nothing to pause: `call` waits for each reply."""

    def resume_reading(self) -> None:
        """Nothing to resume."""

    def close(self) -> None:
        """Close the connection. The server is told in the loop's next turn. May be called twice."""
        self.ended = True
        if not self._closed:
            self._closed = True
            self._server.loop.call_soon(self._port.connection_lost, None)

    def abort(self) -> None:
        """Like `close`: there are no unsent bytes to drop."""
        self.close()

    # --- what comes back ---------------------------------------------------------------------------------------------

    def _reply(self, status: int, seq: int, _: int, body: bytes) -> None:
        if not self._opened.done():
            _settle(self._opened, status, body)
            return
        answer = self._answers.pop(seq, None)
        while self._confirmed < self._seq and self._confirmed + 1 not in self._answers:
            self._confirmed += 1
        if answer is not None and not answer.done():
            _settle(answer, status, body)

    def _goodbye(self, goodbye: Goodbye) -> None:
        self.ended = True
        lost = NotLeader(goodbye.leader) if goodbye.code == NotLeader.code else ConnectionLost(goodbye.message)
        if not self._opened.done():
            self._opened.set_exception(lost)
        for answer in self._answers.values():
            if not answer.done():
                unknown = OutcomeUnknown(f"{lost}; the command may or may not have been carried out")
                answer.set_exception(unknown)
        self._answers.clear()


def _expire(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _settle(answer: asyncio.Future[bytes], status: int, body: bytes) -> None:
    if status == Status.OK:
        answer.set_result(body)
    else:
        fault = msgspec.msgpack.decode(body, type=Fault)
        answer.set_exception(request_error(fault.code, fault.message))


class LocalRequests:
    """One session for all callers in this process. A new one is opened when it has ended."""

    def __init__(self, server: Server, leader_address: Callable[[], str]) -> None:
        self.server = server
        self._leader_address = leader_address
        self._session: LocalSession | None = None
        self._opening = asyncio.Lock()

    async def apply(self, command: bytes, timeout_s: float) -> bytes:
        """See `Node.apply`."""
        deadline = self.server.loop.time() + timeout_s
        session = self._session
        try:
            if session is None or session.ended:
                async with asyncio.timeout_at(deadline):
                    session = await self.session()
            return await session.call(command, deadline)
        except TimeoutError:
            raise RequestTimeout(
                f"no reply within {timeout_s} s, so the outcome is unknown: the command may have been carried out, or "
                "may be later. Look before you repeat it"
            ) from None

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """See `Node.query`."""
        ready: asyncio.Future[bool] = self.server.loop.create_future()
        self.server.group.read(lambda ok: None if ready.done() else ready.set_result(ok))
        try:
            async with asyncio.timeout(timeout_s):
                ok = await ready
        except TimeoutError:
            raise RequestTimeout(f"no quorum answered within {timeout_s} s") from None
        if not ok:
            raise NotLeader(self._leader_address())
        group = self.server.group
        return group.sessions.machine.query(group.now_ms(), 0, request)

    async def session(self) -> LocalSession:
        """Raises `NotLeader`."""
        async with self._opening:
            if self._session is None or self._session.ended:
                self._session = await self._open()
            return self._session

    def forget(self) -> None:
        """Forget the session: the replica has another group now."""
        self._session = None

    async def _open(self) -> LocalSession:
        if not self.server.leads:
            raise NotLeader(self._leader_address())
        session = LocalSession(self.server)
        try:
            await session.open()
        except BaseException:
            session.close()
            raise
        return session
