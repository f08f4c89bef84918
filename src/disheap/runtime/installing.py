"""Snapshots between nodes: the pieces a leader reads and a follower writes (Raft §7).

Runs on the disk's thread. A received snapshot is written under a temporary name; with the last piece it becomes durable
together with the drop of the log that it replaces, and is read back into a new state beside the old one, so that the
loop never stops for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from disheap.errors import SnapshotDamaged
from disheap.interfaces import SnapshotReader, SnapshotWriter, Storage
from disheap.kernel.types import ChunkWrite, Index, SnapshotMeta
from disheap.runtime.disk import Disk
from disheap.runtime.sessions import Sessions

Written = Callable[[SnapshotMeta, int, Sessions | None, BaseException | None], None]


class Installer:
    def __init__(self, storage: Storage, disk: Disk, chunk_bytes: int, fresh_sessions: Callable[[], Sessions]) -> None:
        self._storage = storage
        self._disk = disk
        self._chunk_bytes = chunk_bytes
        self._fresh_sessions = fresh_sessions
        self._writer: SnapshotWriter | None = None
        self._reader: SnapshotReader | None = None

    def write(self, chunk: ChunkWrite, done: Written) -> None:
        """Called on the loop; `done(meta, offset, new state after the last piece, error)` too."""

        def finished(sessions: Sessions | None, error: BaseException | None) -> None:
            done(chunk.snapshot, chunk.offset, sessions, error)

        self._disk.submit(lambda: self._write(chunk), finished)

    def close(self) -> None:
        """What is being read is let go. Before the storage is closed, on the disk's thread."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

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

    def read(self, index: Index, offset: int) -> tuple[bytes, bool] | None:
        """(data, whether it is the last piece) of our snapshot at `index`; None when it is gone."""
        if self._reader is None or self._reader.meta.index != index:
            self.close()
            self._reader = self._storage.open_snapshot(index)
        if self._reader is None:
            return None
        try:
            data, is_last = self._piece(self._reader, offset)
        except BaseException:
            self.close()  # it may be taken again, and have the same name
            raise
        if is_last:
            self.close()
        return data, is_last

    def _piece(self, reader: SnapshotReader, offset: int) -> tuple[bytes, bool]:
        data = b""
        while len(data) < self._chunk_bytes:
            piece = reader.read(offset + len(data), self._chunk_bytes - len(data))
            if not piece:
                return data, True
            data += piece
        return data, False


def pieces(reader: SnapshotReader, chunk_bytes: int) -> Iterator[bytes]:
    offset = 0
    while piece := reader.read(offset, chunk_bytes):
        offset += len(piece)
        yield piece
