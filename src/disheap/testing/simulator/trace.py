"""What happened, in words, and one hash of it all.

Logical events only: times, names, indexes, outcomes; no object ids, no hash order. Two runs of one seed have one hash.
"""

from __future__ import annotations

import hashlib
from collections import deque

from disheap.testing.simulator.loop import SimLoop

KEPT = 4000
"""Lines that a failure shows at most; all of them count for the hash."""


class Trace:
    def __init__(self, loop: SimLoop, keep_all: bool = False) -> None:
        self.lines: deque[str] = deque(maxlen=None if keep_all else KEPT)
        self.counts: dict[str, int] = {}
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, who: str, what: str) -> None:
        line = f"{self._loop.now:11.6f} {who:<8} {what}"
        self.lines.append(line)
        self._hash.update(line.encode())

    def fault(self, kind: str, who: str, what: str = "") -> None:
        """The same, counted by kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.add(who, f"** {kind}{': ' if what else ''}{what}")

    def note(self, who: str, what: str) -> None:
        """For people alone: it does not count for the hash."""
        self.lines.append(f"{self._loop.now:11.6f} {who:<8}    {what}")

    def digest(self) -> str:
        return self._hash.hexdigest()
