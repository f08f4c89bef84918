"""Writes a backup, group by group. Gathers small pieces into blocks, and keeps the digests. Does not know where the
bytes go: a file, a pipe or a test takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import msgspec

from disheap.backup.layout import (
    BLOCK,
    BLOCK_MAGIC,
    CHECKSUM,
    DATA,
    END,
    FORMAT,
    GROUP,
    HEADER,
    MAGIC,
    MAP_BYTES_MAX,
    PURPOSE,
    RAW_BYTES_MAX,
    TRAILER,
    TRAILER_MAGIC,
    BackupHead,
    GroupEnd,
    GroupHead,
    new_digest,
)
from disheap.interfaces import Codec, StreamContext

GATHERED_BYTES = 256 << 10
"""Raw bytes of a block: enough to compress well."""


class BackupWriter:
    """Call `begin_group`, `write` as often as needed and `end_group` for each group in order, then `finish`. `put`
    takes the bytes."""

    def __init__(self, put: Callable[[bytes], object], head: BackupHead, codec: Codec) -> None:
        """The preamble of `head` is that of the codec's new stream, whatever it says."""
        preamble, self._stream = codec.new_stream(StreamContext(PURPOSE, PURPOSE))
        self._write = put
        self._end = 0
        self._digest = new_digest()
        self._groups = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = self._raw_bytes = 0
        self._group_digest = new_digest()
        body = _map(msgspec.structs.replace(head, preamble=preamble))
        header = HEADER.pack(MAGIC, FORMAT, 0, len(body)) + body
        self._put(header + CHECKSUM.pack(crc32(header)))

    @property
    def file_bytes(self) -> int:
        """The bytes written so far."""
        return self._end

    def begin_group(self, head: GroupHead) -> None:
        """The pieces that follow are of this group's snapshot."""
        self._groups += 1
        self._raw_bytes, self._group_digest = 0, new_digest()
        self._put_block(GROUP, _map(head))

    def write(self, piece: bytes) -> None:
        """The next raw bytes of the snapshot, at most 1 MiB."""
        self._raw_bytes += len(piece)
        self._group_digest.update(piece)
        if self._gathered_bytes + len(piece) > RAW_BYTES_MAX:
            self._write_gathered()
        self._gathered.append(piece)
        self._gathered_bytes += len(piece)
        if self._gathered_bytes >= GATHERED_BYTES:
            self._write_gathered()

    def end_group(self) -> None:
        """The snapshot is whole."""
        self._write_gathered()
        self._put_block(END, _map(GroupEnd(self._raw_bytes, self._group_digest.digest())))

    def finish(self) -> None:
        """Write the trailer. Without it the file counts as cut off."""
        trailer = TRAILER.pack(TRAILER_MAGIC, self._groups, self._end, self._digest.digest())
        self._put(trailer + CHECKSUM.pack(crc32(trailer)))

    def _write_gathered(self) -> None:
        raw = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        if raw:
            self._put_block(DATA, self._stream.encode(raw, self._end), len(raw))

    def _put_block(self, kind: int, stored: bytes, raw_bytes: int | None = None) -> None:
        size = len(stored) if raw_bytes is None else raw_bytes
        head = BLOCK.pack(BLOCK_MAGIC, kind, size, len(stored), crc32(stored))
        self._put(b"".join((head, CHECKSUM.pack(crc32(head)), stored)))

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._end += len(data)
        self._write(data)


def _map(value: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(value)
    assert len(body) <= MAP_BYTES_MAX, "a map of a backup is short"
    return body
