"""The client side of a replica: attachments, and who is still alive (docs/explanation/sessions.md).

Owns what only the leader's process knows: which connection a session is attached to, and when the client was last heard
of. Does not know what a command says. Runs of envelopes go from the socket into the log as they came, one slice for
each chunk.

A bad frame closes its own connection, with the reason, and nothing else. When this node stops leading, it says where
the leader is and closes. The clients send unanswered commands again under the same sequence numbers. The session table
keeps them from being applied twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from disheap.errors import (
    NotLeader,
    ProtocolError,
    RequestError,
    SessionExpired,
)
from disheap.interfaces import AllowedWhenFull, Screening
from disheap.logs import LineLimiter, get_logger
from disheap.protocol import frames, handshake
from disheap.protocol.frames import (
    ENVELOPE,
    Kind,
    SessionOptions,
    Status,
    fault,
)
from disheap.protocol.handshake import Hello, Welcome
from disheap.runtime.clients.acceptor import SWEEP_S, Acceptor
from disheap.runtime.clients.connection import ClientConnection
from disheap.runtime.clients.liveness import Liveness
from disheap.runtime.clients.queries import Queries
from disheap.runtime.clients.redirecting import Redirecting
from disheap.runtime.clients.relay import Relay
from disheap.runtime.clients.session_requests import SessionRequests
from disheap.runtime.replica.group import Group
from disheap.runtime.state.reply_sink import ReplySink

log = get_logger(__name__)

EXPIRIES_AT_ONCE = 64
"""Sessions that one sweep ends, at most. All of them are in one entry, and what each holds may be much."""
STALL_S = 1.0
"""A sweep this late means that the process itself stood still (a pause, a swap storm). Every session gets its full time
again, since what its client sent in the meantime is still unread."""


MEMORY_CHECK_BYTES = 2 << 20
"""Bytes that may come in before memory is checked again, whatever the clock says: 50 checks a second at 100 MB/s."""


class Directory(Protocol):
    """What the server asks of its replica."""

    cluster_id: str
    name: str
    machine_name: str
    number: int  # of the group

    def leader_address(self) -> str:
        """Returns where clients reach the leader; "" if it is unknown or this node."""

    def check_memory(self) -> None:
        """Compare the use of memory with the mark now."""

    def session_expired(self, session: int, label: str) -> None:
        """Tell observers that a session has lapsed."""

    def client_addresses(self) -> list[str]:
        """Returns the client addresses of all members that are known, this node's first."""

    async def admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operator's request. Raises `RequestError`."""


