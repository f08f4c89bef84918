"""Lets members catch up: with old entries from the disk, and with snapshots in chunks (Raft §7). Owns the reads for
peers that are behind. Owns also the writes of a leader's snapshot, if this node is behind. All of it waits for the
disk. Nothing here is on the path of a command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from disheap.errors import DiskFailed, ProtocolError, StorageError, StorageFull
from disheap.interfaces import Storage
from disheap.kernel.raft import Raft
from disheap.kernel.types import ChunkRead, ChunkWrite, Entry, Fetch, SnapshotMeta
from disheap.logs import get_logger
from disheap.runtime.disk.thread import Disk
from disheap.runtime.replica.recovery import save_voters
from disheap.runtime.replica.snapshots import Snapshotter
from disheap.runtime.state.installing import Installer
from disheap.runtime.state.sessions import Sessions
from disheap.runtime.state.snapshot_source import Piece, SnapshotSource

log = get_logger(__name__)


class CatchUpHost(Protocol):
    """What `CatchUp` asks of its group."""

    number: int
    raft: Raft
    snapshotter: Snapshotter

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""

    def fail(self, error: BaseException) -> None:
        """The group cannot go on."""

    def install(self, meta: SnapshotMeta, sessions: Sessions) -> None:
        """Replace the group's state by this one, which is durable."""

    def wake(self) -> None:
        """The kernel has a `Ready`: run the pump."""


class CatchUp:
    """Carries out what a `Ready` asks for: `fetches`, `chunk_reads` and `chunk_writes`."""

    def __init__(
        self,
        host: CatchUpHost,
        storage: Storage,
        disk: Disk,
        chunk_bytes: int,
        fresh_sessions: Callable[[], Sessions],
    ) -> None:
        self._host = host
        self._storage = storage
        self._disk = disk
        self._installer = Installer(
            storage, disk, chunk_bytes, fresh_sessions, lambda meta: save_voters(storage, meta.membership)
        )
        self._source = SnapshotSource(chunk_bytes)

    def fetch(self, fetch: Fetch) -> None:
        """Read entries that are not in memory any more, for a peer."""

        def done(entries: tuple[Entry, ...], error: BaseException | None) -> None:
            if not self._failed(error):
                self._host.raft.fetched(fetch.reader, entries)
                self._host.wake()

        self._disk.submit(lambda: self._storage.read(fetch.first, fetch.last, fetch.max_bytes), done)

    def read_chunk(self, read: ChunkRead) -> None:
        """Read a piece of our snapshot, for a peer. One that is damaged is replaced by a new snapshot."""

        def done(piece: Piece | None, error: BaseException | None) -> None:
            host = self._host
            if not host.is_running:
                return
            if isinstance(error, StorageError) and not isinstance(error, DiskFailed):
                log.error(
                    "a snapshot cannot be read; another is taken",
                    group=host.number,
                    index=read.index,
                    reason=str(error),
                )
                host.snapshotter.take()  # of the state in memory, which is whole: else the peer would wait for ever
                piece, error = None, None
            if self._failed(error):
                return
            if piece is None:
                host.raft.chunk_read_failed(read.target, read.index)
            else:
                host.raft.chunk_read(read.target, read.index, read.offset, piece.data, piece.is_last)
            host.wake()

        self._disk.submit(lambda: self._source.read(self._storage, read.index, read.offset), done)

    def write_chunk(self, chunk: ChunkWrite) -> None:
        """Write a piece of the leader's snapshot. With the last one, its state takes the place of ours."""
        self._installer.write(chunk, self._chunk_written)

    def _chunk_written(
        self, meta: SnapshotMeta, offset: int, sessions: Sessions | None, error: BaseException | None
    ) -> None:
        host = self._host
        if isinstance(error, StorageFull | ProtocolError):  # no room for it, or it is none: log and state are as before
            log.error("a snapshot of the leader is given up", group=host.number, index=meta.index, reason=str(error))
            host.raft.chunk_written(meta, offset, False)
            host.wake()
            return
        if self._failed(error):
            return
        if sessions is not None:
            host.install(meta, sessions)
        host.raft.chunk_written(meta, offset, True)
        host.wake()

    def close_files(self) -> None:
        """Before the storage is closed, on the disk's thread."""
        self._source.close()

    def _failed(self, error: BaseException | None) -> bool:
        if error is not None:
            self._host.fail(error)
        return not self._host.is_running
