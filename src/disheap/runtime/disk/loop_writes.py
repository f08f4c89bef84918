"""Decides whether the next write of the log is made on the loop's thread. Owns the times of recent writes. Does not
write. One command at a time is bound by the way to the disk's thread and back. Two thread switches, two wake-ups and
the interpreter lock cost about a third of the write itself. So a single command is written on the loop, where the
storage allows that. Several commands at once are written on the thread: the loop takes in the next ones meanwhile.

The loop stands still while it writes. How long a write takes is not known before, so the times of the last writes
decide. Writes go to the thread until `QUICK_WRITES` in a row took less than `QUICK_S` each. One that took longer than
`STALL_S` sends them to the thread for a time, which doubles with each such write. So a disk that is slow now and then
stops the loop once a minute at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.interfaces import Clock
from disheap.kernel.types import Entry, EntryKind
from disheap.protocol.frames import ENVELOPE, LENGTH_BYTES

QUICK_S = 0.002
"""A sync of a solid-state disk takes 0.1 to 1 ms. If it takes longer than this, the two thread switches matter
little."""
QUICK_WRITES = 16
STALL_S = 0.02
"""Nothing may stop the loop for more than 50 ms. A disk that comes near that is left to the thread for a while."""
REST_FIRST_S, REST_MAX_S = 0.25, 60.0
"""After one stop. The time starts at the first again when no write was slow for the longest."""
MAX_BYTES = 16 << 10
"""The size of one command. A larger one takes longer to compress and to copy than the way to the thread."""


class LoopWrites:
    """Ask `allows` before a write, and tell `took` after it, whichever thread made it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._quick = 0  # writes in a row
        self._closed_until = 0.0  # 0: it is not closed
        self._rest_s = REST_FIRST_S
        self._stalled_at = float("-inf")

    def allows(self, entries: Sequence[Entry]) -> bool:
        """Whether these are one command, and the disk has been quick."""
        if self._quick < QUICK_WRITES or not is_single_command(entries):
            return False
        if self._closed_until:
            if self._clock.monotonic() < self._closed_until:
                return False
            self._closed_until = 0.0
        return True

    def took(self, seconds: float) -> None:
        """A write of whatever size took so long, without waiting for the thread."""
        if seconds < QUICK_S:
            self._quick += 1
            return
        self._quick = 0
        if seconds >= STALL_S:
            self._rest()

    def _rest(self) -> None:
        now = self._clock.monotonic()
        if now - self._stalled_at > REST_MAX_S + self._rest_s:
            self._rest_s = REST_FIRST_S
        self._stalled_at = now
        self._closed_until = now + self._rest_s
        self._rest_s = min(2 * self._rest_s, REST_MAX_S)


def is_single_command(entries: Sequence[Entry]) -> bool:
    """Whether the entries are one envelope that is not large."""
    if len(entries) != 1:
        return False
    entry = entries[0]
    size = len(entry.data)
    if entry.kind != EntryKind.COMMANDS or not ENVELOPE.size <= size <= MAX_BYTES:
        return False
    return bool(ENVELOPE.unpack_from(entry.data)[0] + LENGTH_BYTES == size)
