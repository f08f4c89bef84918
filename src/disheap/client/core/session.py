"""One client session, without I/O (Raft dissertation §6.3; docs/explanation/sessions.md).

Owns the sequence numbers, what is unanswered, and the way from HELLO to an attached session. Bytes go in by `receive`,
events come out, and `take_output` has the bytes to be sent. It knows no sockets, no clocks, and not what a body means.
So it serves both drivers and any state machine.

The promise: a command is applied at most once, and answered exactly once, by its reply or by `OutcomeUnknown`. A
command that no node can have seen may be withdrawn, and is not answered then. The promise rests on three rules:

- A command keeps its seq until it is answered, over any number of connections. The node knows a repeated seq.
- `confirmed` grows only over a contiguous prefix of replies that have come. Otherwise the node could drop a reply that
  is still wanted.
- When the node says that the session is over, the outcome of what was sent is unknown. Only what was never sent goes
  into the next session.

    OFFLINE --connected--> HANDSHAKE --WELCOME--> ENTERING --REPLY--> READY --close--> CLOSING
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import msgspec

from disheap.client.core import faults
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
)
from disheap.client.core.handshake import Handshake
from disheap.client.core.held_state import HeldState, NothingHeld
from disheap.client.core.queries import Queries, Query
from disheap.errors import MalformedFrame, NotLeader, PayloadTooLarge, ProtocolError, RequestError
from disheap.protocol import frames, handshake
from disheap.protocol.frames import NODE_FRAME_BYTES, Flags, Kind, SessionOptions
from disheap.protocol.handshake import Hello, Welcome

WINDOW = 8192
"""Unanswered commands until a node has said its own `session_window`."""
TRANSIENTS_KEPT = 256
"""Transient commands kept while there is no connection; beyond it the oldest goes, as they may."""
ENTRY_NUMBER = 1 << 62
"""OPEN, ATTACH and CLOSE are numbered from here, apart from the commands' seqs."""


class State(Enum):
    """The states of a session, from a connection to an attached session."""

    OFFLINE = "offline"
    HANDSHAKE = "handshake"
    ENTERING = "entering"
    READY = "ready"
    CLOSING = "closing"


# Enum members, looked up once: on Python 3.11 each look-up costs as much as packing a header.
_OFFLINE, _ENTERING, _READY = State.OFFLINE, State.ENTERING, State.READY
_COMMAND, _REPLY, _PUSH = int(Kind.COMMAND), int(Kind.REPLY), int(Kind.PUSH)


_LEAVES = handshake.goodbye("leaves", "the client goes on on another connection")


class _Command(msgspec.Struct, frozen=True, gc=False):
    flags: int
    body: bytes
    waiter: Any


