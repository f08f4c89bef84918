"""The asyncio driver: connections over any transport, futures for answers, one timer.

Owns the waiting and the futures. `core.connection` makes the decisions. All that is sent in one turn of the loop goes
out in one write, and all acks of one turn in one command. It knows no topics. A subscriber registers a `Sink`, which
gets the deliveries in order.

A pipelined command costs a future, a tuple and two appends. One timer ends the waits with the default timeout. Only
another timeout gets a timer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from disheap.client.core import faults, keepalive
from disheap.client.core.acks import Acks
from disheap.client.core.broker_session import SessionLost
from disheap.client.core.connection import Connector
from disheap.client.core.handshake import Handshake
from disheap.client.core.route import LastNodes
from disheap.client.core.session import State
from disheap.client.core.url import BrokerUrl
from disheap.client.io.link import Link
from disheap.client.io.sinks import Sink, Sinks
from disheap.client.io.waiters import Waiters
from disheap.errors import (
    ConnectionLost,
    DisheapError,
    LeaseLost,
    RequestError,
    RequestTimeout,
    SessionExpired,
    WindowExceeded,
    renewed,
)
from disheap.interfaces import Transport
from disheap.protocol import broker

Pick = Callable[[Any], Any]
"""From a reply to the value of its future. It runs while bytes are read, before any push that follows."""
Waiter = tuple["asyncio.Future[Any]", Pick | None, float]
"""(future, pick, deadline in loop time)."""


class Driver(Connector[Link]):
    """The connection of an asyncio client. See `Connector` for the keywords."""

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
        super().__init__(
            url, observer=observer, client=client, opaque=opaque, generator=generator, last_nodes=last_nodes
        )
        self.loop = asyncio.get_running_loop()
        self.paused = False  # too much waits to be sent
        self._transport = transport
        self._dialing: dict[asyncio.Task[None], None] = {}
        self._runner: asyncio.Task[None] | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._unsent_bytes = 0  # at the last check
        self._acks = Acks()
        self._sinks = Sinks(self.give_back)
        self._for_room = Waiters(self.loop)
        self._for_change = Waiters(self.loop)  # of the session's state, of an attempt, or the end

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def open(self, timeout_s: float | None = None) -> None:
        """Start, and wait until a session is attached. Raises `ConnectionLost` with what each address said."""
        self._runner = self.loop.create_task(self._run(), name="disheap client")
        self._check_timer = self.loop.call_later(self._keepalive.check_every_s, self._on_time)
        deadline = self.loop.time() + (self.url.timeout_s if timeout_s is None else timeout_s)
        while self._session.state is not State.READY:
            self._check_open()
            if not await self._for_change.wait_until(deadline):
                raise self._route.no_session()

    async def close(self, end_session: bool = True) -> None:
        """End the session, so that what it holds goes back at once, and the connection. May be called twice."""
        if not self.is_over and end_session and (self._session.state is State.READY or self._broker.owes):
            await self._end_session()
        self._fail(ConnectionLost("this client is closed"))
        if self._runner is not None:
            await asyncio.gather(self._runner, *self._dialing, return_exceptions=True)
            self._runner = None  # a task that was cancelled keeps its frames, and they hold this client

    async def _end_session(self) -> None:
        """If this connection is lost, on another one: what was acknowledged is done, and must not come again."""
        deadline = self.loop.time() + keepalive.CLOSE_TIMEOUT_S
        while self._session.id and not self.is_over:
            if self._session.state is State.READY:
                self._flush()
                self._session.close()
                self._flush()
            if not await self._for_change.wait_until(deadline):
                return

    # --- requests -----------------------------------------------------------------------------------------------------

    def send(
        self, command: broker.Command, pick: Pick | None = None, *, timeout_s: float | None = None
    ) -> asyncio.Future[Any]:
        """Send now. Returns a future of the `broker.Reply`, or of what `pick` makes of it. Raises `WindowExceeded` when
        the window is full: `await room()` before."""
        waiter = self._waiter(pick, timeout_s)
        self._broker.send(command, waiter)
        if not self._flushing:
            self._schedule_flush()
        return waiter[0]

    async def request(self, command: broker.Command, pick: Pick | None = None, timeout_s: float | None = None) -> Any:
        """Wait for room, send, and wait for the reply."""
        await self.room(timeout_s)
        return await self.send(command, pick, timeout_s=timeout_s)

    def send_transient(self, command: broker.Command) -> None:
        """Send a command that is applied at most once and not answered."""
        self._check_open()
        self._broker.send_transient(command)
        self._schedule_flush()

    async def call_opaque(self, body: bytes, *, flags: int = 0, timeout_s: float | None = None) -> bytes:
        """One command of a state machine that is no broker. Returns its reply."""
        await self.room(timeout_s)
        waiter = self._waiter(None, timeout_s)
        self._broker.call(body, waiter, flags)
        self._schedule_flush()
        try:
            return bytes(await waiter[0])
        finally:
            del waiter  # see `query`

    async def query(self, query: broker.Query, timeout_s: float | None = None) -> Any:
        """A linearizable read. Returns the `broker.Reply`."""
        self._check_open()
        waiter = self._waiter(None, timeout_s, windowed=False)
        self._broker.query(query, waiter)
        self._schedule_flush()
        try:
            return await waiter[0]
        finally:
            del waiter  # the traceback of an error holds this frame, and the future holds the error: a cycle

    async def query_opaque(self, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """A linearizable read of a state machine that is no broker."""
        self._check_open()
        waiter = self._waiter(None, timeout_s, windowed=False)
        self._broker.query_opaque(request, waiter)
        self._schedule_flush()
        answer: bytes = await waiter[0]
        return answer

    async def admin(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """{"op": "status" | "hash" | "transfer", ...} to the node at the other end."""
        self._check_open()
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
            self._check_open()
            if not await self._for_room.wait(deadline):
                raise RequestTimeout(f"the session's window of {self._session.window} commands stayed full")

    @property
    def has_room(self) -> bool:
        """Whether a command may be sent now."""
        return self._session.room > 0 and not self.paused

    def subscribe(self, command: broker.Subscribe | broker.Pop, sink: Sink) -> asyncio.Future[int]:
        """Returns a future of the consumer's number. `sink` gets the deliveries from the reply on."""

        def begin(reply: broker.Subscribed) -> int:
            self._sinks.begin(reply.consumer, sink)
            return reply.consumer

        future = self.send(command, begin)
        self._sinks.expect(future)
        return future

    def unsubscribe(self, number: int, queued: Iterable[broker.Deliver]) -> None:
        """Give back deliveries that were not taken, and those that still come. Does not cancel the consumer."""
        self._sinks.forget(number)
        self.give_back([(push.id, push.epoch) for push in queued if push.epoch])

    def cancel_and_release(self, number: int, queued: Iterable[broker.Deliver]) -> None:
        """Give back what was not taken and what still comes, and cancel the consumer. Does not wait for the reply."""
        self.unsubscribe(number, queued)
        if not self.is_over:
            self._broker.send(broker.Cancel(number, give_back=True, release=True))
            self._schedule_flush()

    def ack(self, token: broker.Token) -> asyncio.Future[None]:
        """Acknowledge, together with all acks of this turn of the loop. The future raises `LeaseLost` if the lease is
        no longer this client's."""
        future: asyncio.Future[None] = self.loop.create_future()
        if self._error is not None:
            future.set_exception(renewed(self._error))
        elif not self.holds(token):
            future.set_exception(LeaseLost(f"the lease on message {token[0]} was lost, or given back before"))
        else:
            self._acks.add(token, future)
            self._schedule_flush()
        return future

    def ack_nowait(self, token: broker.Token) -> None:
        """Acknowledge, and do not wait for the reply."""
        if self.holds(token):
            self._acks.add(token, None)
            self._schedule_flush()

    def give_back(self, tokens: list[broker.Token], error: str | None = None) -> None:
        """Nack leases, and do not wait for the reply. Without an `error` the messages were not begun, and this delivery
        does not count."""
        mine, how = [token for token in tokens if self.holds(token)], (error is None, error or "")
        if not self.is_over:
            for start in range(0, len(mine), broker.TOKENS_MAX):
                self._broker.send(broker.Nack(mine[start : start + broker.TOKENS_MAX], 0, False, *how))
            self._schedule_flush()

    # --- sending ------------------------------------------------------------------------------------------------------

    def _waiter(self, pick: Pick | None, timeout_s: float | None, windowed: bool = True) -> Waiter:
        self._check_open()
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
        link = self._channel
        if link is None or link.connection is None or not self._session.has_output:
            return
        now = self.loop.time()
        self._drop_if_lapsed(now)  # after the loop stood still
        if link is self._channel:
            link.write_now(self._take_output(now))

    def _send_acks(self) -> None:
        for command, acked in self._acks.take():
            future: asyncio.Future[Any] = self.loop.create_future()
            future.add_done_callback(acked)
            self._broker.send(command, (future, None, self.loop.time() + self.url.timeout_s))

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self.is_over:
            self._search()
            if self._channel is not None:
                await self._channel.gone
            else:
                now = self.loop.time()
                await self._for_change.wait_until(now + self._search_wait_s(now))

    def _dial(self, address: str, handshake: Handshake) -> Link:
        link = Link(self, address, handshake)
        link.dialing = self.loop.create_task(self._connect(link), name=f"disheap client to {address}")
        self._dialing[link.dialing] = None
        link.dialing.add_done_callback(self._dialing.pop)
        return link

    async def _connect(self, link: Link) -> None:
        try:
            await self._transport.connect(link.address, link, self.url.connect_timeout_s)
        except (ConnectionLost, OSError) as error:
            self.lose(link, str(error))
        except DisheapError as error:
            if link.address in self.url.addresses:
                self._fail(error)
            else:
                self.lose(link, str(error))  # a node named this address
        except Exception as error:
            self._fail(ConnectionLost(f"the transport failed: {type(error).__name__}: {error}"))
            raise
        else:
            if link.gone.done() and link.connection is not None:
                link.connection.abort()
        finally:
            link.dialing = None  # the task holds this frame, and the frame holds the link

    def received(self, link: Link, data: bytes) -> None:
        """Bytes came on a link."""
        if link is self._channel:
            self._keepalive.heard()
        self._received(link, data)
        if self._for_room:
            self.wake()
        self._schedule_flush()  # behind the callers that were woken: what they send leaves in the same turn

    def lose(self, link: Link, reason: str) -> None:
        """The connection, or the attempt to make one, is over."""
        self._lose(link, reason)

    def pause(self, link: Link, paused: bool) -> None:
        """Too much waits to be sent on a link, or no longer."""
        if link is self._channel:
            self.paused = paused
            if not paused:
                self.wake()

    def wake(self) -> None:
        """Wake as many waiting callers as the session's window has room for."""
        self._for_room.wake(0 if self.paused else max(0, self._session.room))

    # --- what the core says -------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.loop.time()

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

    def _deliver(self, push: broker.ConsumerPush) -> None:
        self._sinks.arrived(push)

    def _session_lost(self, event: SessionLost) -> None:
        self._sinks.lose(SessionExpired("the session lapsed; what it held was given back"))

    def _channel_changed(self, before: Link | None, after: Link | None) -> None:
        self.paused = False

    def _changed(self) -> None:
        self._for_change.wake()
        if self._retry_at is not None and self._retry_timer is None:
            self._retry_timer = self.loop.call_at(self._retry_at, self._on_retry)
        elif self._retry_at is None and self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None

    def _ended(self, error: DisheapError) -> None:
        assert self._error is not None
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        if self._runner is not None:
            self._runner.cancel()
        self._acks.fail(self._error)
        self._sinks.end(self._error)
        self._for_room.wake()
        self._for_change.wake()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _on_retry(self) -> None:
        self._retry_timer = None
        self._retry()
        self._flush()

    def _on_time(self) -> None:
        self._check_timer = self.loop.call_later(self._keepalive.check_every_s, self._on_time)
        now = self.loop.time()
        self._expire([waiter for waiter in self._broker.waiters() if waiter is not None and waiter[2] <= now])
        self._for_room.expire(now)
        self._check(now)

    def _expire(self, waiters: list[Waiter]) -> None:
        """Take unsent commands back. They must not be carried out after their callers got an error."""
        late = [waiter for waiter in waiters if not waiter[0].done()]
        for future, _, _ in self._broker.withdraw(late):
            future.set_exception(faults.not_sent("the request", self._route.why()))
        for future, _, _ in late:
            if not future.done():
                future.set_exception(RequestTimeout("no answer in time; the request may still be carried out"))

    def _check(self, now: float) -> None:
        link = self._channel
        if link is not None and link.connection is not None:
            before, self._unsent_bytes = self._unsent_bytes, link.connection.buffered()
            if self._unsent_bytes < before:
                self._keepalive.progressed()
        super()._check(now)
