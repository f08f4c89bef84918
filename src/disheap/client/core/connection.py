"""One client's connection to the leader of its cluster, without I/O: the search, the session on it, and its end.

Owns every decision that does not depend on how a program waits: which attempts to connect are made, and which of them
becomes the connection. It says what each event of the session means. It says when to ping, when to give a node up, and
when to send again what the node put off. It makes no socket and sets no timer. A driver inherits `Connector` and
supplies the waiting:

1. It makes the channels that `_dial` asks for, and calls `_search` when `_search_wait_s` is over or an attempt ended.
2. It hands what it reads to `_received`, and the end of a channel to `_lose`.
3. It writes what `_take_output` returns.
4. It calls `_check` every `check_every_s`, and `_retry` at `_retry_at`.

In return it is told of answers, pushes and changes by the methods at the end of the class. A driver inherits them and
is not referred to: an object that holds its owner is freed by the garbage collector alone.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import Any, Generic, Protocol, TypeVar, assert_never

from disheap.client.core import keepalive
from disheap.client.core.broker_session import (
    Arrived,
    BrokerEvent,
    BrokerSession,
    Control,
    OpaquePush,
    OpaqueReply,
    Replied,
    SessionLost,
    ValueArrived,
)
from disheap.client.core.events import Alive, Broken, Closed, MembersChanged, Moved, Postponed, Ready
from disheap.client.core.handshake import Handshake
from disheap.client.core.keepalive import KeepAlive, Verdict
from disheap.client.core.route import LastNodes, Route
from disheap.client.core.session import State
from disheap.client.core.url import BrokerUrl, hello_of
from disheap.errors import ConfigError, ConnectionLost, DisheapError, ProtocolError, renewed
from disheap.protocol import broker
from disheap.protocol.frames import SessionOptions
from disheap.protocol.handshake import Welcome


class Channel(Protocol):
    """One connection, or the attempt to make one."""

    address: str
    handshake: Handshake

    def end(self, farewell: bytes = b"") -> None:
        """Close it. `farewell` goes out first, if it can go out at once."""


C = TypeVar("C", bound=Channel)


class Connector(ABC, Generic[C]):
    """The state of a client's connection. Times are in seconds, by the driver's clock.

    `observer` asks whatever node answers, and has no session. `client` is the name that a node is told. `opaque`: the
    machine is no broker, and its pushes go to `on_push`. `last_nodes` is shared by the clients of one process.

    `on_value` gets the value of a watched key. Such a push may be lost with its connection. So `on_ready` is called
    when a session is attached to a connection, and whoever watches asks for the values then. Its argument is False for
    a new session, which watches nothing.
    """

    def __init__(
        self,
        url: BrokerUrl,
        *,
        observer: bool,
        client: str,
        opaque: bool,
        generator: random.Random | None,
        last_nodes: LastNodes | None,
    ) -> None:
        self.url = url
        self.on_push: Callable[[bytes], None] | None = None
        self.on_value: Callable[[broker.ValueSet], None] | None = None
        self.on_ready: Callable[[bool], None] | None = None
        options = None if observer else SessionOptions(url.session_timeout_ms, url.label)
        self._broker = BrokerSession(options, hello_of(url, client), opaque=opaque)
        self._session = self._broker.session
        self._random = generator or random.Random()
        shared = None if observer else last_nodes  # who asks a certain node gets that one, and no other member
        self._route = Route(url.addresses, self._random, url.connect_timeout_s, shared)
        self._channel: C | None = None
        self._attempts: dict[str, C] = {}
        self._connected_at = 0.0
        self._keepalive = KeepAlive(url.session_timeout_ms, 0.0)
        self._retry_at: float | None = None  # when what the node put off is sent again
        self._retry_s = keepalive.RETRY_FIRST_S
        self._put_off_at = float("-inf")
        self._error: DisheapError | None = None  # why the client is over

    # --- what a program asks -----------------------------------------------------------------------------------------

    @property
    def welcome(self) -> Welcome | None:
        """The WELCOME of the last node."""
        return self._session.welcome

    @property
    def session_id(self) -> int:
        """The number of the session; 0 before there is one."""
        return self._session.id

    @property
    def session_timeout_ms(self) -> int:
        """The session timeout, as the node granted it."""
        return self._session.timeout_ms

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        return self._session.unanswered

    @property
    def is_over(self) -> bool:
        """Whether the client is closed, or of no more use for another reason."""
        return self._error is not None

    def draw_name(self) -> str:
        """Returns a name for a transaction that nobody draws twice."""
        return f"batch-{self._random.getrandbits(96):024x}"

    @property
    def addresses(self) -> list[str]:
        """Where the client looks for a node: the addresses of the URL, and those of all members that it knows."""
        return self._route.known()

    def holds(self, token: broker.Token) -> bool:
        """Whether the lease is still this client's to settle, as far as is known here."""
        return token in self._broker.held.tokens

    # --- the search for a leader -------------------------------------------------------------------------------------

    def _search(self) -> None:
        """Give up the attempts that are overdue, and begin those that are due."""
        now, session_s = self._now(), self._session_s()
        for address in self._route.overdue(now):
            self._give_up(self._attempts[address], f"no answer within {self._route.attempt_s(session_s):g} s")
        while self._channel is None and not self.is_over and (due := self._route.due(now, session_s)) is not None:
            self._begin(due)

    def _search_wait_s(self, now: float) -> float:
        """How long until `_search` has something to do, unless an attempt ends before."""
        return self._route.wait_s(now)

    def _session_s(self) -> float:
        """The timeout of the session that waits for a connection, in seconds. Infinite before there is one."""
        return self._timeout_ms() / 1000 if self._session.id else inf

    def _begin(self, address: str) -> None:
        """Raises `ConfigError` if the settings of the URL cannot be used."""
        try:
            self._attempts[address] = self._dial(address, self._broker.handshake())
        except (ConnectionLost, OSError) as error:
            self._route.failed(address, str(error), self._now())
        except ConfigError as error:
            if address in self.url.addresses:
                raise
            self._route.failed(address, str(error), self._now())  # a node named this address

    def _handshake_received(self, channel: C, data: bytes) -> None:
        """Bytes came on an attempt."""
        if self._attempts.get(channel.address) is not channel:
            return
        try:
            answer = channel.handshake.receive(data)
        except ProtocolError as error:
            self._reject(channel, error)
            return
        if answer is None:
            return
        if answer.is_accepted:
            self._adopt(channel)
        else:
            self._give_up(channel, answer.reason, answer.code)
            self._route.moved(answer.leader, self._now())

    def _reject(self, channel: C, error: ProtocolError) -> None:
        """The address answered, but not as a node of this cluster. The other addresses may be right."""
        self._give_up(channel, str(error))
        fatal = self._route.rejected(channel.address, error)
        if fatal is not None:
            self._fail(fatal)

    def _give_up(self, channel: C, reason: str, code: str = ConnectionLost.code) -> None:
        """An attempt is over. `code` is what the node answered."""
        if self._attempts.get(channel.address) is channel:
            del self._attempts[channel.address]
            channel.end()
            self._route.failed(channel.address, reason, self._now(), code)
            self._changed()

    def _end_attempts(self) -> None:
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts.values():
            attempt.end()

    # --- the connection ----------------------------------------------------------------------------------------------

    def _adopt(self, channel: C) -> None:
        """The only way into a connection: the first attempt that is let in."""
        del self._attempts[channel.address]
        self._end_attempts()
        self._route.won()
        self._channel = channel
        self._connected_at = self._now()
        self._keepalive = KeepAlive(self._timeout_ms(), self._connected_at)
        self._channel_changed(None, channel)
        self._changed()
        self._handle(self._broker.connected(channel.handshake))
        self._flush()

    def _lose(self, channel: C, reason: str, code: str = ConnectionLost.code) -> None:
        """The only way out of a connection. Also ends an attempt. `code` is what the node said."""
        if channel is not self._channel:
            self._give_up(channel, reason)
            return
        self._channel = None
        self._channel_changed(channel, None)
        channel.end(b"" if self.is_over else self._session.farewell())
        self._route.lost(channel.address, reason, self._now(), code)
        self._retry_at = None
        self._handle(self._broker.disconnected())
        self._changed()

    def _drop(self, reason: str, code: str = ConnectionLost.code) -> None:
        """Leave the connection, if there is one, and look for another. `code` is what the node said."""
        if self._channel is not None:
            self._lose(self._channel, reason, code)

    def _fail(self, error: DisheapError) -> None:
        """The end of the client: every request is answered with why."""
        if self.is_over:
            return
        self._error = renewed(error)
        self._drop(str(error))
        self._end_attempts()
        self._handle(self._broker.abandon(ConnectionLost(f"no answer came: {error}")))
        self._ended(error)

    def _check_open(self) -> None:
        """Raises why the client is over."""
        if self._error is not None:
            raise renewed(self._error)

    def _take_output(self, now: float | None = None) -> bytes:
        """Returns the bytes to be written now."""
        output = self._session.take_output()
        self._keepalive.wrote(self._now() if now is None else now, len(output))
        return output

    def _received(self, channel: C, data: bytes) -> None:
        """Bytes came on a channel."""
        if channel is self._channel:
            self._handle(self._broker.receive(data))
        else:
            self._handshake_received(channel, data)

    # --- time --------------------------------------------------------------------------------------------------------

    def _timeout_ms(self) -> int:
        """The session timeout: as granted, or as asked for."""
        return self._session.timeout_ms or self.url.session_timeout_ms

    def _check(self, now: float) -> None:
        """After what has come was read: ping when it is time, and give up a node that says nothing."""
        if self._channel is None:
            return
        if self._session.state is not State.READY and now - self._connected_at > self._keepalive.attach_timeout_s:
            self._drop("the node did not attach the session in time")
            return
        match self._keepalive.check(now):
            case Verdict.SILENT:
                self._drop("the node has fallen silent")
            case Verdict.PING:
                self._session.ping()
                self._flush()
            case Verdict.FINE:
                pass

    def _drop_if_lapsed(self, now: float) -> None:
        """After a long silence of this client the session may be over. Only an ATTACH tells, and what is sent before it
        may be lost."""
        if self._channel is not None and self._keepalive.may_have_lapsed(now):
            self._drop("nothing was sent for too long: the session may be over, and is attached again")

    def _put_off(self, now: float) -> None:
        """Plan the next attempt. The pause doubles while the node refuses, and is reset when it has not refused for a
        while."""
        if self._retry_at is not None:
            return
        if now - self._put_off_at > keepalive.RETRY_QUIET_S:
            self._retry_s = keepalive.RETRY_FIRST_S
        self._retry_at, self._put_off_at = now + self._retry_s, now
        self._retry_s = min(self._retry_s * 2, keepalive.RETRY_MAX_S)
        self._changed()

    def _retry(self) -> None:
        """Send again what the node put off."""
        self._retry_at = None
        self._session.retry()

    # --- events ------------------------------------------------------------------------------------------------------

    def _handle(self, events: list[BrokerEvent]) -> None:
        for event in events:
            if type(event) is Replied or type(event) is OpaqueReply:
                self._resolve(event.waiter, event.result)
            elif type(event) is Arrived:
                self._deliver(event.push)
            else:
                self._control(event)

    def _control(self, event: Control) -> None:
        match event:
            case Ready():
                assert self._channel is not None
                self._route.arrived(self._channel.address)
                self._keepalive.set_timeout(self._timeout_ms())
                if self._session.welcome is not None:
                    self._route.learned(self._session.welcome.members)
                self._changed()
                if self.on_ready is not None:
                    self.on_ready(event.resumed)
            case Moved():
                self._drop(event.message or event.code, event.code)
                self._route.moved(event.leader, self._now())
            case MembersChanged():
                self._route.learned(event.addresses)
            case SessionLost():
                self._session_lost(event)
            case ValueArrived():
                if self.on_value is not None:
                    self.on_value(event.value)
            case Postponed():
                self._put_off(self._now())
            case OpaquePush():
                if self.on_push is not None:
                    self.on_push(event.body)
            case Broken():
                self._fail(event.error)
            case Closed():
                self._drop("closed")
            case Alive():
                pass  # the driver has noted that something came
            case _:
                assert_never(event)

    # --- what a driver supplies --------------------------------------------------------------------------------------

    @abstractmethod
    def _now(self) -> float:
        """The time."""

    @abstractmethod
    def _dial(self, address: str, handshake: Handshake) -> C:
        """Begin to connect, and send `handshake.hello` when connected. May raise `ConnectionLost`, `OSError` and
        `ConfigError`."""

    @abstractmethod
    def _flush(self) -> None:
        """Write what `_take_output` has, if anything."""

    @abstractmethod
    def _resolve(self, waiter: Any, result: Any) -> None:
        """A request is answered. `waiter` is what it was sent with; None if nobody waits."""

    @abstractmethod
    def _deliver(self, push: broker.ConsumerPush) -> None:
        """A push for a consumer or a pop."""

    @abstractmethod
    def _session_lost(self, event: SessionLost) -> None:
        """The session lapsed. No more comes for its consumers and pops."""

    def _channel_changed(self, before: C | None, after: C | None) -> None:
        """The connection is another. `before` is not closed yet."""

    def _changed(self) -> None:
        """Something has changed that may be waited for: the state of the session, an attempt, or `_retry_at`."""

    def _ended(self, error: DisheapError) -> None:
        """The client is over, and every request is answered. May raise."""
