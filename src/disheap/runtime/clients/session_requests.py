"""Requests of clients that are about a session itself: OPEN, ATTACH and CLOSE.

Owns who asked, until the answer comes out of the log or the connection is gone. Each request has an attachment number,
which is drawn here and goes into the log. It refuses what needs no place in the log. The log decides about the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from disheap.errors import Overloaded
from disheap.logs import LineLimiter, get_logger
from disheap.protocol import frames
from disheap.protocol.frames import Attaching, Kind, Opening, SessionOptions, Status, fault
from disheap.runtime.clients.admission import PendingOpens
from disheap.runtime.clients.connection import ClientConnection
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.replica.group import Group
from disheap.runtime.state.session_table import proof_of, wrong_secret

log = get_logger(__name__)


class SessionRequestHost(Protocol):
    """The server, as these requests see it."""

    limits: ServerLimits
    lines: LineLimiter
    group: Group

    @property
    def number(self) -> int:
        """The group's number."""

    def submit(self, connection: ClientConnection, envelopes: bytes) -> None:
        """Put them into the log, on behalf of the connection."""


class Asking(NamedTuple):
    """Who asked under an attachment: the connection, its own number there, and the session if there is one yet.
    `secret` is that of an OPEN, known here alone until the client has it."""

    connection: ClientConnection
    number: int
    session: int
    secret: bytes = b""


class SessionRequests:
    """`draw` returns attachment numbers, `entropy` random bytes for secrets."""

    def __init__(self, host: SessionRequestHost, draw: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        self.wrong_secrets = 0  # since the node started
        self._host = host
        self._draw = draw  # a 63-bit number that no one draws twice
        self._entropy = entropy  # so many bytes that nobody can guess
        self._asking: dict[int, Asking] = {}  # by attachment
        self._pending_opens = PendingOpens()  # of those, who asked for a new session

    def open(self, connection: ClientConnection, number: int, options: SessionOptions) -> None:
        """Log an OPEN, unless an admission limit is reached. The reply carries the session's number and secret."""
        try:
            self._check_admission(connection)
        except Overloaded as refusal:
            connection.send(Kind.REPLY, Status.ERROR, number, 0, fault(refusal))
            return
        secret = self._entropy(frames.SECRET_BYTES)
        opening = Opening(options.timeout_ms, options.label, connection.principal, connection.address, proof_of(secret))
        self._ask(Kind.OPEN, Asking(connection, number, 0, secret), msgspec.msgpack.encode(opening))

    def _check_admission(self, connection: ClientConnection) -> None:
        """Raises `Overloaded`."""
        if not connection.is_local:
            counts = self._host.group.sessions.counts
            admission = self._host.limits.admission
            admission.check(counts, self._pending_opens, connection.address, connection.principal)

    def attach(self, connection: ClientConnection, number: int, session: int, body: bytes) -> None:
        """A wrong secret is refused here, so that guesses are not written to the log. A session that is not known here
        yet may be in the log, so whoever applies the ATTACH decides."""
        secret, held = body[: frames.SECRET_BYTES], body[frames.SECRET_BYTES :]
        claim = Attaching(connection.principal, connection.address, proof_of(secret), held)
        known = self._host.group.sessions.table.get(session)
        if known is not None and not known.belongs_to(claim):
            self.wrong_secrets += 1
            self._host.lines.write(
                log.warning,
                "somebody else's session was asked for",
                group=self._host.number,
                session=session,
                address=connection.address,
            )
            connection.send(Kind.REPLY, Status.ERROR, number, 0, fault(wrong_secret(session)))
            return
        self._ask(Kind.ATTACH, Asking(connection, number, session), msgspec.msgpack.encode(claim))

    def close(self, connection: ClientConnection, number: int) -> None:
        """Log a CLOSE of the connection's session."""
        self._ask(Kind.CLOSE, Asking(connection, number, connection.session), b"")

    def _ask(self, kind: Kind, asking: Asking, body: bytes) -> None:
        """Logged under an attachment number drawn here, answered under the client's."""
        attachment = self._draw()
        self._asking[attachment] = asking
        if asking.secret:
            self._pending_opens.add(asking.connection.address, asking.connection.principal)
        asking.connection.note_asked(attachment)
        self._host.submit(asking.connection, frames.envelope(kind, 0, asking.session, attachment, 0, body))

    def find(self, attachment: int) -> Asking | None:
        """Who asked under that number, and has no answer yet."""
        return self._asking.get(attachment)

    def take(self, attachment: int) -> Asking | None:
        """As `find`; from now on nobody waits under that number."""
        asking = self._asking.pop(attachment, None)
        if asking is not None and asking.secret:
            self._pending_opens.add(asking.connection.address, asking.connection.principal, -1)
        return asking

    def clear(self) -> None:
        """This node leads no more: nobody is answered here."""
        self._asking.clear()
        self._pending_opens = PendingOpens()
