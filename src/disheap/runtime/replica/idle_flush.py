"""Flushes the storage when no append follows (`Storage.flush`).

A storage may record that an append was durable only with the next append. If the process dies before that, damage of
the last append looks like a torn append. So an append with confirmed commands is followed by a flush soon. Transient
commands, such as heartbeats of workers, are not confirmed. They get more time, so that the next heartbeat comes first.
Then a heartbeat does not cost a second sync.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.interfaces import Clock
from disheap.kernel.types import Entry, EntryKind
from disheap.protocol.frames import ENVELOPE, LENGTH_BYTES, Kind

FLUSH_S = 0.1
"""Idle time before a flush, after an append with confirmed commands."""
TRANSIENT_FLUSH_S = 3.0
"""Idle time after an append without confirmed commands. It is longer than the two seconds between a worker's
heartbeats."""
MAX_ENVELOPES = 1000
"""Envelopes that are checked, in less than a millisecond. A larger append counts as one with confirmed commands."""


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
    """Whether the entries hold no confirmed command: only transient commands and the passing of time."""
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
