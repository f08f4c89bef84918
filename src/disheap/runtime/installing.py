"""A snapshot of the leader, as a follower writes it (Raft §7).

Runs on the disk's thread. It is written under a temporary name; with the last piece it becomes durable together with
the drop of the log that it replaces, and is read back into a new state beside the old one, so that the loop never stops
for it.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.errors import SnapshotDamaged
from disheap.interfaces import SnapshotWriter, Storage
from disheap.kernel.types import ChunkWrite, Index, SnapshotMeta
from disheap.runtime.disk import Disk
from disheap.runtime.sessions import Sessions
from disheap.runtime.snapshot_source import pieces

Written = Callable[[SnapshotMeta, int, Sessions | None, BaseException | None], None]


class Installer:
    def __init__(self, storage: Storage, disk: Disk, chunk_bytes: int, fresh_sessions: Callable[[], Sessions]) -> None:
        self._storage = storage
        self._disk = disk
        self._chunk_bytes = chunk_bytes
        self._fresh_sessions = fresh_sessions
        self._writer: SnapshotWriter | None = None

    def write(self, chunk: ChunkWrite, done: Written) -> None:
        """Called on the loop; `done(meta, offset, new state after the last piece, error)` too."""

        def finished(sessions: Sessions | None, error: BaseException | None) -> None:
            done(chunk.snapshot, chunk.offset, sessions, error)

        self._disk.submit(lambda: self._write(chunk), finished)

    def _write(self, chunk: ChunkWrite) -> Sessions | None:
        if chunk.offset == 0:
            if self._writer is not None:
                self._writer.abort()
            self._writer = self._storage.begin_snapshot(chunk.snapshot, replaces_log=True)
        assert self._writer is not None, "the kernel hands over pieces in order, the first at offset 0"
        if chunk.data:
            self._writer.write(chunk.data)
        if not chunk.done:
            return None
        self._writer.commit()
        self._writer = None
        return self._restored(chunk.snapshot.index)

    def _restored(self, index: Index) -> Sessions:
        reader = self._storage.open_snapshot(index)
        if reader is None:
            raise SnapshotDamaged(f"the snapshot at index {index} is gone right after it was written")
        try:
            sessions = self._fresh_sessions()
            sessions.restore(pieces(reader, self._chunk_bytes))
        finally:
            reader.close()
        return sessions
