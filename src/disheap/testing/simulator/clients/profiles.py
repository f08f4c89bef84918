"""Which operations the simulated clients of a heap prefer, and how much they may do in one run."""

from __future__ import annotations

READING = frozenset({"_peek", "_ask", "_watch"})
TAKING = frozenset({"_subscribe", "_pop", "_set_credit", "_overtake", "_settle_stale"})
BRINGING = frozenset({"_enqueue", "_pipeline", "_enqueue_many"})
PROFILES: tuple[frozenset[str], ...] = (frozenset(), frozenset(), READING, TAKING, BRINGING)
"""What a client does five times as often as others; the first ones, nothing."""
BROUGHT = BRINGING | {
    "_batch",
    "_prepare",
    "_publish",
    "_fan_out",
    "_publish_by_words",
    "_cast",
    "_call_out",
    "_exclusive_topic",
    "_set_barrier",
}
MAX_BROUGHT = 480
"""Messages of one run: one command sets off 512 deliveries at most, the rest later; the reference does all at once."""
TOLD_S = 5.0
"""Within which a lapsed session's consumers hear of it."""
