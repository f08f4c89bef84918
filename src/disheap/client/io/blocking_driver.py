"""The blocking driver: one socket, no thread, for processes that fork and for loops that own their descriptors.

Owns the socket, the search for a leader and the waiting. Everything happens inside a call: `call` and `query` block
until answered; `poll(0)` never waits, makes progress with a reconnection too, and is what an event hub calls when the
descriptor is readable; `heartbeat` is for the hub's timer. Refuses to know what pushes are for: they are queued, in
order.

Between attempts to reconnect there is no descriptor to wait on: `wants_poll_in` says when to call `heartbeat` or
`poll`.
Callbacks (`on_reply`, `on_socket_change`) may `send`, but must neither `call` nor `poll`.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, assert_never

import msgspec

from disheap.client.core import faults, pulse
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
from disheap.client.core.url import BrokerUrl, hello_of, parse
from disheap.client.io import forked
from disheap.client.io.attempt import Attempt
from disheap.client.io.dialing import LAST_NODES, Dial, blocking_dial
from disheap.client.io.waiting import Wait, wait_ready
from disheap.client.io.wire import Wire
from disheap.errors import (
    ConfigError,
    ConnectionLost,
    DisheapError,
    ProtocolError,
    RequestError,
    RequestTimeout,
    WindowExceeded,
    renewed,
)
from disheap.protocol import broker
from disheap.protocol.frames import SessionOptions
from disheap.protocol.handshake import Welcome

FLUSH_BYTES = 64 << 10
"""Pipelined commands are handed to the socket when so many bytes wait, or at the next read."""
READS_PER_POLL = 16
"""Reads in one poll: a flood from the node must not keep the owner's loop from its other work."""
LISTEN_AFTER_S = 0.1
"""The pause before a transient command, after which a look at the socket comes first. In a stream of them it costs
nothing, and what is lost is what was sent within this time of a node's death."""
ATTEMPT_LOOK_S = 0.02
"""How often an owner's loop looks after attempts to connect: their descriptors are not its own."""

OnReply = Callable[[Any], None]
Pushed = broker.Push | SessionLost


