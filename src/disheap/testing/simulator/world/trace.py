"""What happened, in words, and one hash of it all.

Logical events only: times, names, indexes, outcomes; no object ids, no hash order. Two runs of one seed have one hash.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from disheap.testing.simulator.world.loop import OWNER, SimLoop

KEPT = 4000
"""Lines that a failure shows at most; all of them count for the hash."""


class Trace:
    """The lines of a run, their hash, and the number of faults of each kind."""

    def __init__(self, loop: SimLoop, keep_all: bool = False) -> None:
        self.lines: deque[str] = deque(maxlen=None if keep_all else KEPT)
        self.counts: dict[str, int] = {}
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, who: str, what: str) -> None:
        """Adds a line. It counts for the hash."""
        line = f"{self._loop.now:11.6f} {who:<8} {what}"
        self.lines.append(line)
        self._hash.update(line.encode())

    def fault(self, kind: str, who: str, what: str = "") -> None:
        """Adds a line for a fault, and counts it by its kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.add(who, f"** {kind}{': ' if what else ''}{what}")

    def note(self, who: str, what: str) -> None:
        """For people alone: it does not count for the hash."""
        self.lines.append(f"{self._loop.now:11.6f} {who:<8}    {what}")

    def digest(self) -> str:
        """The hash of all lines so far. Equal runs have equal hashes."""
        return self._hash.hexdigest()


@contextmanager
def product_logs_in(trace: Trace) -> Iterator[None]:
    """What the product logs meanwhile stands in the trace, at its place and under its node's name."""

    class Into(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            owner = OWNER.get()
            said = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
            words = [str(said.get("event"))] + [f"{key}={said[key]}" for key in said if key not in _NOT_SHOWN]
            trace.note(owner.name if owner else "", " ".join(words))

    logger, handler = logging.getLogger("disheap"), Into()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


_NOT_SHOWN = ("event", "level", "timestamp", "exc_info")
