"""Writes and installs the snapshot that a leader sends (Raft §7). Runs on the disk's thread. It is written under a
temporary name. After the last piece it is read back into a new state beside the old one, so that the loop never stops
for it. Then it becomes durable, together with the removal of the log that it replaces. One that cannot be read is
dropped, and log and state are as before.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.errors import MalformedFrame, SnapshotDamaged, VersionUnsupported, WrongVersion
from disheap.interfaces import Rereadable, SnapshotReader, SnapshotWriter, Storage
from disheap.kernel.types import ChunkWrite, Index, SnapshotMeta
from disheap.runtime.disk.thread import Disk
from disheap.runtime.state.sessions import Sessions
from disheap.runtime.state.snapshot_source import pieces

Written = Callable[[SnapshotMeta, int, Sessions | None, BaseException | None], None]


class Installer:
    """Writes the snapshots that a leader sends to one group."""

    def __init__(
        self,
        storage: Storage,
        disk: Disk,
        chunk_bytes: int,
        fresh_sessions: Callable[[], Sessions],
        before_commit: Callable[[SnapshotMeta], None] = lambda meta: None,
    ) -> None:
        self._storage = storage
        self._disk = disk
        self._chunk_bytes = chunk_bytes
        self._fresh_sessions = fresh_sessions
        self._before_commit = before_commit  # on the disk's thread
        self._writer: SnapshotWriter | None = None

    def write(self, chunk: ChunkWrite, done: Written) -> None:
        """Writes one chunk. `done(meta, offset, state, error)` is called on the loop. `state` is the new state after
        the last chunk, else None."""

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
        writer, self._writer = self._writer, None
        if not isinstance(writer, Rereadable):
            self._before_commit(chunk.snapshot)
            writer.commit()
            return self._restored(self._committed(chunk.snapshot.index))
        try:
            sessions = self._restored(writer.reread())
        except (SnapshotDamaged, VersionUnsupported) as error:
            writer.abort()
            kind = MalformedFrame if isinstance(error, SnapshotDamaged) else WrongVersion
            raise kind(f"the leader's snapshot at index {chunk.snapshot.index} is none: {error}") from error
        self._before_commit(chunk.snapshot)
        writer.commit()
        return sessions

    def _committed(self, index: Index) -> SnapshotReader:
        reader = self._storage.open_snapshot(index)
        if reader is None:
            raise SnapshotDamaged(f"the snapshot at index {index} is gone right after it was written")
        return reader

    def _restored(self, reader: SnapshotReader) -> Sessions:
        try:
            sessions = self._fresh_sessions()
            sessions.restore(pieces(reader, self._chunk_bytes))
        finally:
            reader.close()
        return sessions
