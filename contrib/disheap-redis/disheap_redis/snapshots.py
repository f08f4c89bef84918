"""Snapshots: written in parts, visible at their commit, and read to their end although newer ones came."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

from disheap.errors import CodecError, SnapshotDamaged, StorageError
from disheap.interfaces import Stream
from disheap.kernel.types import SnapshotMeta
from disheap_redis.records import Snapshot, checksum_of, membership_of
from disheap_redis.settings import CHUNK_BYTES

Command = tuple[bytes | str | int, ...]


class RedisSnapshotWriter:
    """A snapshot that is being written. `apply` carries out commands; `commit` makes the snapshot visible."""

    def __init__(
        self,
        meta: SnapshotMeta,
        part_id: str,
        place: tuple[str, str],  # the keys of all ids, and of the parts
        new_stream: tuple[bytes, Stream],
        apply: Callable[..., None],
        commit: Callable[[Snapshot], None],
        reader: Callable[[Snapshot, SnapshotMeta], RedisSnapshotReader],
    ) -> None:
        self._meta, self._id = meta, part_id
        self._ids, self._parts = place
        self._preamble, self._stream = new_stream
        self._apply, self._commit, self._reader = apply, commit, reader
        self._buffer = bytearray()
        self._starts = [0]
        self._checksums: list[int] = []
        self._stored_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Keeps up to `CHUNK_BYTES` in memory. Each part is durable when it is stored."""
        self._buffer += chunk
        while len(self._buffer) >= CHUNK_BYTES:
            self._store(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    def reread(self) -> RedisSnapshotReader:
        """A reader of everything that was written so far."""
        return self._reader(self._written(), self._meta)

    def commit(self) -> None:
        """Makes the snapshot visible. It may replace the log."""
        self._commit(self._written())

    def abort(self) -> None:
        """Removes what was written."""
        self._buffer.clear()
        self._apply(("UNLINK", self._parts), ("SREM", self._ids, self._id))

    def _written(self) -> Snapshot:
        if self._buffer:
            self._store(bytes(self._buffer))
            self._buffer.clear()
        meta = self._meta
        return Snapshot(
            self._id, meta.index, meta.term, meta.time_ms, membership_of(meta), self._preamble, tuple(self._starts),
            tuple(self._checksums), self._stored_bytes,
        )  # fmt: skip

    def _store(self, raw: bytes) -> None:
        number = len(self._checksums)
        stored = self._stream.encode(raw, number)
        self._apply(("SADD", self._ids, self._id), ("HSET", self._parts, number, stored))
        self._starts.append(self._starts[-1] + len(raw))
        self._checksums.append(checksum_of(stored))
        self._stored_bytes += len(stored)


class RedisSnapshotReader:
    """Reads one snapshot. `fetch` returns a stored part, or None; `closed` is called once."""

    def __init__(
        self,
        snapshot: Snapshot,
        meta: SnapshotMeta,
        stream: Stream,
        fetch: Callable[[int], Any],
        closed: Callable[[], None],
    ) -> None:
        self.meta = meta
        self._snapshot, self._stream, self._fetch, self._closed = snapshot, stream, fetch, closed
        self._is_open = True
        self._decoded: tuple[int, bytes] = (-1, b"")

    def read(self, offset: int, size: int) -> bytes:
        """Returns up to `size` raw bytes from `offset`, fewer at the end."""
        if not self._is_open:
            raise StorageError("this snapshot reader is closed; open the snapshot again")
        starts = self._snapshot.starts
        number = bisect.bisect_right(starts, offset) - 1
        pieces: list[bytes] = []
        while size > 0 and number < len(self._snapshot.checksums):
            raw = self._part(number)
            at = offset - starts[number]
            pieces.append(raw[at : at + size])
            size, offset, number = size - len(pieces[-1]), starts[number + 1], number + 1
        return b"".join(pieces)

    def close(self) -> None:
        """Closes the reader."""
        if self._is_open:
            self._is_open = False
            self._closed()

    def _part(self, number: int) -> bytes:
        if self._decoded[0] != number:
            stored = self._fetch(number)
            where = f"part {number} of the snapshot at index {self._snapshot.index}"
            if stored is None:
                raise SnapshotDamaged(f"{where} is missing in Redis")
            if checksum_of(stored) != self._snapshot.checksums[number]:
                raise SnapshotDamaged(f"{where} does not have the checksum that was stored with it")
            limit = self._snapshot.starts[number + 1] - self._snapshot.starts[number]
            try:
                self._decoded = (number, self._stream.decode(stored, number, limit))
            except CodecError as error:
                raise SnapshotDamaged(f"{where} cannot be decoded: {error}") from None
        return self._decoded[1]
