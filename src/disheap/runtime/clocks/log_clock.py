"""Time: the machine's own clock, and the time that goes into the log (docs/explanation/architecture.md, "Time").

Every replica must agree on every deadline, so time is in the entries. Within a term it follows the leader's monotonic
clock from `max(last time in the log, wall clock)` at its election. It is slewed towards the wall clock by at most a
tenth, and never stands still. A wall clock that is not believed (`clock_check`) moves it neither at the election nor
later: then it follows the monotonic clock alone.
"""

from __future__ import annotations

import time

from disheap.interfaces import Clock

SLEW = 0.1
"""The most by which log time runs faster or slower than the monotonic clock: a minute off is made good in ten."""


class SystemClock:
    """The operating system's clocks."""

    monotonic = staticmethod(time.monotonic)
    """Returns seconds of a clock that never goes back. Asked ten times for each command."""

    def wall_ms(self) -> int:
        """Returns the wall clock, in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000


class LogClock:
    """`time_ms` for the entries of one leader. Of no use until `begin_term`."""

    def __init__(self, clock: Clock) -> None:
        self.follows_wall = True
        self._clock = clock
        self._time_ms = 0.0
        self._read_at = 0.0

    def begin_term(self, last_time_ms: int, follows_wall: bool = True, others_ms: int = 0) -> int:
        """Start a term as leader after a log that ends at `last_time_ms`. Returns the jump (ms) that the log makes. An
        empty log has no time to go on from. If the wall clock is not believed, such a log begins at `others_ms`."""
        self.follows_wall = follows_wall
        first_ms = others_ms if not last_time_ms else 0
        self._time_ms = float(max(last_time_ms, self._clock.wall_ms() if follows_wall else first_ms))
        self._read_at = self._clock.monotonic()
        return int(self._time_ms) - last_time_ms if last_time_ms else 0

    def now_ms(self) -> int:
        """Returns the time for the next entry, in milliseconds. Never less than the one before."""
        read_at = self._clock.monotonic()
        elapsed_ms = (read_at - self._read_at) * 1000
        self._read_at = read_at
        behind_ms = self._clock.wall_ms() - (self._time_ms + elapsed_ms) if self.follows_wall else 0.0
        most = elapsed_ms * SLEW
        self._time_ms += elapsed_ms + min(max(behind_ms, -most), most)
        return int(self._time_ms)
