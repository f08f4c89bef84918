"""When a node snapshots its state, and how it goes on meanwhile (Raft §7; design.md, section 6).

A snapshot is due when the log since the last outweighs `max(snapshot_log_bytes, size of the last snapshot)`, or after
`snapshot_entries`: write amplification stays near two however large the backlog. The view is taken between two entries;
its pieces are written one at a time, each handed over when the one before is on its way to the disk, so that neither
the loop nor the log's fsyncs wait long. Only when the snapshot is durable is the log trimmed, behind a margin for slow
peers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from disheap.errors import StorageFull
from disheap.interfaces import SnapshotWriter, Storage
from disheap.kernel.types import Entry, Index, SnapshotMeta
from disheap.logs import get_logger
from disheap.runtime.disk import Disk

if TYPE_CHECKING:
    from disheap.runtime.group import Group

log = get_logger(__name__)


MARKS = 64
"""Into so many parts the trailing margin is divided: it is kept to within a sixty-fourth."""


class SnapshotPolicy(msgspec.Struct, frozen=True):
    log_bytes: int
    entries: int
    trailing_entries: int
    trailing_bytes: int
    stagger: float = 0.0  # adds this share to the thresholds, so that the nodes do not all write at once


class Snapshotter:
    def __init__(self, group: Group, storage: Storage, disk: Disk, policy: SnapshotPolicy) -> None:
        self._group = group
        self._storage = storage
        self._disk = disk
        self._policy = policy
        self._pieces: Iterator[bytes] | None = None
        self._meta: SnapshotMeta = group.applied
        self._writer: SnapshotWriter | None = None
        self._bytes_applied = 0
        self._bytes_at_snapshot = 0
        self._index_at_snapshot: int = group.applied.index
        self._first = Index(1)  # the oldest entry to keep behind the snapshot that is being written
        self._last_size = 0
        self._size = 0
        self._sizes: deque[tuple[Index, int]] = deque()  # (index, bytes applied up to it), for the trailing margin

    @property
    def running(self) -> bool:
        return self._pieces is not None

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Count what was applied; start when one is due."""
        for entry in entries:
            self._bytes_applied += len(entry.data)
        self._note_size(entries[-1].index)
        if self._pieces is None and self._due(entries[-1].index):
            self.take()

    def _note_size(self, index: Index) -> None:
        """A mark in the log for every part of the margin, and none older than the margin needs."""
        sizes, margin = self._sizes, self._policy.trailing_bytes
        if not sizes or self._bytes_applied - sizes[-1][1] >= margin // MARKS:
            sizes.append((index, self._bytes_applied))
        while len(sizes) > 1 and self._bytes_applied - sizes[1][1] > margin:
            sizes.popleft()

    def _due(self, index: int) -> bool:
        factor = 1.0 + self._policy.stagger
        log_bytes = self._bytes_applied - self._bytes_at_snapshot
        if log_bytes > max(self._policy.log_bytes, self._last_size) * factor:
            return True
        return index - self._index_at_snapshot > self._policy.entries * factor

    def take(self) -> None:
        """Take a view of this moment and write it out. Nothing if one is being written."""
        if self._pieces is not None:
            return
        self._meta = self._group.applied
        self._pieces = self._group.sessions.snapshot()
        self._size = 0
        self._bytes_at_snapshot, self._index_at_snapshot = self._bytes_applied, self._meta.index
        self._first = self._trailing_index()
        meta = self._meta
        self._disk.submit(lambda: self._storage.begin_snapshot(meta, replaces_log=False), self._begun)

    def installed(self, meta: SnapshotMeta) -> None:
        """The state was replaced by a leader's snapshot: a view of the old one is of no use."""
        self._pieces = None
        writer, self._writer = self._writer, None
        if writer is not None:
            self._disk.submit(writer.abort, self._aborted)
        self._bytes_at_snapshot, self._index_at_snapshot = self._bytes_applied, meta.index
        self._sizes.clear()

    def _begun(self, writer: SnapshotWriter, error: BaseException | None) -> None:
        if self._stopped(error) or self._is_given_up(error):
            return
        if self._pieces is None:
            self._disk.submit(writer.abort, self._aborted)
            return
        self._writer = writer
        self._next()

    def _next(self) -> None:
        pieces, writer = self._pieces, self._writer
        if pieces is None or writer is None:
            return
        piece = next(pieces, None)
        if piece is not None:
            self._size += len(piece)
            self._disk.submit(lambda: writer.write(piece), self._piece_written)
            return
        first = self._first
        self._disk.submit(lambda: self._commit(writer, first), self._committed)

    def _piece_written(self, _: None, error: BaseException | None) -> None:
        if not self._stopped(error) and not self._is_given_up(error):
            self._next()

    def _commit(self, writer: SnapshotWriter, first: Index) -> Index:
        writer.commit()
        return self._storage.compact(first)

    def _committed(self, first_index: Index, error: BaseException | None) -> None:
        if self._stopped(error) or self._is_given_up(error) or self._pieces is None:
            return
        self._pieces, self._writer, self._last_size = None, None, self._size
        log.info("snapshot taken", index=self._meta.index, bytes=self._size, log_from=first_index)
        self._group.snapshot_taken(self._meta, first_index)

    def _trailing_index(self) -> Index:
        """The oldest entry to keep: the margin saves a follower that lags a little from a whole snapshot."""
        keep = max(0, self._meta.index - self._policy.trailing_entries)
        for index, size in self._sizes:
            if self._bytes_applied - size > self._policy.trailing_bytes:
                keep = max(keep, index)
        return Index(min(keep, self._meta.index) + 1)

    def _aborted(self, _: None, error: BaseException | None) -> None:
        self._stopped(error)

    def _is_given_up(self, error: BaseException | None) -> bool:
        """A disk without room for it keeps the snapshot before and the whole log. The next is tried when it is due."""
        if error is None:
            return False
        log.error("a snapshot is given up", index=self._meta.index, reason=str(error))
        self._pieces = self._writer = None
        return True

    def _stopped(self, error: BaseException | None) -> bool:
        if error is not None and not isinstance(error, StorageFull):
            self._group.fail(error)
        return self._group.failure is not None
