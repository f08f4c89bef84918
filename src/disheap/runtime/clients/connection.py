"""One client's connection: what it has said so far, its frames, and what goes out.

A node that leads spends most of its reading in `FrameReader.cut`. A run of commands comes from it checked, and is
handed on as one slice. Every other frame goes through `_other`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from disheap.addresses import owner_of
from disheap.errors import (
    LimitReached,
    MalformedFrame,
    NotLeader,
    Overloaded,
    ProtocolError,
    RequestError,
    SessionExpired,
)
from disheap.interfaces import Connection, Flushing
from disheap.logs import LineLimiter, get_logger
from disheap.protocol import frames, handshake
from disheap.protocol.frames import CLIENT_ENVELOPES, RUN, FrameReader, Kind, SessionOptions
from disheap.protocol.handshake import Hello, Versions
from disheap.runtime.clients import grammar
from disheap.runtime.clients.admission import host_of
from disheap.runtime.clients.buffers import UNCOUNTED_BYTES, Buffers
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.clients.places import NO_SESSION, Places
from disheap.runtime.clients.principal import authenticate, certificate_principal
from disheap.runtime.clients.waiting_answers import WaitingAnswers

log = get_logger(__name__)

_LIMIT = "limits.frame_bytes"
UNREAD_S = 5.0
"""A client may take nothing for so long although more than `write_buffer_bytes` wait for it."""
_PONG = frames.plain(Kind.PONG)


class ConnectionAcceptor(Protocol):
    """What a connection asks of its acceptor, which serves all groups."""

    limits: ServerLimits
    versions: Versions
    loop: asyncio.AbstractEventLoop
    lines: LineLimiter
    buffers: Buffers
    places: Places

    def admit(self, connection: ClientConnection) -> bool:
        """Returns whether the new connection gets a place. Refuses and closes it otherwise."""

    def find_server(self, hello: Hello) -> ConnectionOwner:
        """Returns the server of the group that the HELLO names. Raises `WrongCluster` and `UnknownGroup`."""

    def watch(self, connection: ClientConnection) -> bool:
        """Check the connection at each sweep. Returns False if it is watched already."""

    def lost(self, connection: ClientConnection) -> None:
        """The connection is closed: free its place."""


class ConnectionOwner(Protocol):
    """What a connection asks of the server of its group."""

    @property
    def leads(self) -> bool:
        """Whether this node leads the group."""

    @property
    def short(self) -> RequestError | None:
        """Why commands that add data are refused now; None if they are taken."""

    def greeted(self, connection: ClientConnection) -> None:
        """The connection has named this group in its HELLO."""

    def welcome(self, version: int, hello: Hello) -> bytes:
        """Returns a WELCOME frame for that protocol version."""

    def goodbye(self, error: RequestError | ProtocolError) -> bytes:
        """Returns a GOODBYE frame with the error's code and message. It names the leader for `NotLeader`."""

    def lost(self, connection: ClientConnection) -> None:
        """The connection is closed: detach its session."""

    def forget(self, connection: ClientConnection) -> None:
        """The connection is closed: nobody waits for its OPEN, ATTACH or CLOSE any more."""

    def filter_when_full(self, connection: ClientConnection, envelopes: bytes) -> bytes:
        """Returns the envelopes that may be logged during a shortage. Answers the others with an error."""

    def submit(self, connection: ClientConnection, envelopes: bytes) -> None:
        """Put whole envelopes of the attached session into the log."""

    def submit_transient(self, connection: ClientConnection, envelope: frames.Envelope) -> None:
        """Put a command that gets no reply into the log, unless it would have no effect."""

    def open_session(self, connection: ClientConnection, number: int, options: SessionOptions) -> None:
        """Log an OPEN. The reply goes to `number` of this connection."""

    def attach_session(self, connection: ClientConnection, number: int, session: int, body: bytes) -> None:
        """Log an ATTACH of `session`. `body` is the secret, then what the client holds."""

    def close_session(self, connection: ClientConnection, number: int) -> None:
        """Log a CLOSE of the attached session. The reply goes to `number` of this connection."""

    def query(self, connection: ClientConnection, number: int, request: bytes) -> None:
        """Answer a linearizable read of the machine, under `number` of this connection."""

    def admin(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """Answer an operator's request, under `number` of this connection. `body` is a MessagePack map."""


class ClientConnection:
    """A `Receiver`. `session` is 0 until one is attached; `queue` gathers frames while entries are applied."""

    def __init__(self, acceptor: ConnectionAcceptor, is_local: bool = False) -> None:
        self.session = 0
        self.attachment = 0
        self.asked: list[int] = []
        self.queue: list[bytes] = []
        self.gathered: list[bytes] = []  # pushes of `Relay`, older than what is queued
        self.heard = 0.0
        self.paused_by_log = False  # not read from: too much waits for the log
        self.paused_by_peer = False  # not read from: it does not read what it is sent
        self.paused = False
        self.closed = False
        self.draining = False  # what it sends is of no use here any more; it will be told where to go
        self.principal = ""  # who the client is, as far as its HELLO has proved it
        self.is_local = is_local  # the other end is in this process
        self.ended = False  # its session is over, and it has been or is about to be told
        self.follows_members = False  # it wants to be told when the members have changed
        self.was_dropped = False  # the other end closed it without a GOODBYE: the client may be gone
        self._acceptor = acceptor
        self._server: ConnectionOwner  # of the group that its HELLO named
        self._connection: Connection
        self._write_now: Callable[[bytes], None]  # of a connection that gathers; else its `write`
        self._reader = FrameReader(frames.HANDSHAKE_FRAME_BYTES)
        self._greeted = False
        self._has_left = False
        self._deadline: asyncio.TimerHandle | None = None
        self.queries = 0  # of its own that are not answered yet
        self.unsent_bytes = 0
        self.took_at = 0.0
        self._answers = WaitingAnswers(acceptor.limits.write_buffer_bytes, acceptor.buffers)

    @property
    def remote(self) -> str:
        """The other end's address with its port, as the transport shows it."""
        return self._connection.remote

    # --- Receiver ----------------------------------------------------------------------------------------------------

    def connection_made(self, connection: Connection) -> None:
        """Ask for a place, and wait for a HELLO for `handshake_timeout_s`."""
        acceptor = self._acceptor
        self._connection = connection
        self._write_now = connection.write_now if isinstance(connection, Flushing) else connection.write
        self.heard = acceptor.loop.time()
        if not acceptor.admit(self):
            return
        self._deadline = acceptor.loop.call_later(acceptor.limits.handshake_timeout_s, self._handshake_overdue)

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete. A frame that is not allowed closes the connection with its error."""
        if self.closed or self.draining:
            return
        self.heard = self._acceptor.loop.time()
        try:
            for kind, buffer, start, end in self._reader.cut(data, self.session):
                if kind == RUN:
                    self._submit(buffer[start:end])
                elif self._greeted:
                    self._other(kind, buffer[start:end])
                else:
                    self._handshake(kind, buffer[start:end])
        except (ProtocolError, NotLeader, SessionExpired, Overloaded) as error:
            self.refuse(error)
        held = self._reader.held_bytes
        buffers = self._acceptor.buffers
        if held > UNCOUNTED_BYTES or buffers.holds_input(self):
            buffers.hold_input(self, 0 if self.closed else held)

    def writing_paused(self) -> None:
        """The client does not read. Its next commands wait until it does."""
        self.paused_by_peer = True
        self._watch()
        self._settle_reading()

    def writing_resumed(self) -> None:
        """Read from the client again, and make the answers that waited."""
        self.paused_by_peer = False
        self._settle_reading()
        self._make_answers()

    def connection_lost(self, error: Exception | None) -> None:
        """Free what the connection holds, and tell the server."""
        self.was_dropped = not (self.closed or self._has_left or self.paused_by_peer)
        self.closed = True
        self._answers.drop()
        self._acceptor.buffers.hold_input(self, 0)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._acceptor.lost(self)
        if self._greeted:
            self._server.forget(self)
            self._server.lost(self)

    # --- what the server tells ---------------------------------------------------------------------------------------

    def attached(self, session: int, attachment: int) -> None:
        """The session's frames come here from now on."""
        self.session, self.attachment = session, attachment

    def superseded(self) -> None:
        """The session is attached to another connection."""
        session, self.session = self.session, 0
        self.refuse(SessionExpired(f"session {session} is attached to another connection now"))

    def session_ended(self) -> None:
        """The session is over."""
        self.session, self.ended = 0, True

    def note_asked(self, attachment: int) -> None:
        """An OPEN, ATTACH or CLOSE of this connection is in the log under that number."""
        self.asked.append(attachment)

    def note_answered(self, attachment: int) -> None:
        """The OPEN, ATTACH or CLOSE under that number has its reply."""
        self.asked.remove(attachment)

    def drain(self) -> bool:
        """This node has stopped leading. Returns whether the client has or wants a session, so that it has to be
        redirected."""
        self.pause_for_log(False)
        if not (self.session or self.asked):
            return False
        self.session, self.draining = 0, True
        return True

    def reset_silence(self, now: float) -> None:
        """The client's silence was this node's fault: its time begins again."""
        self.heard = now

    @property
    def address(self) -> str:
        """The other end's address without its port, for people and for limits. For IPv6 it is the network."""
        return owner_of(self._connection.remote) or host_of(self._connection.remote)

    @property
    def certificate_name(self) -> str:
        """The name that the client's certificate proves; "" without one."""
        return certificate_principal(self._connection.certificate_names)

    # --- the handshake -----------------------------------------------------------------------------------------------

    def _handshake(self, kind: int, frame: bytes) -> None:
        """Handles the HELLO. Until then frames have to be small (storage-rules 13)."""
        if kind != Kind.HELLO:
            raise MalformedFrame(f"the first frame is of kind {kind}, not a HELLO")
        version, hello = handshake.open_hello(frames.open_plain(frame), Hello, self._acceptor.versions)
        server = self._acceptor.find_server(hello)
        self.principal = authenticate(hello, self._connection.certificate_names)
        self._connection.write(server.welcome(version, hello))
        self._server, self._greeted, self.follows_members = server, True, hello.follows_members
        server.greeted(self)
        self._reader.set_limit(self._acceptor.limits.frame_bytes, _LIMIT)
        self._acceptor.places.greeted(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self._start_idle_timer(self._acceptor.limits.idle_timeout_s)

    def _handshake_overdue(self) -> None:
        seconds = self._acceptor.limits.handshake_timeout_s
        self.refuse(MalformedFrame(f"no HELLO within {seconds} s; this port speaks the disheap protocol"))

    def _start_idle_timer(self, within_s: float) -> None:
        self._deadline = self._acceptor.loop.call_later(within_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        """Closes a connection without a session that was silent for too long. A session has its own timeout."""
        idle_s = self._acceptor.limits.idle_timeout_s
        is_busy = self.session or self.asked or self.queries or self.paused_by_log or self.is_local
        left_s = idle_s if is_busy else self.heard + idle_s - self._acceptor.loop.time()
        if left_s > 0:
            self._start_idle_timer(left_s)
        else:
            self.refuse(Overloaded(f"no session, and no frame for {idle_s:g} s: closed to free its place"))

    # --- frames ------------------------------------------------------------------------------------------------------

    def _submit(self, envelopes: bytes) -> None:
        """Puts a run of checked commands of the attached session into the log."""
        if not self._server.leads:
            raise NotLeader
        if self._server.short is not None and not (envelopes := self._server.filter_when_full(self, envelopes)):
            return
        self._server.submit(self, envelopes)

    def _other(self, kind: int, frame: bytes) -> None:
        if kind == Kind.PING:
            self._need_session()
            self._connection.write(_PONG)
        elif kind in CLIENT_ENVELOPES:
            self._envelope(frames.open_envelope(frame))
        elif kind == Kind.QUERY:
            self._need_leader()
            self.queries += 1
            self._server.query(self, *frames.open_numbered(frame))
        elif kind == Kind.ADMIN:
            self.queries += 1
            self._server.admin(self, *frames.open_numbered(frame))
        elif kind == Kind.GOODBYE:  # the client lives, and attaches elsewhere
            self._has_left = True
            self._connection.close()
        else:
            raise MalformedFrame(f"frames of kind {kind} do not come from clients")

    def _envelope(self, envelope: frames.Envelope) -> None:
        self._need_leader()
        if envelope.kind == Kind.COMMAND:
            self._need_session()
            grammar.check_transient(envelope, self.session)
            self._server.submit_transient(self, envelope)
            return
        if envelope.kind == Kind.CLOSE:
            self._need_session()
        if envelope.kind != Kind.CLOSE and self._acceptor.places.is_reserved(self):
            raise LimitReached(NO_SESSION)
        grammar.check_request(envelope, self.session, bool(self.asked))
        if envelope.kind == Kind.OPEN:
            self._server.open_session(self, envelope.seq, grammar.read_options(envelope.body))
        elif envelope.kind == Kind.ATTACH:
            self._server.attach_session(self, envelope.seq, envelope.session, envelope.body)
        else:
            self._server.close_session(self, envelope.seq)

    def _need_session(self) -> None:
        """Raises `SessionExpired` if the session has lapsed, because nothing is sent to it any more."""
        if self.session == 0 and self.ended:
            raise SessionExpired("the session lapsed; what it held was given back")

    def _need_leader(self) -> None:
        if not self._server.leads:
            raise NotLeader

    # --- what goes out -----------------------------------------------------------------------------------------------

    def send(self, kind: Kind, status: int, number: int, index: int, body: bytes) -> None:
        """Sends a REPLY or an ANSWER at once, behind the frames queued before."""
        if kind == Kind.ANSWER:
            self.queries -= 1
            self._acceptor.buffers.add_output(len(body))
        if not self.closed:
            self.queue.append(frames.reply(kind, status, number, index, body))
            self.flush()

    def send_refusals(self, replies: list[bytes]) -> None:
        """Sends REPLY frames to commands that did not go into the log, behind the frames queued before."""
        if replies:
            self.queue += replies
            self.flush()

    def answer(self, make: Callable[[], None]) -> None:
        """Call `make`, which makes an answer and sends it. It is called now, or when there is room for the answer. On a
        closed connection it is called at once, and only frees its place."""
        self._answers.add(make)
        if self.closed:
            self._answers.drop()
        else:
            self._make_answers()

    def _make_answers(self) -> None:
        if not self.closed:
            self._answers.make(self._connection.buffered)
        if self._answers:
            self._watch()

    def flush(self) -> None:
        """Write the gathered and the queued frames with one call, and clear both. Drops them on a closed connection."""
        queue = self.queue
        if self.gathered:
            queue[:0] = self.gathered
            self.gathered.clear()
        data = queue[0] if len(queue) == 1 else b"".join(queue)
        queue.clear()
        if self.closed:
            return
        self._write_now(data)
        if self._connection.buffered() > UNCOUNTED_BYTES:
            self._watch()

    def refuse(self, error: RequestError | ProtocolError) -> None:
        """Send a GOODBYE with the reason, and close. Queued frames are sent first."""
        if self.closed:
            return
        if self.queue:
            self.flush()
        if isinstance(error, ProtocolError):
            self._acceptor.lines.write(
                log.warning, "a connection is refused", remote=self._connection.remote, reason=str(error)
            )
        goodbye = self._server.goodbye(error) if self._greeted else handshake.goodbye(error.code, str(error))
        self._connection.write(goodbye)
        self.closed = True
        self._connection.close()

    def send_unasked(self, frame: bytes) -> None:
        """Send a frame that nobody has asked for, behind the frames queued before."""
        if not self.closed:
            self.queue.append(frame)
            self.flush()

    def gather(self, push: bytes) -> None:
        """Keep a push until the next `flush`. It is sent before the frames that are queued until then."""
        self.gathered.append(push)

    def drop_gathered(self) -> None:
        """Send nothing of what was gathered."""
        self.gathered.clear()

    def unsent(self) -> int:
        """How many bytes wait for the client to read."""
        return self._connection.buffered()

    def pause_for_log(self, paused_by_log: bool) -> None:
        """Stop reading from the client, or read again: too many bytes wait for the log."""
        self.paused_by_log = paused_by_log
        self._settle_reading()

    def send_keepalive(self) -> None:
        """Send a PONG. While the client is not read from, its pings are not answered, and it would take this node for
        dead."""
        if not self.closed and not self.paused_by_peer:
            self._connection.write(_PONG)

    def _watch(self) -> None:
        if self._acceptor.watch(self):
            self.unsent_bytes, self.took_at = self._connection.buffered(), self._acceptor.loop.time()

    def check_slow_reader(self, now: float) -> bool:
        """Returns whether to check again. A client that reads something is alive: its pings wait with its other frames.
        A client that reads nothing, and to which too much is unsent, is closed."""
        before, self.unsent_bytes = self.unsent_bytes, self._connection.buffered()
        if self.unsent_bytes < before:
            self.heard = self.took_at = now
        if self.unsent_bytes > self._acceptor.limits.write_buffer_bytes and now - self.took_at > UNREAD_S:
            self._cut_off("a client does not read what it is sent; its connection is closed")
        self._make_answers()
        return bool(self.unsent_bytes > UNCOUNTED_BYTES or self.paused_by_peer or self._answers) and not self.closed

    def drop_unsent(self, limit_bytes: int) -> None:
        """Close the connection at once: too many bytes are unsent over all connections."""
        self._cut_off(
            f"over all connections more than {limit_bytes} bytes (limits.output_bytes) are unsent; that of a client "
            "which reads too little is closed"
        )

    def drop_unfinished_frame(self, limit_bytes: int) -> None:
        """Refuse the connection: unfinished frames hold too many bytes over all connections."""
        self._reader.clear()
        self.refuse(
            Overloaded(
                f"over all connections more than {limit_bytes} bytes of unfinished frames (limits.input_bytes) are "
                "held; the oldest gives way. Connect again and send it faster"
            )
        )

    def _cut_off(self, why: str) -> None:
        if not self.closed:
            self._acceptor.lines.write(
                log.warning, "a client that reads too little is cut off", remote=self._connection.remote, reason=why
            )
            self.closed = True
            self._connection.abort()

    def _settle_reading(self) -> None:
        """Reads from the client unless one of the two pauses holds. Its silence is counted from then on."""
        paused = self.paused_by_log or self.paused_by_peer
        if paused == self.paused or self.closed:
            return
        self.paused = paused
        if paused:
            self._connection.pause_reading()
        else:
            self.heard = self._acceptor.loop.time()
            self._connection.resume_reading()
