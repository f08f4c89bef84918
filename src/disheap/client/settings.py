"""The times that both drivers keep, with the reasons for them."""

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


def silence_s(session_timeout_ms: int) -> float:
    return session_timeout_ms / 1000 / SILENCES_PER_TIMEOUT
