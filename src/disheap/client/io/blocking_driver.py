"""The blocking driver: one socket, no thread, for processes that fork and for loops that own their descriptors.

Owns what a program calls. The waiting is in `blocking_connection`. Everything happens inside a call. `call` and
`query` block until the answer is there. `poll(0)` never waits, and makes progress with a search as well; an event hub
calls it when the descriptor is readable. `heartbeat` is for the hub's timer. It knows no topics: pushes are queued, in
order.

While a connection is looked for, there is no descriptor to wait for: `wants_poll_in` says when to call `heartbeat` or
`poll`. Callbacks (`on_reply`, `on_socket_change`) may `send`, but must neither `call` nor `poll`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from disheap.client.core import faults, keepalive
from disheap.client.core.session import State
from disheap.client.io.blocking_connection import BlockingConnection, OnReply, Pushed
from disheap.errors import ConnectionLost, RequestError, RequestTimeout, WindowExceeded
from disheap.protocol import broker

FLUSH_BYTES = 64 << 10
"""Pipelined commands are handed to the socket when so many bytes wait, or at the next read."""
READ_FIRST_AFTER_S = 0.1
"""The pause before a transient command, after which a look at the socket comes first. In a stream of them it costs
nothing, and what is lost is what was sent within this time of a node's death."""
CHECK_ATTEMPTS_S = 0.02
"""How often an owner's loop looks after attempts to connect: their descriptors are not its own."""