class Server(ReplySink):
    """Serves the clients of one group. `draw` returns attachment numbers, `entropy` random bytes for secrets."""

    def __init__(
        self,
        directory: Directory,
        acceptor: Acceptor,
        *,
        draw: Callable[[], int],
        entropy: Callable[[int], bytes],
        on_node_command: Callable[[int, int, bytes], None] = lambda number, status, body: None,
    ) -> None:
        super().__init__()
        self._on_node_command = on_node_command
        self.acceptor = acceptor
        self.limits, self.loop, self.lines = acceptor.limits, acceptor.loop, acceptor.lines
        loop = self.loop
        self.leads = False
        self._endings = LineLimiter(loop)  # about sessions that lapse
        self.short: RequestError | None = None  # why commands that bring something in are refused now
        self.takes_transient = True  # though it is short
        self._bytes_since_check = 0  # at memory, on behalf of what comes in
        self._shortages: dict[type[RequestError], tuple[RequestError, bool]] = {}
        self.group: Group
        self._directory = directory
        self._connections: dict[ClientConnection, None] = {}
        self._attached: dict[int, ClientConnection] = {}
        self._ending: dict[int, list[asyncio.Future[None]]] = {}  # operators who wait for the end of a session
        self._swept_at = 0.0
        self._was_out_of_touch = False  # at the last sweep: with a majority
        self._paused_by_log: list[ClientConnection] = []
        self._liveness = Liveness(loop, self._attached, self.limits.takeover_s)
        self._redirecting = Redirecting(loop, directory.leader_address)
        self._queries = Queries(self)
        self.relay = Relay(loop, self._attached)
        self._requests = SessionRequests(self, draw, entropy)

    def serve(self, group: Group) -> None:
        """Serve this group from now on. After a repair there is another one."""
        self.group = group

    # --- connections -------------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """The group's number."""
        return self._directory.number

    def greeted(self, connection: ClientConnection) -> None:
        """The connection's HELLO names this group."""
        self._connections[connection] = None

    def welcome(self, version: int, hello: Hello) -> bytes:
        """Returns a WELCOME frame for that protocol version."""
        leader = "" if self.leads else self._directory.leader_address()
        content = Welcome(
            cluster_id=self._directory.cluster_id,
            group=self.number,
            node=self._directory.name,
            leads=self.leads,
            leader=leader,
            members=self._directory.client_addresses(),
            machine=self._directory.machine_name,
            machine_version=self.group.sessions.machine_version,
            limits=self.limits.for_clients(),
        )
        return handshake.welcome(Kind.WELCOME, version, content)

    def lost(self, connection: ClientConnection) -> None:
        """The connection is gone. Its session waits for another, for a short time if the client's process may be gone
        as well. Its kernel closed the connection, and no GOODBYE came before."""
        self._connections.pop(connection, None)
        session = connection.session
        if session and self._attached.get(session) is connection:
            del self._attached[session]
            self.queues.pop(session, None)
            self._liveness.lost(session, connection.was_dropped)
            self._detach(session, connection.attachment)

    def _detach(self, session: int, attachment: int) -> None:
        if self.leads:
            self.group.submit(frames.envelope(Kind.DETACH, 0, session, attachment, 0))

    def goodbye(self, error: RequestError | ProtocolError) -> bytes:
        """Returns a GOODBYE frame with the error's code and message. It names the leader for `NotLeader`."""
        leader = self._directory.leader_address() if isinstance(error, NotLeader) else ""
        return handshake.goodbye(error.code, str(error), leader)

    # --- what clients send -------------------------------------------------------------------------------------------

    def submit(self, connection: ClientConnection, envelopes: bytes) -> None:
        """Put envelopes into the log. While too much waits for the log, the connection is not read from."""
        self.group.submit(envelopes)
        self._bytes_since_check += len(envelopes)
        if self._bytes_since_check >= MEMORY_CHECK_BYTES:
            self._bytes_since_check = 0
            self._directory.check_memory()
        if self.group.full() and not connection.paused_by_log:
            connection.pause_for_log(True)
            self._paused_by_log.append(connection)

    def note_shortage(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        """Refuse commands that add data, for this reason. None ends that kind of shortage."""
        if reason is None:
            self._shortages.pop(kind, None)
        else:
            self._shortages[kind] = reason, takes_transient
        self.short = next((reason for reason, _ in self._shortages.values()), None)
        self.takes_transient = all(takes for _, takes in self._shortages.values())

    def filter_when_full(self, connection: ClientConnection, envelopes: bytes) -> bytes:
        """Returns the commands of a run that may go into the log during a shortage. The others are answered with an
        error, and their numbers stay unused. A command that was applied already passes, and gets its kept reply."""
        assert self.short is not None
        refusal, kept, refused = fault(self.short), [], []
        session = self.group.sessions.table.get(connection.session)
        for start, end, seq in frames.spans(envelopes):
            is_repeated = session is not None and session.knows(seq)
            if is_repeated or self._is_allowed_when_full(envelopes[start + ENVELOPE.size : end]):
                kept.append(envelopes[start:end])
            else:
                refused.append(frames.reply(Kind.REPLY, Status.ERROR, seq, 0, refusal))
        connection.send_refusals(refused)
        return b"".join(kept)

    def refusal_when_short(self, command: bytes) -> RequestError | None:
        """Returns the shortage for which a command of another group would be refused now, or None."""
        return None if self._is_allowed_when_full(command) else self.short

    def _is_allowed_when_full(self, command: bytes) -> bool:
        """Whether the machine allows the command during a shortage."""
        machine = self.group.sessions.machine
        return isinstance(machine, AllowedWhenFull) and machine.allowed_when_full(command)

    def submit_transient(self, connection: ClientConnection, envelope: frames.Envelope) -> None:
        """Pass on a command without a reply, or put it into the log if the machine has to keep something of it. It is
        dropped if it would have no effect. During a shortage it is not logged. It has no number of its own. So its
        `confirmed` has to be a number that was carried out, or 0; otherwise a later command would be taken for a
        repeated one."""
        pushes = self.group.sessions.relay(self.group.now_ms(), envelope.body)
        if pushes is not None:
            self.relay.send(self.group.applied.index, pushes)
            return
        if self.short is not None and not (self.takes_transient or self._is_allowed_when_full(envelope.body)):
            return
        machine = self.group.sessions.machine
        if isinstance(machine, Screening) and not machine.admits(envelope.body):
            return
        session = self.group.sessions.table.get(envelope.session)
        confirmed = envelope.confirmed if session is not None and session.knows(envelope.confirmed) else 0
        self.submit(
            connection,
            frames.envelope(envelope.kind, envelope.flags, envelope.session, envelope.seq, confirmed, envelope.body),
        )

    def open_session(self, connection: ClientConnection, number: int, options: SessionOptions) -> None:
        """Log an OPEN, unless an admission limit is reached. The reply carries the session's number and secret."""
        self._requests.open(connection, number, options)

    def attach_session(self, connection: ClientConnection, number: int, session: int, body: bytes) -> None:
        """Log an ATTACH, unless its secret is known to be wrong."""
        self._requests.attach(connection, number, session, body)

    def close_session(self, connection: ClientConnection, number: int) -> None:
        """Log a CLOSE of the connection's session."""
        self._requests.close(connection, number)

    @property
    def wrong_secrets(self) -> int:
        """How often an ATTACH had a wrong secret since the node started."""
        return self._requests.wrong_secrets

    def query(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """Read the machine when a majority has confirmed that this node leads, and send the answer."""
        self._queries.query(connection, number, body)

    def admin(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """Carry out an operator's request, and send the answer."""
        self._queries.admin(connection, number, body)

    async def answer_admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operator's request. Raises `RequestError`."""
        return await self._directory.admin(request)

    def leader_address(self) -> str:
        """Where clients find the leader, "" if it is not known."""
        return self._directory.leader_address()

    # --- outlets: called while entries are applied -------------------------------------------------------------------

    def attach(self, session: int, attachment: int) -> None:
        """Send the session's frames to the connection that asked for the attachment. Ends an earlier one."""
        asking = self._requests.find(attachment)
        before = self._attached.pop(session, None)
        self.queues.pop(session, None)
        if before is not None and (asking is None or before is not asking.connection):
            before.superseded()
        if asking is None or asking.connection.closed:
            if asking is not None:
                self._detach(session, attachment)
            return  # who asked is gone, or asked another leader
        connection = asking.connection
        connection.attached(session, attachment)
        self._attached[session] = connection
        self._liveness.forget(session)
        self.queues[session] = connection.queue
        if connection.queue:
            self.pending.append(session)

    def detach(self, session: int) -> None:
        """The session ended or lost its attachment: forget its connection, and wake operators who wait."""
        for waiter in self._ending.pop(session, ()):
            if not waiter.done():
                waiter.set_result(None)
        self._liveness.forget(session)
        self.queues.pop(session, None)
        connection = self._attached.pop(session, None)
        if connection is not None:
            connection.session_ended()

    def expired(self, session: int, label: str) -> None:
        """Tell observers, if this node leads."""
        if self.leads:
            self._directory.session_expired(session, label)

    def detached(self, session: int) -> None:
        """The time to attach again begins here. A slow disk may have held back the entry, and the client's ATTACH
        behind it. Or the connection ended while its ATTACH was on its way into the log."""
        if self.leads:
            self._liveness.heard(session)

    def grant(self, attachment: int, index: int, session: int, timeout_ms: int) -> None:
        """Send the reply to an OPEN: session number, timeout in milliseconds, and the secret drawn for it."""
        asking = self._requests.find(attachment)
        if asking is not None:
            self.answer(attachment, Status.OK, index, frames.GRANT.pack(session, timeout_ms, asking.secret))

    def answer(self, attachment: int, status: int, index: int, body: bytes) -> None:
        """Send the reply to an OPEN, ATTACH or CLOSE to the connection that asked."""
        asking = self._requests.take(attachment)
        if asking is not None:
            asking.connection.note_answered(attachment)
            asking.connection.send(Kind.REPLY, status, asking.number, index, body)

    def node_command(self, number: int, status: int, body: bytes) -> None:
        """The machine has replied to a command of another group."""
        self._on_node_command(number, status, body)

    def forget(self, connection: ClientConnection) -> None:
        """The connection is gone. If its ATTACH is in the log, a DETACH follows it."""
        for attachment in connection.asked:
            asking = self._requests.take(attachment)
            if asking is not None and asking.session:
                self._liveness.lost(asking.session, connection.was_dropped)
                self._detach(asking.session, attachment)

    def flush(self) -> None:
        """Send what a batch of entries has queued, with one write for each connection."""
        if self.pending:
            pending, self.pending = self.pending, []
            for session in pending:
                connection = self._attached.get(session)
                if connection is not None and connection.queue:
                    connection.flush()
        if self._paused_by_log and not self.group.full():
            paused, self._paused_by_log = self._paused_by_log, []
            for connection in paused:
                connection.pause_for_log(False)

    # --- leadership and liveness -------------------------------------------------------------------------------------

    def lead(self, leads: bool) -> None:
        """Leadership has begun or ended. A new leader gives every session its full timeout again. A former one
        redirects its clients."""
        self.leads = leads
        if leads:
            self.redirect_clients()
            self._liveness.begin(self.group.sessions.table)
            self._swept_at = self.loop.time()
            self._was_out_of_touch = False
            return
        self._give_up_endings()
        self.relay.clear()
        self.queues.clear()
        self.pending.clear()
        self._attached.clear()
        self._requests.clear()
        self._paused_by_log.clear()
        self._redirecting.begin([connection for connection in list(self._connections) if connection.drain()])

    def redirect_clients(self) -> None:
        """Redirect the clients: the next leader is known, or was not found in time."""
        self._redirecting.redirect()

    def sweep(self) -> None:
        """Propose the end of sessions that were silent for longer than their timeout. Called on every tick."""
        now = self.loop.time()
        late = now - self._swept_at
        if late < SWEEP_S:
            return
        self._swept_at = now
        if not self.leads:
            return
        for connection in self._paused_by_log:
            connection.send_keepalive()
        if self.group.contact.quorum_silence_s() > self.limits.contact_s:
            self._was_out_of_touch = True
            return
        if late > STALL_S + SWEEP_S or self._was_out_of_touch:
            self._was_out_of_touch = False
            self._liveness.reset_silence(self._connections)
        for session in self._liveness.lapsed(self.group.sessions.table.values())[:EXPIRIES_AT_ONCE]:
            self._endings.write(
                log.info,
                "a session ends",
                group=self.number,
                session=session.id,
                label=session.facts.label,
                address=session.address,
                reason="its connection ended" if self._liveness.is_dropped(session.id) else "its client is silent",
            )
            self._liveness.heard(session.id)  # proposed; ask again a whole period later should it get lost
            self.group.submit(frames.envelope(Kind.EXPIRE, 0, session.id, session.attachment, 0))

    # --- for operators -----------------------------------------------------------------------------------------------

    def is_attached(self, session: int) -> bool:
        """Whether a connection carries the session now."""
        return session in self._attached

    def silent_s(self, session: int) -> float:
        """Seconds since the client was heard of. At most the time for which this node leads."""
        return self._liveness.silent_s(session)

    async def end_session(self, session: int) -> None:
        """Returns when the session is over and its client is told. Raises `NotLeader` if leadership is lost first."""
        connection = self._attached.get(session)
        ended: asyncio.Future[None] = self.loop.create_future()
        self._ending.setdefault(session, []).append(ended)
        self.group.submit(frames.envelope(Kind.CLOSE, 0, session, 0, 0))
        await ended
        if connection is not None:
            connection.refuse(SessionExpired(f"an operator ended session {session}; what it held was given back"))

    def _give_up_endings(self) -> None:
        for waiter in [waiter for waiters in self._ending.values() for waiter in waiters]:
            if not waiter.done():
                waiter.set_exception(NotLeader(self._directory.leader_address()))
        self._ending.clear()

    def close(self, error: RequestError) -> None:
        """Send a GOODBYE to all connections, and close them."""
        self.leads = False
        self.relay.clear()
        self.redirect_clients()
        self._queries.cancel()
        for connection in list(self._connections):
            connection.refuse(error)
