"""The session of a client that speaks to the `heap` machine: the opaque session below, the broker's words above.

Owns the decoding, and which lease is held when. It refuses to know how anybody waits: a waiter is carried through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import msgspec

from disheap.client.core.broker_state import BrokerState
from disheap.client.core.events import (
    Alive,
    Answered,
    Broken,
    Closed,
    Event,
    Lapsed,
    MembersChanged,
    Moved,
    Postponed,
    Pushed,
    Ready,
    SessionEvent,
)
from disheap.client.core.handshake import Handshake
from disheap.client.core.session import Session
from disheap.errors import MalformedFrame, OutcomeUnknown, ProtocolError, RequestError
from disheap.protocol import broker
from disheap.protocol.frames import UNREADABLE, Flags, Kind, SessionOptions
from disheap.protocol.handshake import Hello

_NOTED = frozenset(
    {
        broker.Ack,
        broker.Nack,
        broker.Extend,
        broker.Batch,
        broker.Prepare,
        broker.Cancel,
        broker.Recover,
        broker.Subscribe,
        broker.Pop,
        broker.CreateTopic,
        broker.DeleteTopic,
    }
)
_REPEATED_OPS = frozenset({"status", "hash", "sessions", "backup-read", "backup-end"})
_SETTLES = frozenset({broker.Ack, broker.Nack, broker.Cancel, broker.Recover})
"""Commands that are wanted however late they come."""


@final
class Replied(SessionEvent, frozen=True):
    """`result` is a `broker.Reply`, or the `RequestError` that says why there is none."""

    waiter: Any
    result: Any


@final
class OpaqueReply(SessionEvent, frozen=True):
    """The answer to an admin request, an opaque call or an opaque query: bytes, or a `RequestError`."""

    waiter: Any
    result: bytes | RequestError


@final
class Arrived(SessionEvent, frozen=True):
    """A push. A `Deliver` comes once, however often the node says it."""

    push: broker.ConsumerPush


class ValueArrived(SessionEvent, frozen=True):
    """A watched key has a value. The push may be lost with the connection: see `Connector.on_value`."""

    value: broker.ValueSet


class OpaquePush(SessionEvent, frozen=True):
    """A push of a machine that is no broker."""

    body: bytes


class SessionLost(SessionEvent, frozen=True):
    """The session lapsed: consumers are gone, and what it held was given back."""


Control = Ready | Moved | MembersChanged | Postponed | Alive | Broken | Closed | OpaquePush | SessionLost | ValueArrived
BrokerEvent = Replied | OpaqueReply | Arrived | Control
"""What a driver hears: an answer for a waiter, a push, or `Control` for itself."""


class _Note(msgspec.Struct, frozen=True, gc=False):
    """What is kept until the reply: the command, its waiter, the leases it gives back, its connection."""

    command: Any
    waiter: Any
    connection: int
    tokens: list[broker.Token]


class _Raw(msgspec.Struct, frozen=True, gc=False):
    waiter: Any


class BrokerSession:
    """`opaque`: the machine is another one, reached by `call` and `query_opaque`. Its pushes come as `OpaquePush`."""

    def __init__(self, options: SessionOptions | None, hello: Hello | None = None, opaque: bool = False) -> None:
        self.held = BrokerState()
        self.session = Session(options, None if opaque else self.held, hello)
        self._opaque = opaque
        self._connection = 0
        self._missed_an_end = False  # a pop's end may have been missed

    def send(self, command: broker.Command, waiter: Any = None, flags: int = Flags.NONE) -> int:
        """Send a command. Returns its seq; `Replied` follows. Raises `PayloadTooLarge`."""
        kind = type(command)
        if kind in _NOTED:
            waiter = _Note(command, waiter, self._connection, self._gives_back(command))
        return self.session.call(broker.encode(command), waiter, flags)

    def send_transient(self, command: broker.Command) -> None:
        """Send a command that is applied at most once and not answered. Raises `PayloadTooLarge`."""
        self.session.send_transient(broker.encode(command))

    def query(self, query: broker.Query, waiter: Any = None) -> int:
        """Send a query. Returns its number; `Replied` follows."""
        return self.session.ask(Kind.QUERY, broker.encode(query), waiter)

    def query_opaque(self, request: bytes, waiter: Any = None) -> int:
        """A query of a machine that is no broker; answered by `OpaqueReply`."""
        return self.session.ask(Kind.QUERY, request, _Raw(waiter))

    def call(self, body: bytes, waiter: Any = None, flags: int = Flags.NONE) -> int:
        """An opaque command; answered by `OpaqueReply`."""
        return self.session.call(body, _Raw(waiter), flags)

    def admin(self, request: dict[str, Any], waiter: Any = None) -> int:
        """Answered by `OpaqueReply` with a msgpack map. Only what changes nothing is repeated after a lost
        connection."""
        body, repeat = msgspec.msgpack.encode(request), request.get("op") in _REPEATED_OPS
        return self.session.ask(Kind.ADMIN, body, _Raw(waiter), repeat)

    @property
    def owes(self) -> bool:
        """Whether the node should hear of the session's end: commands have no answer, or leases are held."""
        return bool(self.session.id) and (self.session.unanswered > 0 or not self.held.is_empty())

    def waiters(self) -> Iterator[Any]:
        """What the unanswered requests were sent with, the oldest first."""
        for waiter in self.session.waiters():
            yield _carried(waiter)

    def withdraw(self, waiters: Sequence[Any]) -> list[Any]:
        """Take back the commands with these waiters that no node can have seen. Returns their waiters. Commands that
        settle leases are not taken back: they are wanted however late they come."""
        wanted = {id(waiter) for waiter in waiters}
        taken = self.session.withdraw(lambda one: id(_carried(one)) in wanted and not _is_settling(one))
        return [_carried(one) for one in taken]

    def handshake(self) -> Handshake:
        """For a connection that this session may take over."""
        return self.session.handshake()

    def connected(self, handshake: Handshake | None = None) -> list[BrokerEvent]:
        """See `Session.connected`."""
        self._connection += 1
        return self._translate(self.session.connected(handshake))

    def disconnected(self) -> list[BrokerEvent]:
        """See `Session.disconnected`."""
        return self._translate(self.session.disconnected())

    def abandon(self, error: RequestError) -> list[BrokerEvent]:
        """See `Session.abandon`."""
        return self._translate(self.session.abandon(error))

    def receive(self, data: bytes) -> list[BrokerEvent]:
        """`Replied`, `OpaqueReply`, `Arrived`, `SessionLost`, and the session's own events about the connection."""
        return self._translate(self.session.receive(data))

    # --- events ---

    def _translate(self, events: list[Event]) -> list[BrokerEvent]:
        out: list[BrokerEvent] = []
        broken: ProtocolError | None = None
        for event in events:
            try:
                self._translate_one(event, out)
            except ProtocolError as error:
                broken = error
        if broken is not None:
            out.append(Broken(broken))
        elif self._missed_an_end:
            self._missed_an_end = False
            for event in self.session.attach_again():
                self._translate_one(event, out)
        return out

    def _translate_one(self, event: Event, out: list[BrokerEvent]) -> None:
        if type(event) is Answered:
            out.append(self._answered(event))
        elif type(event) is Pushed:
            if self._opaque:
                out.append(OpaquePush(event.body))
            else:
                self._pushed(_decode(broker.decode_push, event.body), out)
        elif type(event) is Ready:
            out.append(event)
            self._resumed(event, out)
        else:
            out.append(SessionLost() if type(event) is Lapsed else event)

    def _answered(self, event: Answered) -> Replied | OpaqueReply:
        waiter = event.waiter
        if type(waiter) is _Raw:
            return OpaqueReply(waiter.waiter, event.error or event.body)
        result: Any = event.error or _read_reply(event.body)
        if type(waiter) is not _Note:
            return Replied(waiter, result)
        if not isinstance(result, RequestError):
            self._note(waiter, result)
        return Replied(waiter.waiter, result)

    def _pushed(self, push: broker.Push, out: list[BrokerEvent]) -> None:
        if isinstance(push, broker.Deliver):
            if self.held.delivered(push):
                out.append(Arrived(push))
        elif isinstance(push, broker.ValueSet):
            out.append(ValueArrived(push))
        else:
            self.held.ended(push.consumer)
            out.append(Arrived(push))

    def _resumed(self, event: Ready, out: list[BrokerEvent]) -> None:
        if not event.resumed or not event.body or self._opaque:
            return
        reply = _decode(broker.decode_reply, event.body)
        if not isinstance(reply, broker.Resumed):
            raise MalformedFrame(f"a resumed session was answered with {type(reply).__name__}, not Resumed")
        for push in (*reply.deliveries, *reply.ended):
            self._pushed(push, out)

    # --- what is held ---

    def _gives_back(self, command: broker.Command) -> list[broker.Token]:
        """The leases that are gone when the command has been carried out. Taken when it is sent: those that come
        after belong to what follows."""
        if isinstance(command, (broker.Ack, broker.Nack)):
            return command.tokens
        if isinstance(command, (broker.Batch, broker.Prepare)):
            settling = [item for item in command.items if isinstance(item, (broker.Ack, broker.Nack))]
            return [token for item in settling for token in item.tokens]
        if isinstance(command, broker.Recover):
            return self.held.held_by(command.consumers)
        return []

    def _note(self, note: _Note, reply: broker.Reply) -> None:
        command, held = note.command, self.held
        held.settled(note.tokens)
        if isinstance(reply, broker.Settled):
            held.settled(reply.stale)
        elif isinstance(reply, broker.Subscribed):
            self._subscribed(note, reply.consumer)
        elif isinstance(command, broker.Cancel):
            held.ended(command.consumer)
            if command.give_back:
                held.settled(held.held_by([command.consumer]))
        elif isinstance(command, broker.CreateTopic):
            if command.settings.exclusive:
                held.owns(command.topic)
        elif isinstance(command, broker.DeleteTopic):
            held.disowned(command.topic)

    def _subscribed(self, note: _Note, consumer: int) -> None:
        """A pop whose reply crossed a lost connection may have ended there unheard: attach again, naming its ticket.
        The ATTACH before could not name it, or else the answer would have said so."""
        pop = isinstance(note.command, broker.Pop)
        self.held.subscribed(consumer, pop)
        if pop and note.connection != self._connection and consumer in self.held.tickets:
            self._missed_an_end = True


def _carried(waiter: Any) -> Any:
    return waiter.waiter if isinstance(waiter, (_Note, _Raw)) else waiter


def _is_settling(waiter: Any) -> bool:
    return isinstance(waiter, _Note) and type(waiter.command) in _SETTLES


def _decode(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise MalformedFrame(f"the node sent a body that this version cannot read: {error}") from error


def _read_reply(body: bytes) -> broker.Reply | RequestError:
    """A reply that cannot be read says that the command was carried out, but not with what result."""
    try:
        return broker.decode_reply.decode(body)
    except UNREADABLE as error:
        return OutcomeUnknown(f"the reply cannot be read by this version: {error}")
