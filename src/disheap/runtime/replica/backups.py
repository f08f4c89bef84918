"""Gives the snapshot of a group to operators who take backups, in pages by offset.

A backup begins with a snapshot that holds every entry confirmed before the request. The node keeps it open until the
last page is read, whatever newer snapshots replace it, and for `IDLE_S` between two pages. So a change of leaders does
not touch a backup that has begun. Owns how many there are. Does not know files and clients.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from disheap.errors import BackupLost, DiskFailed, InvalidArgument, Overloaded, StorageError
from disheap.interfaces import Storage
from disheap.kernel.types import Index
from disheap.logs import get_logger
from disheap.runtime.disk.thread import Disk, run_on
from disheap.runtime.replica.snapshots import Snapshotter, Taken
from disheap.runtime.state.snapshot_source import Piece, SnapshotSource

log = get_logger(__name__)

BACKUPS_MAX = 2
"""How many backups one group may have open at once: each holds one snapshot on the disk."""
IDLE_S = 60.0
"""After so long without a request, the operator is gone."""
WAIT_S = 1.0
"""How long a request for a page waits for the snapshot to be written."""

AGAIN = "Take the backup again"


class Page(NamedTuple):
    """An answer to a request for bytes. Before the snapshot is durable there is no `taken`, and no data. `has_begun`:
    its moment is over."""

    taken: Taken | None
    has_begun: bool
    written_bytes: int  # of the snapshot, until it is durable
    data: bytes
    is_last: bool


class BackupHost(Protocol):
    """The group."""

    number: int
    snapshotter: Snapshotter


class _Backup:
    """One backup that an operator takes. `failed`: why there is none."""

    def __init__(self, source: SnapshotSource, now_s: float) -> None:
        self.source = source
        self.wanted = Index(0)  # the entry that it must hold
        self.taken: Taken | None = None
        self.failed = ""
        self.settled = asyncio.Event()
        self.is_reading = False
        self.used_at = now_s

    def settle(self, taken: Taken | None, reason: str) -> None:
        """The first call counts."""
        if not self.settled.is_set():
            self.taken, self.failed = taken, reason
            self.settled.set()


class Backups:
    """The backups of one group. `begin`, `read` until the last page, `end`."""

    def __init__(
        self,
        host: BackupHost,
        storage: Storage,
        disk: Disk,
        chunk_bytes: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._host, self._storage, self._disk = host, storage, disk
        self._chunk_bytes = chunk_bytes
        self._loop = loop
        self._open: dict[int, _Backup] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, number: int) -> bool:
        """Have a snapshot of this moment taken. No other backup of the cluster has the number. Returns whether it has
        begun, so that what is applied from here on is not in it. Raises `Overloaded`."""
        if len(self._open) >= BACKUPS_MAX:
            raise Overloaded(
                f"this node has {BACKUPS_MAX} backups of the group under way. Wait until they have ended; one that "
                f"nobody reads ends after {IDLE_S:g} s"
            )
        backup = self._open[number] = _Backup(SnapshotSource(self._chunk_bytes, is_held=True), self._loop.time())
        backup.wanted = self._host.snapshotter.take_for(backup.settle)
        return self._host.snapshotter.has_begun(backup.wanted)

    async def read(self, number: int, offset: int) -> Page:
        """Returns up to a chunk of the snapshot's bytes from `offset` on. Raises `BackupLost`, `Overloaded`, and
        `InvalidArgument`."""
        backup = self._find(number)
        backup.used_at = self._loop.time()
        if not backup.settled.is_set():
            try:
                async with asyncio.timeout(WAIT_S):
                    await backup.settled.wait()
            except TimeoutError:
                snapshotter = self._host.snapshotter
                return Page(None, snapshotter.has_begun(backup.wanted), snapshotter.written_bytes, b"", False)
        if backup.taken is None:
            self.end(number)
            raise BackupLost(f"there is no snapshot for the backup: {backup.failed}. {AGAIN}")
        if backup.is_reading:
            raise Overloaded("another page of this backup is being read; ask for one at a time")
        if offset < 0 or offset > backup.taken.size_bytes:
            raise InvalidArgument(f"`offset` is 0 to {backup.taken.size_bytes} bytes, not {offset}")
        piece = await self._read(number, backup, backup.taken, offset)
        return Page(backup.taken, True, backup.taken.size_bytes, piece.data, piece.is_last)

    async def _read(self, number: int, backup: _Backup, taken: Taken, offset: int) -> Piece:
        backup.is_reading = True
        try:
            piece = await run_on(self._disk, lambda: backup.source.read(self._storage, taken.meta.index, offset))
        except StorageError as error:
            self.end(number)
            if isinstance(error, DiskFailed):
                raise BackupLost(f"the disk of this node failed. {AGAIN}, from another node") from error
            raise BackupLost(f"the snapshot cannot be read: {error}. {AGAIN}") from error
        finally:
            backup.is_reading = False
            backup.used_at = self._loop.time()
        if piece is None or piece.meta != taken.meta:
            self.end(number)
            raise BackupLost(f"newer snapshots have replaced the one that the backup is of. {AGAIN}")
        return piece

    def end(self, number: int) -> None:
        """The operator has what they want. Does nothing if the backup has ended already."""
        if number in self._open:
            self._forget(number)

    def sweep(self) -> None:
        """Called on every tick: end backups that nobody reads."""
        if not self._open:
            return
        now_s = self._loop.time()
        for number, backup in list(self._open.items()):
            if now_s - backup.used_at > IDLE_S and not backup.is_reading:
                log.warning(
                    "a backup is given up: nobody has read on",
                    group=self._host.number,
                    backup=number,
                    idle_s=IDLE_S,
                )
                self._forget(number)

    def close(self) -> None:
        """The group ends."""
        for number in list(self._open):
            self._forget(number)

    def _find(self, number: int) -> _Backup:
        backup = self._open.get(number)
        if backup is None:
            raise BackupLost(
                f"this node has no backup {number}: it was restarted or repaired, or nobody has read on for "
                f"{IDLE_S:g} s. {AGAIN}"
            )
        return backup

    def _forget(self, number: int) -> None:
        backup = self._open.pop(number)
        backup.settle(None, "it has ended")
        self._disk.submit(backup.source.close, _closed)


def _closed(_: None, error: BaseException | None) -> None:
    """A reader whose file cannot be closed is of no importance: a failing disk ends the node by itself."""