class BlockingClient(BlockingConnection):
    """The connection of a blocking client. It is cheap to build: the first call connects. It belongs to the process
    that built it: in the child of a fork every call raises `ConnectionLost`, and `close` does nothing. See
    `BlockingConnection` for the keywords."""

    # --- requests -----------------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float | None = None) -> None:
        """Wait until a session is attached; then send what waited for it. Raises `ConnectionLost` with what each
        address said."""
        deadline = self.deadline(timeout_s)
        while self._session.state is not State.READY:
            if self.clock() >= deadline:
                raise self._route.no_session()
            self._step(deadline)
        self.flush()

    def request(
        self,
        command: broker.Command,
        *,
        flags: int = 0,
        timeout_s: float | None = None,
        on_reply: OnReply | None = None,
    ) -> Any:
        """Send a command and wait for its `broker.Reply`. Raises the `RequestError` of a refusal, `NotSent` if it was
        taken back, or `RequestTimeout` while it is still under way. `on_reply` gets the reply before any push that
        follows."""
        deadline = self.deadline(timeout_s)
        self._wait_room(deadline)
        box: list[Any] = []

        def replied(reply: broker.Reply | RequestError) -> None:
            box.append(reply)
            if on_reply is not None:
                on_reply(reply)

        waiter = box.append if on_reply is None else replied
        self._broker.send(command, waiter, flags)
        return self._take_answer(box, deadline, type(command).__name__, waiter)

    def call_opaque(self, body: bytes, *, flags: int = 0, timeout_s: float | None = None) -> bytes:
        """One command of a state machine that is no broker. Returns its reply. Raises as `request`."""
        deadline = self.deadline(timeout_s)
        self._wait_room(deadline)
        box: list[Any] = []
        waiter = box.append
        self._broker.call(body, waiter, flags)
        answer: bytes = self._take_answer(box, deadline, "the command", waiter)
        return answer

    def send(
        self, command: broker.Command, *, flags: int = 0, on_reply: OnReply | None = None, wait: bool = True
    ) -> None:
        """Send a command and do not wait. `on_reply` gets the `broker.Reply` or the `RequestError`. When the session's
        window is full, it reads replies first; with `wait` False it raises `WindowExceeded` instead."""
        self._read_after_pause()
        if self._session.room <= 0:
            if not wait:
                raise WindowExceeded(f"{self._session.window} commands are unanswered; poll for replies first")
            self._wait_room(self.deadline(None))
        self._broker.send(command, on_reply, flags)
        if self._session.output_bytes > FLUSH_BYTES:
            self.flush()

    def send_transient(self, command: broker.Command) -> None:
        """Send a command that is applied at most once and not answered. Never waits. After a pause it reads first: what
        is written to a connection that the other end has closed is lost, and no error says so."""
        if self._keepalive.unwritten_s(self._read_after_pause()) > READ_FIRST_AFTER_S and self._channel is not None:
            self._step_now()
        self._broker.send_transient(command)
        if self._session.output_bytes > FLUSH_BYTES:
            self.flush()

    def query(self, query: broker.Query, timeout_s: float | None = None) -> Any:
        """A linearizable read. Returns the `broker.Reply`."""
        deadline = self.deadline(timeout_s)
        box: list[Any] = []
        self._broker.query(query, box.append)
        return self._take_answer(box, deadline, type(query).__name__)

    def query_opaque(self, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """A linearizable read of a state machine that is no broker."""
        deadline = self.deadline(timeout_s)
        box: list[Any] = []
        self._broker.query_opaque(request, box.append)
        answer: bytes = self.wait_answer(box, deadline, "the query")
        return answer

    def admin(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """{"op": "status" | "hash" | "transfer", ...} to the node at the other end."""
        deadline = self.deadline(timeout_s)
        box: list[Any] = []
        self._broker.admin(request, box.append)
        answer: dict[str, Any] = msgspec.msgpack.decode(self._take_answer(box, deadline, str(request["op"])))
        return answer

    def room(self, timeout_s: float | None = None) -> None:
        """Wait until a command fits the session's window. Raises `RequestTimeout`."""
        self._wait_room(self.deadline(timeout_s))

    def wait_answers(self, timeout_s: float | None = None) -> None:
        """Wait until every command so far is answered. Raises `RequestTimeout`."""
        deadline = self.deadline(timeout_s)
        while self._session.under_way:
            self._check_open()
            if self.clock() >= deadline:
                raise RequestTimeout(self._why_late("a command before"))
            self._step(deadline)

    def give_back(self, tokens: Iterable[broker.Token], error: str | None = None) -> None:
        """Nack leases, and do not wait for the reply. Without an `error` the messages were not begun, and this delivery
        does not count."""
        mine, how = [token for token in tokens if self.holds(token)], (error is None, error or "")
        for start in range(0, len(mine), broker.TOKENS_MAX):
            self.send(broker.Nack(mine[start : start + broker.TOKENS_MAX], 0, False, *how))
        self.flush()

    def deadline(self, timeout_s: float | None) -> float:
        """`timeout_s` from now (None: the URL's), by `clock`."""
        return self._read_after_pause() + (self.url.timeout_s if timeout_s is None else timeout_s)

    def wait_answer(self, box: list[Any], deadline: float, request: str, waiter: Any = None) -> Any:
        """Wait for what `on_reply` puts into `box`, and return it. Raises it if it is an error. At the deadline the
        command of `waiter` is taken back if it has not left (`NotSent`). Otherwise raises `RequestTimeout`, which names
        the request."""
        while not box:
            self._check_open()
            if self.clock() >= deadline:
                if waiter is not None and self._broker.withdraw([waiter]):
                    raise faults.not_sent(request, self._route.why())
                raise RequestTimeout(self._why_late(request))
            self._step(deadline)
        result = box[0]
        try:
            if isinstance(result, RequestError):
                raise result
            return result
        finally:
            del result  # the traceback of an error holds this frame

    def _take_answer(self, box: list[Any], deadline: float, request: str, waiter: Any = None) -> Any:
        """As `wait_answer`, and empties the box: the traceback of an error holds our caller's frame, and that frame
        holds the box. With the error in it, that would be a cycle."""
        try:
            return self.wait_answer(box, deadline, request, waiter)
        finally:
            box.clear()

    # --- for an event hub ---------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float | None = 0.0) -> list[Pushed]:
        """Read what is there, handle replies, and look for a connection if there is none. Returns the pushes so far, in
        order. Waits up to `timeout_s` for the first one; None for without end. Raises a `ProtocolError` only."""
        self._check_open()
        deadline = float("inf") if timeout_s is None else self.clock() + timeout_s
        if self._pushes or not timeout_s:
            self._step_now()
        while not self._pushes and self.clock() < deadline:
            self._step(deadline)
        return self.take_pushes()

    def poll_once(self, timeout_s: float) -> None:
        """Read what is there, as `poll` does, and return when something came or the time is over. For a program that
        waits for `on_value`. Pushes to consumers stay queued."""
        self._check_open()
        self._step_now()
        if timeout_s > 0:
            self._step(self.clock() + timeout_s)

    def take_pushes(self) -> list[Pushed]:
        """Return the pushes that were read before, in order. Does not read."""
        pushes = list(self._pushes)
        self._pushes.clear()
        return pushes

    def pending_pushes(self) -> bool:
        """Whether `take_pushes` has something."""
        return bool(self._pushes)

    def fileno(self) -> int:
        """The descriptor of the connection; -1 while there is none."""
        return self._channel.fileno() if self._channel is not None else -1

    def check_after_pause(self) -> None:
        """After a pause, find out whether the connection and the session still stand. Never waits."""
        self._read_after_pause()

    def heartbeat(self) -> None:
        """Read, ping when it is time, and give up a silent node. Call it every `heartbeat_s` or more often."""
        self._check_open()
        self._step_now()

    @property
    def wants_poll_in(self) -> float:
        """Seconds until `heartbeat` has work that no descriptor will announce."""
        if self._unread:
            return 0.0
        now = self.clock()
        if self._channel is None:
            return min(self._search_wait_s(now), CHECK_ATTEMPTS_S if self._attempts else keepalive.PING_EVERY_S)
        check_s = self._keepalive.check_in_s(now)
        return check_s if self._retry_at is None else max(0.0, min(check_s, self._retry_at - now))

    @property
    def address(self) -> str:
        """The address of the node at the other end, or ""."""
        return self._channel.address if self._channel is not None else ""

    @property
    def holds_anything(self) -> bool:
        """Whether something would be lost with the session: consumers, leases, exclusive topics."""
        return not self._broker.held.is_empty()

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, end_session: bool = True) -> None:
        """End the session, so that what it holds goes back at once, and the connection. May be called twice."""
        if self.is_over:
            return
        if end_session and (self._session.state is State.READY or self._broker.owes):
            self._end_session()
        self._fail(ConnectionLost("this client is closed"))

    def suspend(self) -> None:
        """Leave the connection and keep the session, with what is under way in it. The next call finds another
        connection. Until then nothing keeps the session alive."""
        self._drop("the session was suspended")
        for attempt in list(self._attempts.values()):
            self._give_up(attempt, "no answer yet")

    def _end_session(self) -> None:
        """If this connection is lost, on another one: what was acknowledged is done, and must not come again."""
        deadline = self.clock() + keepalive.CLOSE_TIMEOUT_S
        while self._session.id and self.clock() < deadline:
            if self._session.state is State.READY:
                self._session.close()
            self._step(deadline)
