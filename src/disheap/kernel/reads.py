"""Linearizable reads without a log entry (ReadIndex; dissertation §6.4).

Owns the rounds of heartbeats that confirm leadership after a read came in. Round numbers only grow and belong to the
kernel. So a caller that reuses a context cannot confirm a read with an old round (pitfall 16). Reads that arrive
between two `Ready`s share a round.
"""

from __future__ import annotations

from collections import deque

from disheap.kernel.outbox import Outbox
from disheap.kernel.types import Index, Read


class ReadRounds:
    """The reads that wait for a quorum, in rounds of heartbeats."""

    def __init__(self) -> None:
        self.round = 0  # the last one opened; heartbeats carry it
        self._arrived: list[int] = []
        self._open: deque[tuple[int, Index, list[int]]] = deque()

    @property
    def has_arrived(self) -> bool:
        """Whether reads wait for the next round."""
        return bool(self._arrived)

    @property
    def is_open(self) -> bool:
        """Whether a round is not confirmed yet."""
        return bool(self._open)

    def add(self, context: int) -> None:
        """A read came in. `context` names it in the answer."""
        self._arrived.append(context)

    def open(self, commit: Index) -> None:
        """All that arrived may be answered at `commit`, once this round is confirmed by a quorum."""
        self.round += 1
        self._open.append((self.round, commit, self._arrived))
        self._arrived = []

    def confirm(self, round: int, outbox: Outbox) -> None:
        """A quorum has confirmed `round`. Answer its reads and those of earlier rounds."""
        while self._open and self._open[0][0] <= round:
            _, index, contexts = self._open.popleft()
            outbox.reads += [Read(context, index, True) for context in contexts]

    def lose(self, outbox: Outbox) -> None:
        """Leadership is over: every read is answered, and none of them well."""
        for _, index, contexts in self._open:
            outbox.reads += [Read(context, index, False) for context in contexts]
        outbox.reads += [Read(context, Index(0), False) for context in self._arrived]
        self._open.clear()
        self._arrived = []
