"""When a node takes a snapshot of its state, and how it writes it in the background (Raft §7).

A snapshot is due when the log since the last outweighs `max(snapshot_log_bytes, size of the last snapshot)`, or after
`raft.snapshot_threshold` entries: write amplification stays near two however large the backlog. The view is taken
between two entries. Its pieces are written one at a time: each is made when the one before is on its way to the disk.
So neither the loop nor the log's fsyncs wait long. The log is trimmed when the snapshot is durable, behind
a margin for slow peers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from disheap.errors import StorageFull
from disheap.interfaces import SnapshotWriter, Storage
from disheap.kernel.types import Entry, Index, SnapshotMeta
from disheap.logs import get_logger
from disheap.runtime.disk.thread import Disk
from disheap.runtime.replica.applying import Applier
from disheap.runtime.state.sessions import Sessions

log = get_logger(__name__)


SHORT = "the disk is nearly full"
MARKS = 64
"""The trailing log is measured in steps of one sixty-fourth of the margin."""


class SnapshotPolicy(msgspec.Struct, frozen=True):
    """When a snapshot is due, and how much log is kept behind it. From `[raft]`."""

    log_bytes: int
    entries: int
    trailing_entries: int
    trailing_bytes: int
    reserve_bytes: int = 0  # left free on the disk, for what frees room
    stagger: float = 0.0  # adds this share to the thresholds, so that the nodes do not all write at once


class Taken(NamedTuple):
    """A snapshot that is durable. The versions are those of the state that it holds."""

    meta: SnapshotMeta
    size_bytes: int
    machine_version: int
    log_version: int


OnTaken = Callable[[Taken | None, str], None]
"""Called with a durable snapshot, or with None and the reason why there is none."""


class _Run:
    """One snapshot that is being written. Results for a void one are ignored."""

    def __init__(
        self,
        meta: SnapshotMeta,
        sessions: Sessions,
        first: Index,
        at_bytes: int,
        max_bytes: int | None,
    ) -> None:
        self.meta = meta
        self.versions = (sessions.machine_version, sessions.log_version)
        self.pieces = sessions.snapshot()
        self.first = first  # the oldest entry to keep behind it
        self.at_bytes = at_bytes  # applied when it was begun
        self.max_bytes = max_bytes  # given up beyond it
        self.size = 0
        self.writer: SnapshotWriter | None = None
        self.is_void = False  # the state that it is of was replaced


class SnapshotHost(Protocol):
    """The group whose state is snapshotted, as the snapshotter sees it."""

    number: int
    applied: SnapshotMeta
    sessions: Sessions
    applier: Applier

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""

    def fail(self, error: BaseException) -> None:
        """End the group with this error. Damage starts a repair instead."""

    def snapshot_taken(self, meta: SnapshotMeta, first_index: Index, size_bytes: int) -> None:
        """A snapshot is durable. The log begins at `first_index` now."""


class Snapshotter:
    """Takes the snapshots of one group, one at a time."""

    def __init__(self, group: SnapshotHost, storage: Storage, disk: Disk, policy: SnapshotPolicy) -> None:
        self._group = group
        self._storage = storage
        self._disk = disk
        self._policy = policy
        self._run: _Run | None = None
        self._bytes_applied = 0
        self._bytes_at_snapshot = 0
        self._index_at_snapshot: int = group.applied.index
        self._last_size = 0
        self._newest: Taken | None = None  # by this object
        self._waiting: list[tuple[Index, OnTaken]] = []  # (the entry that the snapshot must hold, who waits)
        self._sizes: deque[tuple[Index, int]] = deque()  # (index, bytes applied up to it), for the trailing margin

    @property
    def running(self) -> bool:
        """Whether a snapshot is being written."""
        return self._run is not None

    @property
    def written_bytes(self) -> int:
        """How much of the present snapshot is written; 0 if none is being written."""
        return self._run.size if self._run is not None else 0

    @property
    def bytes_applied(self) -> int:
        """The size of the commands applied since this node started."""
        return self._bytes_applied

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Count the applied entries, and take a snapshot if one is due."""
        for entry in entries:
            self._bytes_applied += len(entry.data)
        self._note_size(entries[-1].index)
        if self._run is None and self._due(entries[-1].index):
            self.take()

    def _note_size(self, index: Index) -> None:
        """Note the size of the log for every step of the margin. Older notes than the margin needs are dropped."""
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
        """Take a snapshot of this moment. Does nothing while one is being written. If an entry is partly applied, it
        waits for its end. A node that joins and has not reached its own membership takes none: it would have no
        members."""
        if not self._group.applied.membership.members:
            return
        if self._group.applier.is_midway:
            self._group.applier.when_whole(self.take)
        elif self._run is None:
            self._count_from(self._bytes_applied, self._group.applied.index)
            self._take(self._trailing_index(self._group.applied.index), None)

    def take_for(self, done: OnTaken) -> Index:
        """Call `done` when a snapshot of this moment, or of a later one, is durable. It is the newest one if nothing
        was applied since. Returns the entry that the snapshot must hold."""
        wanted = self._group.applied.index
        if self._newest is not None and self._newest.meta.index >= wanted:
            done(self._newest, "")
            return wanted
        self._waiting.append((wanted, done))
        self.take()
        return wanted

    def has_begun(self, wanted: Index) -> bool:
        """Whether the moment of a snapshot that holds this entry is over: what is applied from here on is not in it."""
        begun = [one.meta.index for one in (self._newest, self._run) if one is not None]
        return any(index >= wanted for index in begun)

    def take_to_free_space(self, max_bytes: int) -> None:
        """Take a snapshot so that the whole log can be deleted. It is given up if it is larger than `max_bytes`. The
        next one is due as before, unless this one is completed."""
        if not self._group.applied.membership.members:
            return
        if self._group.applier.is_midway:
            self._group.applier.when_whole(lambda: self.take_to_free_space(max_bytes))
        elif self._run is None:
            self._take(Index(self._group.applied.index + 1), max_bytes)

    def _count_from(self, bytes_applied: int, index: Index) -> None:
        self._bytes_at_snapshot, self._index_at_snapshot = bytes_applied, index

    def _take(self, first: Index, max_bytes: int | None) -> None:
        meta = self._group.applied
        run = self._run = _Run(meta, self._group.sessions, first, self._bytes_applied, max_bytes)
        self._disk.submit(
            lambda: self._storage.begin_snapshot(meta, replaces_log=False),
            lambda writer, error: self._begun(run, writer, error),
        )

    def installed(self, meta: SnapshotMeta) -> None:
        """A leader's snapshot has replaced the state: give up the snapshot of the old one."""
        self._newest = None
        if self._run is not None:
            self._void(self._run)
        self._give_up("a leader's snapshot has replaced the state")
        self._count_from(self._bytes_applied, meta.index)
        self._sizes.clear()

    def _begun(self, run: _Run, writer: SnapshotWriter, error: BaseException | None) -> None:
        if self._is_over(run, error):
            return
        run.writer = writer
        if run.is_void:
            self._abort(run)
        else:
            self._next(run, writer)

    def _next(self, run: _Run, writer: SnapshotWriter) -> None:
        piece = next(run.pieces, None)
        if piece is None:
            self._disk.submit(
                lambda: self._commit(writer, run.first), lambda first, error: self._committed(run, first, error)
            )
            return
        run.size += len(piece)
        if run.max_bytes is not None and run.size > run.max_bytes:
            log.info(
                "no snapshot makes room yet: the state is not much smaller than what it would replace",
                group=self._group.number,
            )
            self._void(run)
            self._give_up(SHORT)
            return
        self._disk.submit(
            lambda: self._write(writer, piece), lambda free, error: self._piece_written(run, writer, free, error)
        )

    def _write(self, writer: SnapshotWriter, piece: bytes) -> int | None:
        """Returns what is free on the disk then, in bytes."""
        writer.write(piece)
        return self._storage.usage().free_bytes

    def _piece_written(
        self, run: _Run, writer: SnapshotWriter, free_bytes: int | None, error: BaseException | None
    ) -> None:
        if self._is_over(run, error) or run.is_void:
            return
        if run.max_bytes is None and free_bytes is not None and free_bytes < self._policy.reserve_bytes:
            log.error(
                "a snapshot is given up: the rest of the disk is kept for what frees room",
                group=self._group.number,
                free_bytes=free_bytes,
            )
            self._void(run)
            self._give_up(SHORT)
            return
        self._next(run, writer)

    def _commit(self, writer: SnapshotWriter, first: Index) -> Index:
        writer.commit()
        return self._storage.compact(first)

    def _committed(self, run: _Run, first_index: Index, error: BaseException | None) -> None:
        if self._is_over(run, error) or run.is_void:
            return
        self._run, self._last_size = None, run.size
        self._count_from(run.at_bytes, run.meta.index)
        log.info("snapshot taken", group=self._group.number, index=run.meta.index, bytes=run.size, log_from=first_index)
        self._newest = Taken(run.meta, run.size, *run.versions)
        self._group.snapshot_taken(run.meta, first_index, run.size)
        self._tell(self._newest)

    def _tell(self, taken: Taken) -> None:
        """Those who need a later one wait for another."""
        waiting, self._waiting = self._waiting, []
        for wanted, done in waiting:
            if taken.meta.index >= wanted:
                done(taken, "")
            else:
                self._waiting.append((wanted, done))
        if self._waiting:
            self.take()

    def _give_up(self, reason: str) -> None:
        """Nobody waits in vain: a snapshot that was given up is not tried again before it is due."""
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            done(None, reason)

    def _void(self, run: _Run) -> None:
        self._run, run.is_void = None, True
        self._abort(run)

    def _abort(self, run: _Run) -> None:
        if run.writer is not None:
            self._disk.submit(run.writer.abort, self._aborted)

    def _aborted(self, _: None, error: BaseException | None) -> None:
        self._stopped(error)

    def _trailing_index(self, at: Index) -> Index:
        """The oldest entry to keep: the margin saves a follower that lags a little from a whole snapshot."""
        keep = max(0, at - self._policy.trailing_entries)
        for index, size in self._sizes:
            if self._bytes_applied - size > self._policy.trailing_bytes:
                keep = max(keep, index)
        return Index(min(keep, at) + 1)

    def _is_over(self, run: _Run, error: BaseException | None) -> bool:
        """The disk is full: the earlier snapshot and the whole log stay. The next snapshot is tried when it is due."""
        if self._stopped(error):
            return True
        if error is None:
            return False
        log.error("a snapshot is given up", group=self._group.number, index=run.meta.index, reason=str(error))
        if self._run is run:
            self._run = None
            self._give_up(str(error))
        return True

    def _stopped(self, error: BaseException | None) -> bool:
        if error is not None and not isinstance(error, StorageFull):
            self._group.fail(error)
        return not self._group.is_running
