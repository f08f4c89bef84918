"""When each client was last heard of, and which sessions have lapsed, on a node that leads. Owns the times of sessions
that have no connection. The others' times are in their connections. It decides how long a session may be silent. The
server proposes the end of a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from disheap.runtime.clients.connection import ClientConnection
from disheap.runtime.state.session_table import Session


class Liveness:
    """`attached` has the connection of each session that has one. `takeover_s` is from the election of a leader until
    the clients of the one before have come over."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, attached: Mapping[int, ClientConnection], takeover_s: float
    ) -> None:
        self._loop = loop
        self._attached = attached
        self._takeover_s = takeover_s
        self._heard: dict[int, float] = {}  # of sessions without a connection
        self._dropped: dict[int, None] = {}  # those whose connection ended without a GOODBYE
        self._led_since = 0.0

    def begin(self, sessions: Iterable[int]) -> None:
        """This node leads from now on. Every session has its full time again."""
        self._led_since = self._loop.time()
        self._heard = dict.fromkeys(sessions, self._led_since)
        self._dropped.clear()

    def lost(self, session: int, was_dropped: bool) -> None:
        """The session's connection is gone. The time until the session lapses begins now. It is short if the client
        `was_dropped`: its process may be gone as well."""
        self._heard[session] = self._loop.time()
        if was_dropped:
            self._dropped[session] = None
        else:
            self._dropped.pop(session, None)

    def heard(self, session: int) -> None:
        """The client was heard of. The session's time begins again."""
        self._heard[session] = self._loop.time()

    def forget(self, session: int) -> None:
        """The session has a connection now, or is over."""
        self._heard.pop(session, None)
        self._dropped.pop(session, None)

    def reset_silence(self, connections: Iterable[ClientConnection]) -> None:
        """This node stood still, or was cut off from a majority. So every session gets its full time again. The clients
        may have been cut off, too, and may have found no other leader."""
        now = self._loop.time()
        for connection in connections:
            connection.reset_silence(now)
        self._heard = dict.fromkeys(self._heard, now)

    def lapsed(self, sessions: Iterable[Session]) -> list[Session]:
        """Returns the sessions that were silent for longer than they may be."""
        now = self._loop.time()
        return [session for session in sessions if now - self._last_heard(session.id, now) > self._allowed_s(session)]

    def silent_s(self, session: int) -> float:
        """Seconds since the client was heard of. At most the time for which this node leads."""
        now = self._loop.time()
        return now - self._last_heard(session, now)

    def is_dropped(self, session: int) -> bool:
        """Whether the client's connection ended without a GOODBYE."""
        return session in self._dropped

    def _allowed_s(self, session: Session) -> float:
        """How long the session may be silent now, in seconds."""
        facts, number = session.facts, session.id
        if number in self._attached:
            return facts.timeout_ms / 1000
        if number in self._dropped:
            return facts.reattach_ms / 1000
        if self._heard.get(number, 0.0) > self._led_since:
            return facts.timeout_ms / 1000
        return max(facts.timeout_ms / 1000, self._takeover_s)  # the former leader may still have its client

    def _last_heard(self, session: int, now: float) -> float:
        connection = self._attached.get(session)
        if connection is None:
            return self._heard.setdefault(session, now)
        if connection.paused_by_log or connection.is_local:
            return now  # it is we who do not listen, or it lives as long as this process
        return max(connection.heard, self._heard.get(session, 0.0))
