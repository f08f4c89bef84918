"""When to ping a node, and when to give it up; with the other times that both drivers keep, and why.

A node answers a ping at once, whatever else it does. A ping without an answer, and without any other byte, means that
the node, its machine or the way to it has failed. Then the client looks for another node. An election takes one to two
seconds, and a client should not need longer than the election. That is why pings are frequent.

Only time in which the client listened counts as the node's silence. An application that calls nothing for a while, or
keeps the loop busy, has no answer because it did not look. So the time between two checks counts up to a bound, and it
takes several checks to give a node up.

All times scale with the session timeout, down from the ones below.
"""

from __future__ import annotations

from enum import Enum

PING_EVERY_S = 0.75
"""A PING after so long without a byte from the node. 1,000 idle clients send their node 1,300 pings a second,
which cost it 2 percent of a processor."""
SILENCE_MAX_S = 1.0
"""A ping without an answer for so long: the node is given up, at most 2 s after its last byte. This is well above any
pause that a node makes (50 ms) and the loss of one packet (200 ms to send it again)."""
PARTS_OF_TIMEOUT = 6
"""Each of the two above is at most this part of the session timeout, so that four more such failures fit into it."""
KEEP_PARTS = 3
"""The client writes something every third of the session timeout: two may be lost before the node gives it up."""
CHECK_EVERY_S = 0.25
"""How often drivers check, at least twice for each silence."""
SLOWEST_BYTES_PER_S = 1_000_000
SMALL_BYTES = 64 << 10
"""A node cannot answer what has not arrived yet. Bytes written since then, beyond the second of these, prolong the wait
by their time on such a link. The wait grows by a third of the session timeout at most."""
ATTACH_TIMEOUT_MAX_S = 5.0
"""From the connection to an attached session, at most a third of the session timeout. A node that has lost its
followers answers pings, but attaches no session."""
RETRY_FIRST_S = 0.01
RETRY_MAX_S = 0.5
"""The pause before what the node put off is sent again. It doubles while the node says no."""
RETRY_QUIET_S = 1.0
"""The pause begins with the first again when the node has put nothing off for so long: twice the longest."""
CLOSE_TIMEOUT_S = 2.0
"""How long `close` waits for the end of the session to be logged. Without it the session ends by its timeout."""


class Verdict(Enum):
    """The result of a check: do nothing, send a PING, or give the node up."""

    FINE = "fine"
    PING = "ping"
    SILENT = "silent"


class KeepAlive:
    """The keepalive of one connection. The caller passes the time, in seconds."""

    __slots__ = (
        "_checked_at",
        "_has_heard",
        "_heard_at",
        "_is_waiting",
        "_keep_s",
        "_silent_s",
        "_unheard_bytes",
        "_wrote_at",
        "attach_timeout_s",
        "check_every_s",
        "ping_every_s",
        "silence_s",
    )

    def __init__(self, session_timeout_ms: int, now: float) -> None:
        self._wrote_at = self._heard_at = self._checked_at = now
        self._has_heard = False  # since the last check
        self._is_waiting = False  # for the answer to a ping
        self._silent_s = 0.0  # of that wait, what counts
        self._unheard_bytes = 0  # written since the last byte came
        self.set_timeout(session_timeout_ms)

    def set_timeout(self, session_timeout_ms: int) -> None:
        """The node has granted another session timeout than the client asked for."""
        timeout_s = session_timeout_ms / 1000
        self.ping_every_s = min(PING_EVERY_S, timeout_s / PARTS_OF_TIMEOUT)
        self.silence_s = min(SILENCE_MAX_S, timeout_s / PARTS_OF_TIMEOUT)
        self.check_every_s = min(CHECK_EVERY_S, self.silence_s / 2)
        self.attach_timeout_s = min(ATTACH_TIMEOUT_MAX_S, timeout_s / 3)
        self._keep_s = timeout_s / KEEP_PARTS

    def heard(self) -> None:
        """Something came from the node."""
        self._has_heard, self._is_waiting = True, False
        self._unheard_bytes = 0

    def progressed(self) -> None:
        """The node's machine takes what waits to be sent. It cannot answer before it has all."""
        self._silent_s = 0.0

    def wrote(self, now: float, size: int = 0) -> None:
        """`size` bytes were written: the node knows that the client lives."""
        self._wrote_at = now
        self._unheard_bytes += size

    def unwritten_s(self, now: float) -> float:
        """The time since the client last wrote."""
        return now - self._wrote_at

    def may_have_lapsed(self, now: float) -> bool:
        """Whether the client wrote nothing for so long that the session may be over. Only an ATTACH tells: a node also
        answers pings of clients without a session."""
        return now - self._wrote_at > 2 * self._keep_s

    def check(self, now: float) -> Verdict:
        """Call it every `check_every_s` or so, after what has come was read. The caller sends the PING it asks for."""
        listened_s = min(now - self._checked_at, self.silence_s / 2)
        self._checked_at = now
        if self._has_heard:
            self._has_heard, self._heard_at = False, now
        if self._is_waiting:
            self._silent_s += listened_s
            return Verdict.SILENT if self._silent_s >= self._patience_s() else Verdict.FINE
        if now - self._heard_at >= self.ping_every_s or now - self._wrote_at >= self._keep_s:
            self._is_waiting, self._silent_s = True, 0.0
            return Verdict.PING
        return Verdict.FINE

    def check_in_s(self, now: float) -> float:
        """Seconds until the next check has something to do."""
        if self._is_waiting:
            return max(0.0, self._checked_at + self.silence_s / 2 - now)
        if self._has_heard:
            return self.ping_every_s
        return max(0.0, min(self._heard_at + self.ping_every_s, self._wrote_at + self._keep_s) - now)

    def is_silent(self, now: float) -> bool:
        """Check during a write, when no PING can be sent. The written bytes should be answered as well."""
        if not self._is_waiting:
            self._is_waiting, self._silent_s = True, 0.0
        return self.check(now) is Verdict.SILENT

    def _patience_s(self) -> float:
        large = max(0, self._unheard_bytes - SMALL_BYTES)
        return self.silence_s + min(large / SLOWEST_BYTES_PER_S, self._keep_s)
