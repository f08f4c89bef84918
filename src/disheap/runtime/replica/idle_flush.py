"""When the storage writes down what would have ridden on the next append (`Storage.flush`).

A storage may learn that an append was durable, and write that down only with the next append. If the process dies
before, damage of the last append looks like an append that the crash cut short. So an append that carries what a client
was promised is followed by a flush soon. Transient commands, as heartbeats of workers are, promise nothing. They get
more time, so that the next heartbeat comes first and a heartbeat does not cost a second sync.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.interfaces import Clock
from disheap.kernel.types import Entry, EntryKind
from disheap.protocol.frames import ENVELOPE, LENGTH_BYTES, Kind

FLUSH_S = 0.1
"""Without an append, after one that carried what somebody was promised."""
TRANSIENT_FLUSH_S = 3.0
"""Likewise, after one that did not. Longer than the two seconds between a worker's heartbeats."""
MAX_ENVELOPES = 1000
"""Looked at, in less than a millisecond. An append of more is taken for one that carries promises."""


class IdleFlush:
    """`appended` each durable append, then ask `is_due` on every tick: True once for each idle time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: Sequence[Entry] = ()  # of the newest append, until it was looked at
        self._appended_at: float | None = None
        self._wait_s = FLUSH_S

    def appended(self, entries: Sequence[Entry]) -> None:
        """These entries are durable. The idle time begins anew."""
        self._entries, self._appended_at, self._wait_s = entries, self._clock.monotonic(), FLUSH_S

    def is_due(self) -> bool:
        """Whether to flush now. True once for each idle time."""
        if self._appended_at is None:
            return False
        idle_s = self._clock.monotonic() - self._appended_at
        if idle_s <= self._wait_s:
            return False
        if self._entries and is_transient(self._entries):
            self._wait_s = TRANSIENT_FLUSH_S
        self._entries = ()
        if idle_s <= self._wait_s:
            return False
        self._appended_at = None
        return True


def is_transient(entries: Sequence[Entry]) -> bool:
    """Whether nobody was promised anything that these entries say: transient commands, and the passing of time."""
    count = 0
    for entry in entries:
        if entry.kind != EntryKind.COMMANDS:
            return False
        position = 0
        while position < len(entry.data):
            length, kind, _, _, seq, _ = ENVELOPE.unpack_from(entry.data, position)
            if count == MAX_ENVELOPES or seq or kind not in (Kind.COMMAND, Kind.CONTINUE):
                return False
            position += LENGTH_BYTES + length
            count += 1
    return True
