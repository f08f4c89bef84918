"""Reads the stored bytes in the background (storage-rules 10). Rot that is found early is still on one node alone.

Owns the rate. A pass over everything begins `scrub_interval_s` after the last one began. The start reads everything, so
it counts as a pass. It reads a small piece at a time on the disk's thread, never two at once, and at most
`scrub_bytes_per_s`. So an append seldom waits, and for one piece at most. Does not know files and formats.

Damage is handled as at run time: the log is opened again and repaired from the other nodes. A node without others
cannot do that, and would not start again. But its state in memory is whole. So it continues, logs the damage at every
pass, and takes a snapshot. Then the damaged file is deleted with the log that the snapshot stands for.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from disheap.errors import LogDamaged, SnapshotDamaged, StorageError, StorageFull
from disheap.interfaces import Scrubbable, Scrubbed, Storage
from disheap.logs import get_logger
from disheap.runtime.disk.thread import Disk

log = get_logger(__name__)

PIECE_BYTES = 256 << 10
"""Read at once: about 2 ms of a slow disk, which is what an append may have to wait."""


class Snapshots(Protocol):
    """Takes the snapshots of a group."""

    def take(self) -> None:
        """Take a snapshot of the present state. Does nothing while one is being written."""


class Group(Protocol):
    """The group whose storage is read."""

    @property
    def snapshotter(self) -> Snapshots:
        """Takes the snapshots of this group."""

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""


class Host(Protocol):
    """What scrubbing asks of its replica."""

    number: int

    @property
    def group(self) -> Group:
        """The present group of the replica."""

    def storage(self) -> Storage:
        """Returns the open storage."""

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory."""

    def is_alone(self) -> bool:
        """Whether the cluster has one member."""

    def damage_found(self, error: StorageError) -> None:
        """Start a repair from the other nodes."""

    def note_damage(self, what: str) -> None:
        """Tell observers what is damaged."""

    def failed(self, error: BaseException) -> None:
        """End the node with this error."""


class Scrubber:
    """Reads the stored bytes of one replica, at most `bytes_per_s`, and reports damage. 0 switches it off."""

    def __init__(self, host: Host, bytes_per_s: int, interval_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._bytes_per_s, self._interval_s = bytes_per_s, interval_s
        self._loop = loop
        self._started_at = loop.time()  # the opening read everything
        self._next_at = self._started_at + interval_s
        self._cursor: tuple[int, ...] = ()
        self._reading: Storage | None = None
        self._read_bytes = 0
        self._counts: dict[str, Any] = {"passes": 0, "bytes": 0, "damaged": 0}

    def status(self) -> dict[str, Any]:
        """`passes` that were completed, `bytes` read in all, `damaged` places found; since the start."""
        return dict(self._counts)

    def tick(self) -> None:
        """Read the next piece if it is due. Called on every tick."""
        group = self._host.group
        if self._reading is not None or self._loop.time() < self._next_at or not self._bytes_per_s:
            return
        storage = self._host.storage()
        if not isinstance(storage, Scrubbable) or not group.is_running:
            return
        if not self._cursor:
            self._started_at = self._loop.time()
        self._reading, cursor = storage, self._cursor

        def done(result: Scrubbed | None, error: BaseException | None) -> None:
            if self._reading is storage:
                self._reading = None
                self._read(result, error)

        self._host.disk().submit(lambda: storage.scrub(cursor, PIECE_BYTES), done)

    def release_storage(self) -> None:
        """Ignore the read that is under way, and start again: the storage is closed, or was opened again."""
        self._reading = None
        self._restart()

    def _read(self, result: Scrubbed | None, error: BaseException | None) -> None:
        if isinstance(error, LogDamaged | SnapshotDamaged):
            self._damaged(error)
        elif result is None:
            self._failed(error)
        else:
            self._continue(result)

    def _continue(self, result: Scrubbed) -> None:
        self._counts["bytes"] += result.bytes
        self._cursor = result.cursor
        if result.mended:
            self._counts["damaged"] += 1
            self._host.note_damage(result.mended)
            log.warning(
                "the disk had lost data that is stored twice; it was written again",
                group=self._host.number,
                reason=result.mended,
            )
        if result.cursor:
            self._next_at = self._loop.time() + result.bytes / self._bytes_per_s
        else:
            self._counts["passes"] += 1
            self._next_at = max(self._loop.time(), self._started_at + self._interval_s)

    def _damaged(self, error: LogDamaged | SnapshotDamaged) -> None:
        self._counts["damaged"] += 1
        self._host.note_damage(str(error))
        self._restart()
        if self._host.is_alone():
            log.error(
                "the disk has lost data that no other node has",
                advice="let clients drain the queues: this node goes on and takes a snapshot, but does not start again "
                "before the damaged file is deleted",
                group=self._host.number,
                reason=str(error),
            )
            self._host.group.snapshotter.take()
        else:
            self._host.damage_found(error)

    def _failed(self, error: BaseException | None) -> None:
        if isinstance(error, StorageFull):
            self._counts["damaged"] += 1
            log.warning(
                "lost data is written again when the disk has space", group=self._host.number, reason=str(error)
            )
        elif error is not None and not isinstance(error, StorageError):
            self._host.failed(error)
        self._restart()

    def _restart(self) -> None:
        self._cursor = ()
        self._next_at = self._loop.time() + self._interval_s
