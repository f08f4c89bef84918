"""Commands that wait for the log, until the write under way is durable (group commit). Owns their order, their size,
and how many go into one entry. Does not propose them.
"""

from __future__ import annotations

from collections import deque


class Gathering:
    """Runs of whole envelopes. `entry_bytes` bounds an entry of several runs. With more than `gather_bytes` it is full:
    the server should stop reading from clients for now."""

    __slots__ = ("_entry_bytes", "_gather_bytes", "_runs", "size_bytes")

    def __init__(self, entry_bytes: int, gather_bytes: int) -> None:
        self.size_bytes = 0
        self._entry_bytes = entry_bytes
        self._gather_bytes = gather_bytes
        self._runs: deque[bytes] = deque()

    def __bool__(self) -> bool:
        return bool(self._runs)

    @property
    def is_full(self) -> bool:
        """Whether more waits than should."""
        return self.size_bytes > self._gather_bytes

    def add(self, envelopes: bytes) -> None:
        """Put a run at the end."""
        self._runs.append(envelopes)
        self.size_bytes += len(envelopes)

    def take(self) -> bytes:
        """Returns the data of the next entry: one run, or as many as fit."""
        runs, limit = self._runs, self._entry_bytes
        pieces = [runs.popleft()]
        size = len(pieces[0])
        while runs and size + len(runs[0]) <= limit:
            piece = runs.popleft()
            size += len(piece)
            pieces.append(piece)
        self.size_bytes -= size
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def put_back(self, batch: bytes) -> None:
        """What was taken could not be proposed, and keeps its place."""
        self._runs.appendleft(batch)
        self.size_bytes += len(batch)

    def clear(self) -> None:
        """Drop everything."""
        self._runs.clear()
        self.size_bytes = 0
