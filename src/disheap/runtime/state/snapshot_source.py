"""Reads our snapshots for other nodes, in pieces, by index and offset. Runs on the disk's thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from disheap.interfaces import SnapshotReader, Storage
from disheap.kernel.types import Index, SnapshotMeta


class Piece(NamedTuple):
    """Consecutive bytes of a snapshot. `is_last`: the snapshot ends with them."""

    meta: SnapshotMeta
    data: bytes
    is_last: bool


class SnapshotSource:
    """One snapshot is open at a time, from its first piece to its last: pieces that follow each other are cheap. With
    `is_held` it stays open until `close`."""

    def __init__(self, chunk_bytes: int, is_held: bool = False) -> None:
        self._chunk_bytes = chunk_bytes
        self._is_held = is_held
        self._reader: SnapshotReader | None = None

    def read(self, storage: Storage, index: Index | None, offset: int) -> Piece | None:
        """Returns up to `chunk_bytes` of the snapshot at `index`, or of the newest one if it is None. Returns None if
        there is no such snapshot. Raises `SnapshotDamaged`."""
        if self._reader is None or self._reader.meta.index != index:
            self.close()
            self._reader = storage.open_snapshot(index)
        if self._reader is None:
            return None
        meta = self._reader.meta
        try:
            data, is_last = self._piece(self._reader, offset)
        except BaseException:
            self.close()  # it may be taken again, and have the same name
            raise
        if is_last and not self._is_held:
            self.close()
        return Piece(meta, data, is_last)

    def close(self) -> None:
        """Close the open snapshot, before the storage is closed."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _piece(self, reader: SnapshotReader, offset: int) -> tuple[bytes, bool]:
        data = b""
        while len(data) < self._chunk_bytes:
            piece = reader.read(offset + len(data), self._chunk_bytes - len(data))
            if not piece:
                return data, True
            data += piece
        return data, False


def pieces(reader: SnapshotReader, chunk_bytes: int) -> Iterator[bytes]:
    """Yields the whole snapshot in pieces."""
    offset = 0
    while piece := reader.read(offset, chunk_bytes):
        offset += len(piece)
        yield piece
