"""The asyncio driver: one connection at a time over any transport, futures for answers, one timer.

Owns the connection, the search for a leader and everybody who waits. All that is sent in one turn of the loop goes out
in one write, and all acks of one turn in one command. Refuses to know topics: whoever subscribes registers a `Sink`,
which is fed deliveries in order.

Lean by intent: a pipelined command costs a future, a tuple and two appends. Default timeouts are swept by the one
timer; only a timeout of one's own gets a timer of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any, assert_never

import msgspec

from disheap.client.core import faults, pulse
from disheap.client.core.acks import Acks
from disheap.client.core.broker_session import (
    Arrived,
    BrokerEvent,
    BrokerSession,
    Control,
    Foreign,
    Opaque,
    Replied,
    SessionLost,
)
from disheap.client.core.events import Alive, Broken, Closed, Moved, Postponed, Ready
from disheap.client.core.route import LastNodes, Route
from disheap.client.core.session import State
from disheap.client.core.url import BrokerUrl, hello_of
from disheap.client.io.gate import Gate
from disheap.client.io.link import Link
from disheap.client.io.sinks import Sink, Sinks
from disheap.errors import (
    ConnectionLost,
    DisheapError,
    LeaseLost,
    ProtocolError,
    RequestError,
    RequestTimeout,
    SessionExpired,
    WindowExceeded,
    renewed,
)
from disheap.interfaces import Transport
from disheap.protocol import broker
from disheap.protocol.frames import SessionOptions
from disheap.protocol.handshake import Welcome

Pick = Callable[[Any], Any]
"""From a reply to the value of its future; runs while bytes are read, before any push that follows."""
Waiter = tuple["asyncio.Future[Any]", Pick | None, float]
"""(future, pick, deadline in loop time)."""


class Driver:
    """`observer` asks whatever node answers, and has no session. `opaque`: the machine is no broker; its pushes go to
    `on_push`."""

    def __init__(
        self,
        url: BrokerUrl,
        transport: Transport,
        *,
        observer: bool = False,
        client: str = "disheap",
        opaque: bool = False,
        generator: random.Random | None = None,
        last_nodes: LastNodes | None = None,
    ) -> None:
        """`client` is the name that a node is told; `last_nodes` is shared by the clients of one process."""
        self.url = url
        self.loop = asyncio.get_running_loop()
        self.paused = False
        options = None if observer else SessionOptions(url.session_timeout_ms, url.label)
        self.on_push: Callable[[bytes], None] | None = None  # of a machine that is no broker
        self._broker = BrokerSession(options, hello_of(url, client), opaque=opaque)
        self._session = self._broker.session
        self._transport = transport
        self._route = Route(url.addresses, generator or random.Random(), url.connect_timeout_s, last_nodes)
        self._link: Link | None = None
        self._attempts: dict[str, Link] = {}
        self._dialing: dict[asyncio.Task[None], None] = {}
        self._runner: asyncio.Task[None] | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._flushing = False
        self._connected_at = 0.0
        self._unsent = 0  # bytes, at the last look
        self._pulse = pulse.Pulse(url.session_timeout_ms, 0.0)
        self._retry_s = pulse.RETRY_FIRST_S
        self._retrying: asyncio.TimerHandle | None = None
        self._acks = Acks()
        self._sinks = Sinks(self.give_back)
        self._room = Gate(self.loop)
        self._changed = Gate(self.loop)  # for those who wait for READY or the end
        self._searched = Gate(self.loop)  # an attempt has ended
        self._broken: DisheapError | None = None

    # --- the owner's ---

    async def open(self, timeout_s: float | None = None) -> None:
        """Start, and wait until a session stands. Raises `ConnectionLost` with what each address said."""
        self._runner = self.loop.create_task(self._run(), name="disheap client")
        self._tick = self.loop.call_later(self._pulse.look_every_s, self._ticked)
        deadline = self.loop.time() + (self.url.timeout_s if timeout_s is None else timeout_s)
        while self._session.state is not State.READY:
            self._check()
            if not await self._changed.wait_until(deadline):
                raise ConnectionLost(f"no node takes a session: {self._route.why()}")

    async def close(self, end_session: bool = True) -> None:
        """End the session, so that what it holds goes back at once, and the connection. May be called twice."""
        if self._broken is None and end_session and (self._session.state is State.READY or self._broker.owes):
            await self._end_session()
        self._break(ConnectionLost("this client is closed"))
        if self._runner is not None:
            await asyncio.gather(self._runner, *self._dialing, return_exceptions=True)
            self._runner = None  # a task that was cancelled keeps its frames, and they hold this client

    async def _end_session(self) -> None:
        """On another connection, if this one breaks: what was acknowledged is done, and must not come again."""
        deadline = self.loop.time() + pulse.CLOSE_TIMEOUT_S
        while self._session.id and self._broken is None:
            if self._session.state is State.READY:
                self._flush()
                self._session.close()
                self._flush()
            if not await self._changed.wait_until(deadline):
                return

    @property
    def welcome(self) -> Welcome | None:
        """What the last node said of itself."""
        return self._session.welcome

    @property
    def session_id(self) -> int:
        return self._session.id

    @property
    def session_timeout_ms(self) -> int:
        return self._session.timeout_ms

    @property
    def unanswered(self) -> int:
        return self._session.unanswered

    # --- requests ---

    def send(
        self, command: broker.Command, pick: Pick | None = None, *, timeout_s: float | None = None
    ) -> asyncio.Future[Any]:
        """Send now; a future of the `broker.Reply`, or of what `pick` makes of it. Raises `WindowExceeded` when the
        window is full: `await room()` before."""
        waiter = self._waiter(pick, timeout_s)
        self._broker.send(command, waiter)
        if not self._flushing:
            self._schedule_flush()
        return waiter[0]

    async def request(self, command: broker.Command, pick: Pick | None = None, timeout_s: float | None = None) -> Any:
        """`send` when there is room."""
        await self.room(timeout_s)
        return await self.send(command, pick, timeout_s=timeout_s)

    def cast(self, command: broker.Command) -> None:
        """At most once, without an answer."""
        self._check()
        self._broker.cast(command)
        self._schedule_flush()

    async def call(self, body: bytes, *, flags: int = 0, timeout_s: float | None = None) -> bytes:
        """One opaque command for a state machine of one's own."""
        await self.room(timeout_s)
        waiter = self._waiter(None, timeout_s)
        self._broker.call(body, waiter, flags)
        self._schedule_flush()
        try:
            return bytes(await waiter[0])
        finally:
            del waiter  # see `query`

    async def query(self, query: broker.Query, timeout_s: float | None = None) -> Any:
        """A linearizable read."""
        self._check()
        waiter = self._waiter(None, timeout_s, windowed=False)
        self._broker.query(query, waiter)
        self._schedule_flush()
        try:
            return await waiter[0]
        finally:
            del waiter  # the traceback of an error holds this frame, and the future holds the error: a cycle

    async def query_opaque(self, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """A linearizable read of a state machine of one's own."""
        self._check()
        waiter = self._waiter(None, timeout_s, windowed=False)
        self._broker.query_opaque(request, waiter)
        self._schedule_flush()
        answer: bytes = await waiter[0]
        return answer

    async def admin(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """{"op": "status" | "hash" | "transfer", ...} to the node at the other end."""
        self._check()
        waiter = self._waiter(msgspec.msgpack.decode, timeout_s, windowed=False)
        self._broker.admin(request, waiter)
        self._schedule_flush()
        try:
            return dict(await waiter[0])
        finally:
            del waiter  # see `query`

    async def room(self, timeout_s: float | None = None) -> None:
        """Wait until a command fits the session's window. Raises `RequestTimeout`."""
        if self.has_room:
            return
        deadline = self.loop.time() + (self.url.timeout_s if timeout_s is None else timeout_s)
        while not self.has_room:
            self._check()
            if not await self._room.wait(deadline):
                raise RequestTimeout(f"the session's window of {self._session.window} commands stayed full")

    @property
    def has_room(self) -> bool:
        return self._session.room > 0 and not self.paused

    def subscribe(self, command: broker.Subscribe | broker.Pop, sink: Sink) -> asyncio.Future[int]:
        """A future of the consumer's number; `sink` is fed from the reply on."""

        def begin(reply: broker.Subscribed) -> int:
            self._sinks.begin(reply.consumer, sink)
            return reply.consumer

        future = self.send(command, begin)
        self._sinks.expect(future)
        return future

    def unsubscribe(self, number: int, queued: Iterable[broker.Deliver]) -> None:
        """What was not taken, and what still comes, is given back. The node is not told."""
        self._sinks.forget(number)
        self.give_back([(push.id, push.epoch) for push in queued if push.epoch])

    def cancel_and_release(self, number: int, queued: Iterable[broker.Deliver]) -> None:
        """The same, and the node is told; nobody waits for its answer."""
        self.unsubscribe(number, queued)
        if self._broken is None:
            self._broker.send(broker.Cancel(number, give_back=True))
            self._schedule_flush()

    def ack(self, token: broker.Token) -> asyncio.Future[None]:
        """Together with all acks of this turn of the loop. `LeaseLost` when the lease is not ours any more."""
        future: asyncio.Future[None] = self.loop.create_future()
        if self._broken is not None:
            future.set_exception(renewed(self._broken))
        elif token not in self._broker.held.tokens:
            future.set_exception(LeaseLost(f"the lease on message {token[0]} was lost, or given back before"))
        else:
            self._acks.add(token, future)
            self._schedule_flush()
        return future

    def ack_nowait(self, token: broker.Token) -> None:
        """The same for who does not want to know."""
        if token in self._broker.held.tokens:
            self._acks.add(token, None)
            self._schedule_flush()

    def give_back(self, tokens: list[broker.Token]) -> None:
        """Nack leases that nobody waits for."""
        mine = [token for token in tokens if token in self._broker.held.tokens]
        if self._broken is None:
            for start in range(0, len(mine), broker.BATCH_MAX):
                self._broker.send(broker.Nack(mine[start : start + broker.BATCH_MAX]))
            self._schedule_flush()

    # --- sending ---

    def _waiter(self, pick: Pick | None, timeout_s: float | None, windowed: bool = True) -> Waiter:
        self._check()
        if windowed and self._session.room <= 0:
            raise WindowExceeded(f"{self._session.window} commands are unanswered; await room() before the next")
        future: asyncio.Future[Any] = self.loop.create_future()
        if timeout_s is None:
            return future, pick, self.loop.time() + self.url.timeout_s
        waiter = (future, pick, float("inf"))
        handle = self.loop.call_later(timeout_s, self._expire, [waiter])
        future.add_done_callback(lambda _: handle.cancel())
        return waiter

    def _schedule_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._acks:
            self._send_acks()
        link = self._link
        if link is None or link.connection is None or not self._session.has_output:
            return
        now = self.loop.time()
        if self._pulse.doubtful(now):  # the loop stood still: what goes into a session that lapsed may be lost
            self.unlink(link, "nothing was said for too long: attaching again")
            return
        output = self._session.take_output()
        self._pulse.spoke(now, len(output))
        link.connection.write(output)

    def _send_acks(self) -> None:
        for command, acked in self._acks.take():
            future: asyncio.Future[Any] = self.loop.create_future()
            future.add_done_callback(acked)
            self._broker.send(command, (future, None, self.loop.time() + self.url.timeout_s))

    # --- the connection ---

    async def _run(self) -> None:
        while self._broken is None:
            link = await self._find()
            if link is not None:
                await link.gone

    async def _find(self) -> Link | None:
        """Attempts until one of them is the connection; None when the driver is broken."""
        while self._link is None and self._broken is None:
            now = self.loop.time()
            for address in self._route.overdue(now):
                self._give_up(self._attempts[address], f"no answer within {self.url.connect_timeout_s:g} s")
            while (due := self._route.due(now)) is not None:
                self._dial(due)
            await self._searched.wait_until(now + self._route.wait_s(now))
        return self._link

    def _dial(self, address: str) -> None:
        link = self._attempts[address] = Link(self, address, self._broker.greeting())
        link.dialing = self.loop.create_task(self._connect(link), name=f"disheap client to {address}")
        self._dialing[link.dialing] = None
        link.dialing.add_done_callback(self._dialing.pop)

    async def _connect(self, link: Link) -> None:
        try:
            await self._transport.connect(link.address, link, self.url.connect_timeout_s)
        except (ConnectionLost, OSError) as error:
            self.unlink(link, str(error))
        except DisheapError as error:
            if link.address in self.url.addresses:
                self._break(error)
            else:
                self.unlink(link, str(error))  # a node named this address
        except Exception as error:
            self._break(ConnectionLost(f"the transport failed: {type(error).__name__}: {error}"))
            raise
        else:
            if link.gone.done() and link.connection is not None:
                link.connection.abort()
        finally:
            link.dialing = None  # the task holds this frame, and the frame holds the link

    def _give_up(self, link: Link, reason: str, leader: str = "") -> None:
        """An attempt is over."""
        if self._attempts.get(link.address) is not link:
            return
        del self._attempts[link.address]
        link.end()
        now = self.loop.time()
        self._route.failed(link.address, reason, now)
        if leader:
            self._route.moved(leader, now)
        self._searched.open()

    def _reject(self, link: Link, error: ProtocolError) -> None:
        """What answered is no node of ours. The other addresses may be right."""
        self._give_up(link, str(error))
        fatal = self._route.rejected(link.address, error)
        if fatal is not None:
            self._break(fatal)

    def _greeted(self, link: Link, data: bytes) -> None:
        if self._attempts.get(link.address) is not link:
            return
        try:
            answer = link.greeting.receive(data)
        except ProtocolError as error:
            self._reject(link, error)
            return
        if answer is None:
            return
        if answer.is_let_in:
            self._adopt(link)
        else:
            self._give_up(link, answer.reason, answer.leader)

    def _adopt(self, link: Link) -> None:
        """The one door into a connection: the first attempt that is let in."""
        attempts, self._attempts = self._attempts, {}
        for other in attempts.values():
            if other is not link:
                other.end()
        self._route.won()
        self._link, self.paused = link, False
        self._connected_at = self.loop.time()
        self._pulse = pulse.Pulse(self._session.timeout_ms or self.url.session_timeout_ms, self._connected_at)
        self._searched.open()
        self._handle(self._broker.connected(link.greeting))
        self._flush()

    def unlink(self, link: Link, reason: str) -> None:
        """The one door out of a connection."""
        if link is not self._link:
            self._give_up(link, reason)
            return
        self._link, self.paused = None, False
        link.end(self._session.farewell() if self._broken is None else b"")
        self._route.lost(link.address, reason, self.loop.time())
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
        self._handle(self._broker.disconnected())
        self._changed.open()

    def received(self, link: Link, data: bytes) -> None:
        if link is not self._link:
            self._greeted(link, data)
            return
        self._pulse.heard()
        self._handle(self._broker.receive(data))
        if self._room:
            self.wake()
        if self._session.has_output:
            self._schedule_flush()

    def pause(self, link: Link, paused: bool) -> None:
        """Whether too much waits to be sent."""
        if link is self._link:
            self.paused = paused
            if not paused:
                self.wake()

    def wake(self) -> None:
        """Let as many go on as there is room for."""
        self._room.open(0 if self.paused else max(0, self._session.room))

    def _break(self, error: DisheapError) -> None:
        """The end: everybody who waits hears of it."""
        if self._broken is not None:
            return
        self._broken = error = renewed(error)
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._link is not None:
            self.unlink(self._link, str(error))
        for attempt in list(self._attempts.values()):
            self._give_up(attempt, str(error))
        if self._runner is not None:
            self._runner.cancel()
        self._handle(self._broker.abandon(ConnectionLost(f"no answer came: {error}")))
        self._acks.fail(error)
        self._sinks.end(error)
        self._room.open()
        self._changed.open()

    # --- events ---

    def _handle(self, events: list[BrokerEvent]) -> None:
        for event in events:
            if type(event) is Replied or type(event) is Opaque:
                self._resolve(event.waiter, event.result)
            elif type(event) is Arrived:
                self._sinks.arrived(event.push)
            else:
                self._controlled(event)

    def _resolve(self, waiter: Waiter | None, result: Any) -> None:
        if waiter is None:
            return
        future, pick, _ = waiter
        if future.done():
            if type(result) is broker.Subscribed:
                self._broker.send(broker.Cancel(result.consumer, give_back=True))  # nobody waits for it any more
        elif isinstance(result, RequestError):
            future.set_exception(result)
        elif pick is None:
            future.set_result(result)
        else:
            try:
                future.set_result(pick(result))
            except Exception as error:
                future.set_exception(error)

    def _controlled(self, event: Control) -> None:
        match event:
            case Ready():
                assert self._link is not None
                self._route.arrived(self._link.address)
                self._pulse.set_timeout(self._session.timeout_ms or self.url.session_timeout_ms)
                if self._session.welcome is not None:
                    self._route.learned(self._session.welcome.members)
                self._changed.open()
            case Moved():
                if self._link is not None:
                    self.unlink(self._link, event.message or event.code)
                self._route.moved(event.leader, self.loop.time())
            case SessionLost():
                self._sinks.lose(SessionExpired("the session lapsed; what it held was given back"))
            case Postponed():
                if self._retrying is None:
                    self._retrying = self.loop.call_later(self._retry_s, self._retry)
                    self._retry_s = min(self._retry_s * 2, pulse.RETRY_MAX_S)
            case Foreign():
                if self.on_push is not None:
                    self.on_push(event.body)
            case Broken():
                self._break(event.error)
            case Closed():
                if self._link is not None:
                    self.unlink(self._link, "closed")
            case Alive():
                pass  # `received` has noted that something was heard
            case _:
                assert_never(event)

    def _retry(self) -> None:
        self._retrying = None
        self._session.retry()
        self._flush()

    # --- time ---

    def _ticked(self) -> None:
        self._tick = self.loop.call_later(self._pulse.look_every_s, self._ticked)
        now = self.loop.time()
        self._expire([waiter for waiter in self._broker.waiters() if waiter is not None and waiter[2] <= now])
        self._room.expire(now)
        if self._retrying is None:
            self._retry_s = pulse.RETRY_FIRST_S
        if self._link is not None:
            self._watch(self._link, now)

    def _expire(self, waiters: list[Waiter]) -> None:
        """What has not left is taken back: it must not be carried out long after somebody was told that it failed."""
        late = [waiter for waiter in waiters if not waiter[0].done()]
        for future, _, _ in self._broker.withdraw(late):
            future.set_exception(faults.not_sent("the request", self._route.why()))
        for future, _, _ in late:
            if not future.done():
                future.set_exception(RequestTimeout("no answer in time; the request may still be carried out"))

    def _watch(self, link: Link, now: float) -> None:
        if self._session.state is not State.READY and now - self._connected_at > self._pulse.entry_s:
            self.unlink(link, "the node did not let us in in time")
            return
        unsent, self._unsent = self._unsent, link.connection.buffered() if link.connection is not None else 0
        if self._unsent < unsent:
            self._pulse.progressed()
        match self._pulse.look(now):
            case pulse.Verdict.SILENT:
                self.unlink(link, "the node has fallen silent")
            case pulse.Verdict.PING:
                self._session.ping()
                self._flush()
            case pulse.Verdict.FINE:
                pass

    def _check(self) -> None:
        if self._broken is not None:
            raise renewed(self._broken)
