"""When to ping, and when to give a connection up; with the other times that both drivers keep, and why.

Silence counts only from a ping on: an application that did not call for a while has heard nothing because it asked
nothing, and its connection is as good as ever.
"""

from __future__ import annotations

PINGS_PER_TIMEOUT = 3
"""A PING every third of the session timeout: two may be lost before the node gives up on us."""
SILENCES_PER_TIMEOUT = 2
"""No byte for half of the session timeout: the connection is dead, and there is time to find another."""
ENTRY_TIMEOUT_S = 5.0
"""From the connection to an attached session. A node that leads nobody answers pings, but never this."""
RETRY_FIRST_S = 0.01
RETRY_MAX_S = 0.5
"""The pause before what the node put off is sent again; it doubles while the node says no."""
CLOSE_TIMEOUT_S = 2.0
"""How long `close` waits for the end of the session to be logged; without it the session ends by its timeout."""


def ping_every_s(session_timeout_ms: int) -> float:
    return session_timeout_ms / 1000 / PINGS_PER_TIMEOUT


class Pulse:
    """Of one connection. Times are the caller's, in seconds."""

    __slots__ = ("_doubt_s", "_pinged_at", "_spoke_at", "_unanswered_since", "every_s", "patience_s")

    def __init__(self, session_timeout_ms: int, now: float) -> None:
        self._spoke_at = self._pinged_at = now
        self._unanswered_since: float | None = None
        self.set_timeout(session_timeout_ms)

    def set_timeout(self, session_timeout_ms: int) -> None:
        """The node has granted another than we asked for."""
        self.every_s = ping_every_s(session_timeout_ms)
        self.patience_s = session_timeout_ms / 1000 / SILENCES_PER_TIMEOUT - self.every_s  # the ping came late enough
        self._doubt_s = 2 * self.every_s

    def heard(self) -> None:
        self._unanswered_since = None

    def spoke(self, now: float) -> None:
        """Something was sent: the node knows that we live."""
        self._spoke_at = now

    def quiet_s(self, now: float) -> float:
        """Since we last spoke."""
        return now - self._spoke_at

    def doubtful(self, now: float) -> bool:
        """We said nothing for so long that the session may be over, and only an ATTACH tells: a node answers pings of
        those without a session too."""
        return now - self._spoke_at > self._doubt_s

    def due(self, now: float) -> bool:
        """Whether to ping now; a True is taken as done."""
        if now - self._pinged_at < self.every_s:
            return False
        self._pinged_at = now
        if self._unanswered_since is None:
            self._unanswered_since = now
        return True

    def dead(self, now: float) -> bool:
        return self._unanswered_since is not None and now - self._unanswered_since > self.patience_s
