"""The blocking driver, below its requests: it waits for one socket, reads, writes, and dials.

Owns the sockets, the clock, and the order of waiting. What is decided is in `core.connection`. `blocking_driver` has
what a program calls.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from disheap.client.core.broker_session import SessionLost
from disheap.client.core.connection import Connector
from disheap.client.core.handshake import Handshake
from disheap.client.core.route import LastNodes
from disheap.client.core.session import State
from disheap.client.core.url import BrokerUrl, parse
from disheap.client.io import forked
from disheap.client.io.dialing import LAST_NODES, Dial, blocking_dial
from disheap.client.io.socket_channel import SocketChannel
from disheap.client.io.waiting import Wait, wait_ready
from disheap.errors import ConnectionLost, DisheapError, ProtocolError, RequestTimeout
from disheap.protocol import broker

READS_PER_POLL = 16
"""Reads in one poll: a flood from the node must not keep the owner's loop from its other work."""

OnReply = Callable[[Any], None]
Pushed = broker.ConsumerPush | SessionLost


class BlockingConnection(Connector[SocketChannel]):
    """A `Connector` over blocking sockets. `url` may be text. `dial` opens sockets; None for the URL's transport.
    `clock` counts seconds, and `wait` waits for descriptors. See `Connector` for the other keywords."""

    def __init__(
        self,
        url: str | BrokerUrl,
        *,
        dial: Dial | None = None,
        observer: bool = False,
        client: str = "disheap",
        opaque: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = wait_ready,
        generator: random.Random | None = None,
        last_nodes: LastNodes = LAST_NODES,
    ) -> None:
        parsed = parse(url) if isinstance(url, str) else url
        super().__init__(
            parsed, observer=observer, client=client, opaque=opaque, generator=generator, last_nodes=last_nodes
        )
        self.on_socket_change: Callable[[int | None, int | None], None] | None = None
        self.clock = clock
        self._open_socket, self._wait = dial, wait
        self._unread = False  # more may lie in the socket, or in what decrypts it
        self._pushes: deque[Pushed] = deque()
        forked.watch(self)

    @property
    def heartbeat_s(self) -> float:
        """The longest time between two calls of `heartbeat`, in seconds."""
        return self._keepalive.ping_every_s

    @property
    def ready(self) -> bool:
        """Whether a session is attached."""
        return self._session.state is State.READY

    def flush(self) -> None:
        """Write everything that was sent. Without a connection it stays for the next one."""
        if self._channel is not None and self._session.has_output:
            self._write()

    def abort(self) -> None:
        """Close the socket without a GOODBYE. The client is over, and the session ends by its timeout."""
        self._leave(ConnectionLost("this client was left without closing it"))

    def abort_in_child(self) -> None:
        """Close the child's copy of the socket. The session belongs to the parent, which continues with it."""
        self._leave(
            ConnectionLost("this client was opened before a fork, and is the parent process's: open one in the child")
        )

    def _leave(self, error: DisheapError) -> None:
        self._error = error
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.end()
        self._end_attempts()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _read_after_pause(self) -> float:
        """The time. After a silence it reads first, to know whether the session stands: what goes into one that lapsed
        may be lost."""
        self._check_open()
        now = self.clock()
        if self._channel is not None and self._keepalive.unwritten_s(now) > self.heartbeat_s:
            self._step_now()
        return now

    def _wait_room(self, deadline: float) -> None:
        while self._session.room <= 0:
            if self.clock() >= deadline:
                raise RequestTimeout(f"the session's window of {self._session.window} commands stayed full")
            self._step(deadline)

    def _why_late(self, request: str) -> str:
        state = "" if self._channel is not None and self.ready else f" (no session: {self._route.why()})"
        return f"{request} was not answered in time{state}; it may still be carried out"

    def _step(self, deadline: float) -> None:
        """Wait once: for bytes, for an attempt to connect, or until a time of the core."""
        if self._channel is None:
            self._search_once(deadline)
            return
        self.flush()
        now = self.clock()
        wait_s = min(self._keepalive.check_every_s, deadline - now)
        if self._retry_at is not None:
            wait_s = min(wait_s, self._retry_at - now)
        if self._channel is not None and not self._read(max(wait_s, 0.001)):
            self._on_time()

    def _step_now(self) -> None:
        """Do what there is to do, and do not wait."""
        self._drop_if_lapsed(self.clock())
        if self._channel is None:
            self._search_once(0.0)
        self.flush()
        reads = 0
        while self._channel is not None and reads < READS_PER_POLL and self._read(0.0):
            reads += 1
        self._unread = reads == READS_PER_POLL
        self._on_time()

    def _on_time(self) -> None:
        now = self.clock()
        if self._channel is not None and self._retry_at is not None and now >= self._retry_at:
            self._retry()
        self._check(now)
        self.flush()

    # --- the connection -----------------------------------------------------------------------------------------------

    def _search_once(self, deadline: float) -> None:
        """Take what has come on attempts, make those that are due, then wait once, at most until `deadline`."""
        for attempt in list(self._attempts.values()):
            if self._channel is None:
                self._advance(attempt)
        self._search()
        now = self.clock()
        if self._channel is None and deadline > now:
            wanted = [attempt.wanted for attempt in self._attempts.values()]
            self._wait(wanted, min(self._search_wait_s(now), deadline - now))

    def _begin(self, address: str) -> None:
        super()._begin(address)
        if (attempt := self._attempts.get(address)) is not None:
            self._advance(attempt)

    def _advance(self, attempt: SocketChannel) -> None:
        try:
            data = attempt.advance()
        except (ConnectionLost, OSError) as error:
            self._give_up(attempt, str(error))
        else:
            if data is not None:
                self._received(attempt, data)

    def _dial(self, address: str, handshake: Handshake) -> SocketChannel:
        if self._open_socket is None:
            self._open_socket = blocking_dial(self.url)
        return SocketChannel(address, self._open_socket(address), handshake)

    def _write(self) -> None:
        """Write all that is to be sent. While the node takes nothing, what it sends is read: it may be full of what it
        has to send to this client."""
        unsent = memoryview(self._take_output())
        came: list[bytes] = []
        while unsent and self._channel is not None:
            taken = self._send(self._channel, unsent)
            unsent = unsent[taken:]
            if taken:
                self._keepalive.progressed()
            elif self._channel is not None and (data := self._receive(self._channel, 0.0)) is not None:
                came.append(data)
            elif self._channel is not None and self._keepalive.is_silent(self.clock()):
                self._drop("the node has fallen silent, and takes nothing")
        for data in came:
            if self._channel is not None:
                self._take(self._channel, data)

    def _send(self, channel: SocketChannel, data: memoryview) -> int:
        try:
            return channel.write(data, self._keepalive.check_every_s)
        except OSError as error:
            self._drop(str(error))
            return 0

    def _read(self, timeout_s: float) -> bool:
        """Whether anything came. 0.0 does not wait."""
        channel = self._channel
        assert channel is not None
        data = self._receive(channel, timeout_s)
        if data is None:
            return False
        self._take(channel, data)
        return True

    def _receive(self, channel: SocketChannel, timeout_s: float) -> bytes | None:
        try:
            data = channel.read(timeout_s)
        except OSError as error:
            self._drop(str(error))
            return None
        if data is not None:
            self._keepalive.heard()
        return data

    def _take(self, channel: SocketChannel, data: bytes) -> None:
        self._received(channel, data)
        if self._session.state is not State.READY:
            self.flush()  # the handshake goes on

    # --- what the core says -------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.clock()

    def _flush(self) -> None:
        self.flush()

    def _resolve(self, waiter: OnReply | None, result: Any) -> None:
        if waiter is not None:
            waiter(result)

    def _deliver(self, push: broker.ConsumerPush) -> None:
        self._pushes.append(push)

    def _session_lost(self, event: SessionLost) -> None:
        self._pushes.append(event)

    def _channel_changed(self, before: SocketChannel | None, after: SocketChannel | None) -> None:
        if self.on_socket_change is not None:
            self.on_socket_change(
                before.fileno() if before is not None else None, after.fileno() if after is not None else None
            )

    def _ended(self, error: DisheapError) -> None:
        if isinstance(error, ProtocolError):
            raise error