class Session:
    """`options` None makes an observer: it asks (`ask`) whatever node it is connected to, and has no session."""

    def __init__(
        self, options: SessionOptions | None, held: HeldState | None = None, hello: Hello | None = None
    ) -> None:
        """`hello` is the content of the first frame. The first WELCOME fixes its cluster."""
        self.id = 0
        self.timeout_ms = options.timeout_ms if options else 0
        self._secret = b""  # proves to any node that the session is ours
        self.state = State.OFFLINE
        self.welcome: Welcome | None = None
        self.window = WINDOW
        self.confirmed = 0
        self._options = options
        self._held = held or NothingHeld()
        self._hello = hello or Hello()
        self._frame_bytes = NODE_FRAME_BYTES  # of a frame of ours, until a node has said its own limit
        self._reader = frames.FrameReader()
        self.output_bytes = 0  # of commands, waiting to be taken
        self._output: list[bytes] = []
        self._next_seq = 1
        self._cursor = 1  # the next seq to be sent on this connection
        self._ever_sent = 0  # the newest seq that any node may have seen
        self._sent_before = 0  # the newest that was sent on an earlier connection
        self._ahead: set[int] = set()  # answered out of turn; only ever looked up
        self._commands: dict[int, _Command] = {}  # unanswered, in seq order
        self._queries = Queries()
        self._transients: list[tuple[int, bytes]] = []
        self._postponed: list[int] = []
        self._entry_number = ENTRY_NUMBER

    # --- requests ---

    def call(self, body: bytes, waiter: Any = None, flags: int = Flags.NONE) -> int:
        """Send a command. Returns its seq. It is answered exactly once. Over the window it waits here. Raises
        `PayloadTooLarge`."""
        self._check_size(body)
        seq = self._next_seq
        self._next_seq = seq + 1
        self._commands[seq] = command = _Command(flags, body, waiter)
        if self.state is _READY and self._cursor == seq and seq - self.confirmed <= self.window:
            self._transmit(seq, command)
            self._cursor = seq + 1
        return seq

    def withdraw(self, mine: Callable[[Any], bool]) -> list[Any]:
        """Take back the commands with such waiters that no node can have seen. Returns their waiters. They are not
        answered any more, and the commands behind them move up."""
        return [command.waiter for command in self._take_back(lambda command: mine(command.waiter))]

    def _take_back(self, is_wanted: Callable[[_Command], bool]) -> list[_Command]:
        unsent = [command for seq, command in self._commands.items() if seq > self._ever_sent]
        taken = [command for command in unsent if is_wanted(command)]
        if taken:
            for seq in range(self._next_seq - len(unsent), self._next_seq):
                del self._commands[seq]
            kept = [command for command in unsent if not is_wanted(command)]
            self._commands.update(enumerate(kept, self._next_seq - len(unsent)))
            self._next_seq -= len(taken)
        return taken

    def send_transient(self, body: bytes, flags: int = Flags.NONE) -> None:
        """Send a command that is applied at most once and not answered. Raises `PayloadTooLarge`."""
        self._check_size(body)
        flags |= Flags.TRANSIENT
        if self.state is _READY:
            self._envelope(Kind.COMMAND, flags, 0, body)
            return
        self._transients.append((flags, body))
        del self._transients[:-TRANSIENTS_KEPT]

    def ask(self, kind: int, body: bytes, waiter: Any = None, repeat: bool = True) -> int:
        """Send a QUERY or an ADMIN. Returns its number. `repeat`: it changes nothing, and may be asked again. Raises
        `PayloadTooLarge`."""
        self._check_size(body)
        number = self._queries.add(Query(kind, body, waiter, repeat))
        if self.state is _READY:
            self._output.append(self._queries.send(number))
        return number

    def ping(self) -> None:
        """Send a PING, if a session is attached or on its way."""
        if self.state in (_READY, State.ENTERING):
            self._output.append(frames.plain(Kind.PING))

    def attach_again(self) -> list[Event]:
        """Ask the node once more what the client holds. A connection carries one ATTACH, so this takes a new
        connection."""
        events: list[Event] = []
        if self.state is _READY and self.welcome is not None:
            self._go_offline(Moved(self.welcome.members[0] if self.welcome.members else "", "attach-again"), events)
        return events

    def farewell(self) -> bytes:
        """The last bytes on a connection that is left while it stands: a GOODBYE, which says that the session goes on
        elsewhere. Without it, the node takes the client for dead, and soon gives back what the session holds. Returns
        b"" if the node has closed the connection, or the session is being closed."""
        return _LEAVES if self.state in (_READY, _ENTERING) else b""

    def close(self) -> None:
        """End the session. `Closed` follows if a node can be told."""
        if self.state is _READY and self.id:
            self.state = State.CLOSING
            self._enter(Kind.CLOSE, b"")

    def retry(self) -> None:
        """Send again what was `Postponed`."""
        seqs, self._postponed = self._postponed, []
        if self.state is not _READY:
            self._queries.take_postponed()
            return
        for seq in seqs:
            if (command := self._commands.get(seq)) is not None:
                self._transmit(seq, command)
        self._output += self._queries.send_postponed()

    @property
    def room(self) -> int:
        """How many commands fit the window now."""
        return self.window - (self._next_seq - 1 - self.confirmed)

    @property
    def unanswered(self) -> int:
        """How many requests have no answer."""
        return len(self._commands) + len(self._queries)

    @property
    def under_way(self) -> int:
        """How many commands have no answer."""
        return len(self._commands)

    def waiters(self) -> Iterator[Any]:
        """Yields the waiters of the unanswered requests, the oldest first."""
        for command in self._commands.values():
            yield command.waiter
        for query in self._queries:
            yield query.waiter

    # --- the connection ---

    def handshake(self) -> Handshake:
        """For a connection that this session may take over."""
        return Handshake(self._hello, any_node=self._options is None)

    def connected(self, handshake: Handshake | None = None) -> list[Event]:
        """A connection is open. If its `handshake` is over, the session continues with the bytes received. Otherwise it
        sends a HELLO."""
        self._reader = frames.FrameReader()
        self._output = [self.handshake().hello] if handshake is None else []
        self.state = State.HANDSHAKE
        return self.receive(handshake.received) if handshake is not None else []

    def disconnected(self) -> list[Event]:
        """The connection is gone. Commands and queries wait for the next one; an admin request that was sent is not
        repeated, for it may have been carried out."""
        self.state = State.OFFLINE
        self._output = []
        self._postponed = []
        return [faults.outcome_unknown(query.waiter, faults.NOT_REPEATED) for query in self._queries.connection_lost()]

    def abandon(self, error: RequestError) -> list[Event]:
        """Answer everything that is unanswered with `error`. The session is of no more use afterwards."""
        events: list[Event] = [Answered(waiter, 0, b"", error) for waiter in self.waiters()]
        self._commands = {}
        self._queries.clear()
        return events

    @property
    def has_output(self) -> bool:
        """Whether `take_output` has something."""
        return bool(self._output)

    def take_output(self) -> bytes:
        """Returns the bytes to be written to the connection, and forgets them."""
        output = self._output
        self._output, self.output_bytes = [], 0
        return output[0] if len(output) == 1 else b"".join(output)

    def receive(self, data: bytes) -> list[Event]:
        """Returns what the bytes mean. Never raises: what is no node, or not ours, is `Broken`, after the events before
        it."""
        events: list[Event] = []
        try:
            self._frames(data, events)
        except ProtocolError as error:
            self._go_offline(Broken(error), events)
        return events

    # --- frames ---

    def _frames(self, data: bytes, events: list[Event]) -> None:
        for kind, buffer, start, end in self._reader.cut(data):
            if kind == _REPLY:
                self._reply(buffer, start, end, events)
            elif kind == _PUSH:
                events.append(Pushed(*frames.open_numbered(buffer[start:end])))
            else:
                self._control(kind, buffer[start:end], events)
            if self.state is _OFFLINE:
                break

    def _reply(self, buffer: bytes, start: int, end: int, events: list[Event]) -> None:
        if end - start < frames.REPLY.size:
            raise MalformedFrame(f"a reply of {end - start} bytes is shorter than its header of {frames.REPLY.size}")
        _, _, status, seq, index = frames.REPLY.unpack_from(buffer, start)
        body = buffer[start + frames.REPLY.size : end]
        if seq >= ENTRY_NUMBER:
            self._entered(status, seq, index, body, events)
            return
        command = self._commands.get(seq)
        if command is None or self.state is _ENTERING:
            return  # answered before; a repetition's second answer
        error = None
        if status:
            error = faults.read_fault(body)
            later = error.code in faults.SHORTAGES and seq <= self._sent_before
            if self._put_off(error, seq, self._postponed.append, events, later):
                return
        del self._commands[seq]
        events.append(Answered(command.waiter, index, body, error))
        self._confirm(seq)

    def _answer(self, frame: bytes, events: list[Event]) -> None:
        status, number, index, body = frames.open_reply(frame)
        if not self._queries.has(number):
            return
        self._queries.note_answer(number)
        error = faults.read_fault(body) if status else None
        if error is not None and self._put_off(error, number, self._queries.postpone, events):
            return
        events.append(Answered(self._queries.pop(number).waiter, index, body, error))

    def _control(self, kind: int, frame: bytes, events: list[Event]) -> None:
        if kind == Kind.ANSWER:
            self._answer(frame, events)
        elif kind == Kind.PONG:
            events.append(Alive())
        elif kind == Kind.PING:
            self._output.append(frames.plain(Kind.PONG))
        elif kind == Kind.WELCOME and self.state is State.HANDSHAKE:
            self._welcomed(frames.open_plain(frame), events)
        elif kind == Kind.MEMBERS and self.welcome is not None:
            addresses = handshake.open_members(frames.open_plain(frame))
            self.welcome = msgspec.structs.replace(self.welcome, members=addresses)
            events.append(MembersChanged(addresses))
        elif kind == Kind.GOODBYE:
            self._received_goodbye(frames.open_plain(frame), events)
        else:
            raise MalformedFrame(f"the node sent a frame of kind {kind}, which has no place here")

    def _welcomed(self, body: bytes, events: list[Event]) -> None:
        self.welcome = welcome = faults.read_welcome(body, self._hello)
        self._hello = msgspec.structs.replace(self._hello, cluster_id=welcome.cluster_id)
        self.window, self._frame_bytes = welcome.limits.session_window, welcome.limits.frame_bytes
        self._refuse_too_large(events)
        self._reader.set_limit(NODE_FRAME_BYTES)
        if self._options is None:
            self._become_ready(Ready(False), events)
        elif not welcome.leads:
            self._go_offline(Moved(welcome.leader), events)
        elif self.id:
            self.state = State.ENTERING
            self._enter(Kind.ATTACH, self._secret + self._held.encode_held())
        else:
            self._open()

    def _open(self) -> None:
        self.id = 0
        self.state = State.ENTERING
        self._enter(Kind.OPEN, msgspec.msgpack.encode(self._options))

    def _entered(self, status: int, number: int, index: int, body: bytes, events: list[Event]) -> None:
        if number != self._entry_number:
            return
        if self.state is State.CLOSING:
            self.id = 0
            self._go_offline(Closed(), events)
        elif status:
            self._refused(faults.read_fault(body), events)
        elif self.id:
            self._become_ready(Ready(True, index, body), events)
        else:
            if len(body) < frames.GRANT.size:
                raise MalformedFrame(f"a session was granted in {len(body)} bytes; a grant has {frames.GRANT.size}")
            self.id, self.timeout_ms, self._secret = frames.GRANT.unpack_from(body)
            self._become_ready(Ready(False), events)

    def _refused(self, error: RequestError, events: list[Event]) -> None:
        if error.code in faults.SESSION_OVER and self.id:
            self._lapse(events)
            self._open()
        else:
            leader = error.leader if isinstance(error, NotLeader) else ""
            self._go_offline(Moved(leader, error.code, str(error)), events)

    def _lapse(self, events: list[Event]) -> None:
        """The session is over. The outcome of sent commands is unknown. The others move to the next session, which
        counts from 1 again."""
        sent = [command for seq, command in self._commands.items() if seq <= self._ever_sent]
        kept = [command for seq, command in self._commands.items() if seq > self._ever_sent]
        silent = not sent and self._held.is_empty()
        events.extend(faults.outcome_unknown(command.waiter, faults.SESSION_ENDED) for command in sent)
        self._held.clear()
        if not silent:
            events.append(Lapsed())
        self._commands = dict(enumerate(kept, 1))
        self._next_seq, self._ever_sent, self.confirmed = len(kept) + 1, 0, 0
        self._ahead = set()

    def _become_ready(self, event: Ready, events: list[Event]) -> None:
        """The one door to READY."""
        if self.state is not _READY:
            self.state = _READY
            self._sent_before = self._ever_sent
            self._cursor = self.confirmed + 1
            for flags, body in self._transients:
                self._envelope(Kind.COMMAND, flags, 0, body)
            self._transients = []
            self._pump()
            self._output += self._queries.send_all()
        events.append(event)

    def _go_offline(self, event: Event, events: list[Event]) -> None:
        """The one door out: whatever follows on this connection is not for us."""
        self.state = State.OFFLINE
        events.append(event)

    def _received_goodbye(self, body: bytes, events: list[Event]) -> None:
        goodbye = faults.read_goodbye(body)
        self._go_offline(Moved(goodbye.leader, goodbye.code, goodbye.message), events)

    # --- sending ---

    def _check_size(self, body: bytes) -> None:
        """The node would close the connection, and not this command alone would suffer."""
        if self._is_too_large(body):
            raise PayloadTooLarge(faults.too_large(body, self._frame_bytes))

    def _refuse_too_large(self, events: list[Event]) -> None:
        """Those that were given before any node had said its limit."""
        for command in self._take_back(lambda command: self._is_too_large(command.body)):
            refusal = PayloadTooLarge(faults.too_large(command.body, self._frame_bytes))
            events.append(Answered(command.waiter, 0, b"", refusal))
        for query in self._queries.take(lambda query: self._is_too_large(query.body)):
            refusal = PayloadTooLarge(faults.too_large(query.body, self._frame_bytes))
            events.append(Answered(query.waiter, 0, b"", refusal))
        self._transients = [(flags, body) for flags, body in self._transients if not self._is_too_large(body)]

    def _is_too_large(self, body: bytes) -> bool:
        return len(body) + frames.ENVELOPE.size > self._frame_bytes

    def _pump(self) -> None:
        """Send what the window lets through, in order."""
        last = min(self._next_seq - 1, self.confirmed + self.window)
        for seq in range(self._cursor, last + 1):
            if (command := self._commands.get(seq)) is not None:
                self._transmit(seq, command)
        self._cursor = max(self._cursor, last + 1)

    def _confirm(self, seq: int) -> None:
        if seq != self.confirmed + 1:
            self._ahead.add(seq)
            return
        while seq + 1 in self._ahead:
            seq += 1
            self._ahead.discard(seq)
        self.confirmed = seq
        if self._cursor < self._next_seq:
            self._pump()

    def _put_off(
        self,
        error: RequestError,
        number: int,
        postpone: Callable[[int], None],
        events: list[Event],
        later: bool = False,
    ) -> bool:
        """Whether the request was not looked at and keeps its number."""
        if later or error.code in faults.PUT_OFF:
            postpone(number)
            events.append(Postponed())
            return True
        if error.code in faults.WRONG_NODE and self._options is not None:
            self._go_offline(Moved("", error.code, str(error)), events)
            return True
        return False

    def _transmit(self, seq: int, command: _Command) -> None:
        self._output.append(
            frames.ENVELOPE.pack(
                frames.ENVELOPE_REST + len(command.body), _COMMAND, command.flags, self.id, seq, self.confirmed
            )
        )
        self._output.append(command.body)
        self.output_bytes += len(command.body)
        if seq > self._ever_sent:
            self._ever_sent = seq

    def _enter(self, kind: int, body: bytes) -> None:
        self._entry_number += 1
        self._envelope(kind, Flags.NONE, self._entry_number, body)

    def _envelope(self, kind: int, flags: int, seq: int, body: bytes) -> None:
        self._output.append(frames.envelope(kind, flags, self.id, seq, self.confirmed, body))