class BlockingClient:
    """Cheap to build: the first call connects. `url` may be text; `dial` opens sockets (None: the URL's transport).
    It belongs to the process that built it: in the child of a fork every call raises `ConnectionLost`, and `close` does
    nothing.

    `observer` asks whatever node answers, and has no session. `client` is the name that a node is told. `clock` counts
    seconds. `last_nodes` is shared by the clients of one process.
    """

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
        self.url = parse(url) if isinstance(url, str) else url
        options = None if observer else SessionOptions(self.url.session_timeout_ms, self.url.label)
        self.on_socket_change: Callable[[int | None, int | None], None] | None = None
        self.on_push: Callable[[bytes], None] | None = None  # of a machine that is no broker
        self._broker = BrokerSession(options, hello_of(self.url, client), opaque=opaque)
        self._session = self._broker.session
        self._route = Route(self.url.addresses, generator or random.Random(), self.url.connect_timeout_s, last_nodes)
        self._dial = dial
        self.clock, self._wait = clock, wait
        self._wire: Wire | None = None
        self._attempts: dict[str, Attempt] = {}
        self._connected_at = 0.0
        self._pulse = pulse.Pulse(self.url.session_timeout_ms, 0.0)
        self._unread = False  # more may lie in the socket, or in what decrypts it
        self._retry_at: float | None = None
        self._retry_s = pulse.RETRY_FIRST_S
        self._pushes: deque[Pushed] = deque()
        self._broken: DisheapError | None = None
        forked.watch(self)

    # --- requests ---

    def connect(self, timeout_s: float | None = None) -> None:
        """Wait until a session stands; what waited for it is on its way then. Raises `ConnectionLost` with what each
        address said."""
        deadline = self.deadline(timeout_s)
        while self._session.state is not State.READY:
            if self.clock() >= deadline:
                raise ConnectionLost(f"no node takes a session: {self._route.why()}")
            self._step(deadline)
        self.flush()

    def call(
        self,
        command: broker.Command,
        *,
        flags: int = 0,
        timeout_s: float | None = None,
        on_reply: OnReply | None = None,
    ) -> Any:
        """One confirmed round trip: the command's `broker.Reply`. Raises the `RequestError` of a refusal, `NotSent`
        where it was taken back, or `RequestTimeout`; the command then stays under way. `on_reply` hears of a reply
        before whatever comes next."""
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
        """The same for a state machine of one's own."""
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
        """Pipelined. `on_reply` gets the `broker.Reply` or the `RequestError`. Over the session's window it reads
        replies first; with `wait` False it raises `WindowExceeded` instead."""
        self._awake()
        if self._session.room <= 0:
            if not wait:
                raise WindowExceeded(f"{self._session.window} commands are unanswered; poll for replies first")
            self._wait_room(self.deadline(None))
        self._broker.send(command, on_reply, flags)
        if self._session.output_bytes > FLUSH_BYTES:
            self.flush()

    def send_transient(self, command: broker.Command) -> None:
        """At most once, without an answer; never waits. After a pause it is heard first whether the node has gone: what
        is written to a connection that the other end has closed is lost, and no error says so."""
        if self._pulse.quiet_s(self._awake()) > LISTEN_AFTER_S and self._wire is not None:
            self._step_now()
        self._broker.cast(command)
        if self._session.output_bytes > FLUSH_BYTES:
            self.flush()

    def query(self, query: broker.Query, timeout_s: float | None = None) -> Any:
        """A linearizable read: its `broker.Reply`."""
        deadline = self.deadline(timeout_s)
        box: list[Any] = []
        self._broker.query(query, box.append)
        return self._take_answer(box, deadline, type(query).__name__)

    def query_opaque(self, request: bytes, *, timeout_s: float | None = None) -> bytes:
        """A linearizable read of a state machine of one's own."""
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
            self._check()
            if self.clock() >= deadline:
                raise RequestTimeout(self._why_late("a command before"))
            self._step(deadline)

    def give_back(self, tokens: Iterable[broker.Token]) -> None:
        """Nack leases that nobody waits for."""
        mine = [token for token in tokens if self.holds(token)]
        for start in range(0, len(mine), broker.BATCH_MAX):
            self.send(broker.Nack(mine[start : start + broker.BATCH_MAX]))
        self.flush()

    def deadline(self, timeout_s: float | None) -> float:
        """`timeout_s` from now (None: the URL's), by `clock`."""
        return self._awake() + (self.url.timeout_s if timeout_s is None else timeout_s)

    def wait_answer(self, box: list[Any], deadline: float, request: str, waiter: Any = None) -> Any:
        """What `on_reply` puts into `box`; an error is raised. At the deadline the command of `waiter` is taken back
        where it has not left (`NotSent`). Otherwise raises `RequestTimeout`, which names the request."""
        while not box:
            self._check()
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

    # --- for an event hub ---

    def flush(self) -> None:
        """Hand everything pipelined to the socket. Without a connection it stays for the next one."""
        if self._wire is not None and self._session.has_output:
            self._write()

    def poll(self, timeout_s: float | None = 0.0) -> list[Pushed]:
        """Read what is there, handle replies, reconnect where needed; the pushes so far, in order. Waits up to
        `timeout_s` (None: for ever) for the first one. Raises a `ProtocolError` only."""
        self._check()
        deadline = float("inf") if timeout_s is None else self.clock() + timeout_s
        if self._pushes or not timeout_s:
            self._step_now()
        while not self._pushes and self.clock() < deadline:
            self._step(deadline)
        return self.take_pushes()

    def take_pushes(self) -> list[Pushed]:
        """What `poll` would return now, without touching the socket."""
        pushes = list(self._pushes)
        self._pushes.clear()
        return pushes

    def pending_pushes(self) -> bool:
        """Whether `poll` has something without touching the socket."""
        return bool(self._pushes)

    def fileno(self) -> int:
        """-1 while there is no connection."""
        return self._wire.fileno() if self._wire is not None else -1

    def hear(self) -> None:
        """After a pause, find out what became of the connection meanwhile; never waits."""
        self._awake()

    def heartbeat(self) -> None:
        """Read, ping when due, and give a dead connection up. Call it every `heartbeat_s` or oftener."""
        self._check()
        self._step_now()

    @property
    def heartbeat_s(self) -> float:
        return self._pulse.every_s

    @property
    def wants_poll_in(self) -> float:
        """Seconds until `heartbeat` has work that no descriptor will announce."""
        if self._unread:
            return 0.0
        now = self.clock()
        if self._wire is None:
            return min(self._route.wait_s(now), ATTEMPT_LOOK_S if self._attempts else pulse.PING_EVERY_S)
        look_s = self._pulse.look_in_s(now)
        return look_s if self._retry_at is None else max(0.0, min(look_s, self._retry_at - now))

    @property
    def session_timeout_ms(self) -> int:
        return self._session.timeout_ms

    @property
    def session_id(self) -> int:
        return self._session.id

    @property
    def address(self) -> str:
        """Of the node at the other end, or ""."""
        return self._wire.address if self._wire is not None else ""

    @property
    def ready(self) -> bool:
        """A session is attached."""
        return self._session.state is State.READY

    @property
    def unanswered(self) -> int:
        return self._session.unanswered

    @property
    def welcome(self) -> Welcome | None:
        """What the last node said of itself."""
        return self._session.welcome

    @property
    def has_holdings(self) -> bool:
        """Something would be lost with the session: consumers, leases, exclusive topics."""
        return not self._broker.held.idle()

    def holds(self, token: broker.Token) -> bool:
        """Whether the lease is still ours to settle, as far as is known here."""
        return token in self._broker.held.tokens

    # --- the end ---

    def close(self, end_session: bool = True) -> None:
        """End the session, so that what it holds goes back at once, and the connection. May be called twice."""
        if self._broken is not None:
            return
        if end_session and (self._session.state is State.READY or self._broker.owes):
            self._end_session()
        self._drop("closed", goes_on=False)
        self._end_attempts()
        self._broken = ConnectionLost("this client is closed")
        self._handle(self._broker.abandon(ConnectionLost("the client was closed before an answer came")))

    def suspend(self) -> None:
        """Leave the connection and keep the session, with what is under way in it. The next call finds another
        connection. Until then nothing keeps the session alive."""
        self._drop("the session was suspended")
        for attempt in list(self._attempts.values()):
            self._give_up(attempt, "no answer yet")

    @property
    def is_over(self) -> bool:
        """Closed, or of no more use for another reason."""
        return self._broken is not None

    def collect(self) -> None:
        """Drop the socket without a word, and be of no more use: the session is left to its timeout."""
        self._leave(ConnectionLost("this client was left without closing it"))

    def collect_in_child(self) -> None:
        """The session is the parent's, who goes on with it."""
        self._leave(
            ConnectionLost("this client was opened before a fork, and is the parent process's: open one in the child")
        )

    def _leave(self, error: DisheapError) -> None:
        self._broken = error
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        self._end_attempts()

    def _end_session(self) -> None:
        """On another connection, if this one breaks: what was acknowledged is done, and must not come again."""
        deadline = self.clock() + pulse.CLOSE_TIMEOUT_S
        while self._session.id and self.clock() < deadline:
            if self._session.state is State.READY:
                self._session.close()
            self._step(deadline)

    # --- waiting ---

    def _awake(self) -> float:
        """The time. After a silence, hear first whether the session stands: what goes into a lapsed one may be lost."""
        self._check()
        now = self.clock()
        if self._wire is not None and self._pulse.quiet_s(now) > self.heartbeat_s:
            self._step_now()
        return now

    def _check(self) -> None:
        if self._broken is not None:
            raise renewed(self._broken)

    def _wait_room(self, deadline: float) -> None:
        while self._session.room <= 0:
            if self.clock() >= deadline:
                raise RequestTimeout(f"the session's window of {self._session.window} commands stayed full")
            self._step(deadline)

    def _why_late(self, request: str) -> str:
        state = "" if self._wire is not None and self.ready else f" (no session: {self._route.why()})"
        return f"{request} was not answered in time{state}; it may still be carried out"

    def _step(self, deadline: float) -> None:
        """Wait once: for bytes, for the next attempt to connect, or until a timer of ours."""
        if self._wire is None:
            self._search(deadline)
            return
        if self._session.has_output:
            self._write()
        now = self.clock()
        wait_s = min(self._pulse.look_every_s, deadline - now)
        if self._retry_at is not None:
            wait_s = min(wait_s, self._retry_at - now)
        if self._wire is not None and not self._read(max(wait_s, 0.001)):
            self._timers()

    def _step_now(self) -> None:
        """The same without waiting."""
        if self._wire is not None and self._pulse.doubtful(self.clock()):
            self._drop("nothing was said for too long: whether the session stands is found out by attaching again")
        if self._wire is None:
            self._search(0.0)
        if self._session.has_output:
            self._write()
        reads = 0
        while self._wire is not None and reads < READS_PER_POLL and self._read(0.0):
            reads += 1
        self._unread = reads == READS_PER_POLL
        self._timers()

    def _timers(self) -> None:
        now = self.clock()
        if self._wire is None:
            return
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._session.retry()
        if self._session.state is not State.READY and now - self._connected_at > self._pulse.entry_s:
            self._drop("the node did not let us in in time")
            return
        match self._pulse.look(now):
            case pulse.Verdict.SILENT:
                self._drop("the node has fallen silent")
            case pulse.Verdict.PING:
                self._session.ping()
            case pulse.Verdict.FINE:
                pass
        if self._session.has_output:
            self._write()

    # --- the connection ---

    def _search(self, deadline: float) -> None:
        """Look after the attempts to connect, then wait for them once, at most until `deadline`."""
        self._look_after_attempts()
        now = self.clock()
        if self._wire is None and deadline > now:
            wanted = [attempt.wanted for attempt in self._attempts.values()]
            self._wait(wanted, min(self._route.wait_s(now), deadline - now))

    def _look_after_attempts(self) -> None:
        """Take what has come, give up what is overdue, start what is due."""
        for attempt in list(self._attempts.values()):
            if self._wire is None:
                self._advance(attempt)
        if self._wire is not None:
            return
        now = self.clock()
        for address in self._route.overdue(now):
            self._give_up(self._attempts[address], f"no answer within {self.url.connect_timeout_s:g} s")
        while self._wire is None and (due := self._route.due(now)) is not None:
            self._start(due)

    def _start(self, address: str) -> None:
        if self._dial is None:
            self._dial = blocking_dial(self.url)
        try:
            attempt = self._attempts[address] = Attempt(address, self._dial(address), self._broker.greeting())
        except (ConnectionLost, OSError) as error:
            self._route.failed(address, str(error), self.clock())
        except ConfigError as error:
            if address in self.url.addresses:
                raise
            self._route.failed(address, str(error), self.clock())  # a node named this address
        else:
            self._advance(attempt)

    def _advance(self, attempt: Attempt) -> None:
        try:
            answer = attempt.advance()
        except (ConnectionLost, OSError) as error:
            self._give_up(attempt, str(error))
        except ProtocolError as error:
            self._reject(attempt, error)
        else:
            if answer is None:
                return
            if answer.is_let_in:
                self._adopt(attempt)
            else:
                self._give_up(attempt, answer.reason)
                self._route.moved(answer.leader, self.clock())

    def _reject(self, attempt: Attempt, error: ProtocolError) -> None:
        """What answered is no node of ours. The other addresses may be right."""
        self._give_up(attempt, str(error))
        fatal = self._route.rejected(attempt.address, error)
        if fatal is not None:
            self._controlled(Broken(fatal))

    def _give_up(self, attempt: Attempt, reason: str) -> None:
        """An attempt is over."""
        del self._attempts[attempt.address]
        attempt.close()
        self._route.failed(attempt.address, reason, self.clock())

    def _end_attempts(self) -> None:
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts.values():
            attempt.close()

    def _adopt(self, attempt: Attempt) -> None:
        """The one door into a connection: the first attempt that is let in."""
        del self._attempts[attempt.address]
        self._end_attempts()
        self._route.won()
        assert attempt.wire is not None
        self._wire = attempt.wire
        self._connected_at = self.clock()
        self._pulse = pulse.Pulse(self._session.timeout_ms or self.url.session_timeout_ms, self._connected_at)
        if self.on_socket_change is not None:
            self.on_socket_change(None, self._wire.fileno())
        self._handle(self._broker.connected(attempt.greeting))
        if self._session.has_output:
            self._write()  # the handshake goes on

    def _drop(self, reason: str, goes_on: bool = True) -> None:
        """The one door out of a connection. `goes_on`: the client will look for another."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        self._route.lost(wire.address, reason, self.clock())
        self._retry_at = None
        if self.on_socket_change is not None:
            self.on_socket_change(wire.fileno(), None)
        if goes_on and (farewell := self._session.farewell()):
            with suppress(OSError):  # it may be gone
                wire.write(farewell, 0.0)
        wire.close()
        self._handle(self._broker.disconnected())

    def _write(self) -> None:
        """All that is to be sent. While the node takes nothing, what it says is read: it may be full of what it has to
        say to us."""
        if self._wire is None:
            return
        unsent = memoryview(self._session.take_output())
        self._pulse.spoke(self.clock(), len(unsent))
        came: list[bytes] = []
        while unsent and self._wire is not None:
            taken = self._send(unsent)
            unsent = unsent[taken:]
            if taken:
                self._pulse.progressed()
            elif self._wire is not None and (data := self._receive(0.0)) is not None:
                came.append(data)
            elif self._wire is not None and self._pulse.is_silent(self.clock()):
                self._drop("the node has fallen silent, and takes nothing")
        for data in came:
            if self._wire is not None:
                self._take(data)

    def _send(self, data: memoryview) -> int:
        assert self._wire is not None
        try:
            return self._wire.write(data, self._pulse.look_every_s)
        except OSError as error:
            self._drop(str(error))
            return 0

    def _read(self, timeout_s: float) -> bool:
        """Whether anything came. 0.0 does not wait."""
        data = self._receive(timeout_s)
        if data is None:
            return False
        self._take(data)
        return True

    def _receive(self, timeout_s: float) -> bytes | None:
        assert self._wire is not None
        try:
            data = self._wire.read(timeout_s)
        except OSError as error:
            self._drop(str(error))
            return None
        if data is not None:
            self._pulse.heard()
        return data

    # --- events ---

    def _take(self, data: bytes) -> None:
        self._handle(self._broker.receive(data))
        if self._session.has_output and self._session.state is not State.READY:
            self._write()  # the handshake goes on

    def _handle(self, events: list[BrokerEvent]) -> None:
        for event in events:
            if type(event) is Replied or type(event) is Opaque:
                if event.waiter is not None:
                    event.waiter(event.result)
            elif type(event) is Arrived:
                self._pushes.append(event.push)
            else:
                self._controlled(event)

    def _controlled(self, event: Control) -> None:
        match event:
            case SessionLost():
                self._pushes.append(event)
            case Ready():
                assert self._wire is not None
                self._route.arrived(self._wire.address)
                self._pulse.set_timeout(self._session.timeout_ms or self.url.session_timeout_ms)
                self._retry_s = pulse.RETRY_FIRST_S
                if self._session.welcome is not None:
                    self._route.learned(self._session.welcome.members)
            case Moved():
                self._drop(event.message or event.code)
                self._route.moved(event.leader, self.clock())
            case Postponed():
                if self._retry_at is None:
                    self._retry_at = self.clock() + self._retry_s
                    self._retry_s = min(self._retry_s * 2, pulse.RETRY_MAX_S)
            case Foreign():
                if self.on_push is not None:
                    self.on_push(event.body)
            case Broken():
                self._broken = renewed(event.error)
                self._drop(str(event.error))
                self._end_attempts()
                self._handle(self._broker.abandon(ConnectionLost(str(event.error))))
                raise event.error
            case Closed():
                self._drop("closed")
            case Alive():
                self._retry_s = pulse.RETRY_FIRST_S
            case _:
                assert_never(event)
