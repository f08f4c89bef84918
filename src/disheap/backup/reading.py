"""Reads a backup from its front to its end, and checks every byte on the way. Holds one block at a time, so memory is
bounded whatever the file says. A pipe is enough: nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar
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
    STORED_BYTES_MAX,
    TRAILER,
    TRAILER_BYTES,
    TRAILER_MAGIC,
    BackupHead,
    GroupEnd,
    GroupHead,
    new_digest,
)
from disheap.errors import BackupDamaged, BackupTruncated, CodecError, VersionUnsupported, WrongCodec
from disheap.interfaces import Codec, StreamContext
from disheap.protocol.frames import UNREADABLE

T = TypeVar("T")


class _Block(NamedTuple):
    kind: int
    raw_bytes: int
    stored: bytes
    offset: int


class BackupReader:
    """Reads the header at once: `head` is what it says. Then iterate over `groups()`, and over `pieces()` for each
    group, both to their ends. The file is whole if nothing was raised.

    `read(size)` returns at most `size` bytes, and b"" at the end of the file. `codec_of` returns the codec of a name;
    it may raise `PluginError`. `name` stands in errors. All methods raise `BackupDamaged`, `BackupTruncated` and
    `VersionUnsupported`."""

    def __init__(self, read: Callable[[int], bytes], name: str, codec_of: Callable[[str], Codec]) -> None:
        self._read, self._name = read, name
        self._offset = 0
        self._digest = new_digest()
        self._end: GroupEnd | None = None  # of the group that was read last
        self.head = self._read_header()
        try:
            self._stream = codec_of(self.head.codec).open_stream(self.head.preamble, StreamContext(PURPOSE, PURPOSE))
        except WrongCodec as error:
            raise self._damaged(0, str(error)) from error

    @property
    def file_bytes(self) -> int:
        """The bytes read so far."""
        return self._offset

    def groups(self) -> Iterator[GroupHead]:
        """Yields what stands before each group. Read its `pieces` before the next one. Ends behind the trailer."""
        for group in range(self.head.groups):
            block = self._next_block()
            if block is None or block.kind != GROUP:
                raise self._damaged(self._offset, f"group {group} of {self.head.groups} is missing")
            head = self._map(block, GroupHead)
            if head.group != group:
                raise self._damaged(block.offset, f"group {head.group} stands where group {group} should")
            self._end = None
            yield head
            assert self._end is not None, "the pieces of the group before were not read to their end"
        if self._next_block() is not None:
            raise self._damaged(self._offset, f"there is more than the {self.head.groups} groups that its head names")
        if self._read(1):
            raise self._damaged(self._offset, "something follows the end of the backup")

    def pieces(self) -> Iterator[bytes]:
        """Yields the raw bytes of the group's snapshot, at most 1 MiB at once."""
        digest, size = new_digest(), 0
        while (block := self._next_block()) is not None and block.kind == DATA:
            raw = self._decoded(block)
            digest.update(raw)
            size += len(raw)
            yield raw
        if block is None or block.kind != END:
            raise self._damaged(self._offset, "a group has no end")
        end = self._map(block, GroupEnd)
        if (end.raw_bytes, end.digest) != (size, digest.digest()):
            raise self._damaged(block.offset, "every block of the group is whole, and together they are not")
        self._end = end

    # --- parts of the file -------------------------------------------------------------------------------------------

    def _read_header(self) -> BackupHead:
        fixed = self._taken(HEADER.size, "its header")
        magic, version, _, length = HEADER.unpack(fixed)
        if magic != MAGIC:
            raise BackupDamaged(f"{self._name} is no backup of disheap: it begins with other bytes")
        if length > MAP_BYTES_MAX:
            raise self._damaged(12, f"its head is said to have {length} bytes, and none has so many")
        body = self._taken(length, "its header")
        self._check(fixed + body, 0, "its header")
        if version > FORMAT:
            raise VersionUnsupported(
                f"{self._name} has backup format {version}, and this release reads up to {FORMAT}. A newer release "
                "wrote it. Install that release, or a later one; nothing was changed"
            )
        return self._decode(body, BackupHead, 0)

    def _next_block(self) -> _Block | None:
        """Returns the next block. Returns None behind the trailer, which is sound."""
        offset = self._offset
        head = self._take(BLOCK.size, "a block")
        if head.startswith(TRAILER_MAGIC):
            self._read_trailer(head, offset)
            return None
        self._digest.update(head)
        self._check(head, offset, "a block's head")
        magic, kind, raw_bytes, stored_bytes, checksum = BLOCK.unpack(head)
        if magic != BLOCK_MAGIC or raw_bytes > RAW_BYTES_MAX or stored_bytes > STORED_BYTES_MAX:
            raise self._damaged(offset, "a block's head makes no sense")
        stored = self._taken(stored_bytes, "a block")
        if crc32(stored) != checksum:
            raise self._damaged(offset, "a block's checksum does not match")
        return _Block(kind, raw_bytes, stored, offset)

    def _read_trailer(self, begun: bytes, offset: int) -> None:
        rest = self._take(TRAILER_BYTES - len(begun), "its end")
        trailer = (begun + rest)[: TRAILER.size]
        if CHECKSUM.unpack_from(begun + rest, TRAILER.size)[0] != crc32(trailer):
            raise self._damaged(offset, "the checksum of its end does not match")
        _, groups, size, whole = TRAILER.unpack(trailer)
        if (groups, size, whole) != (self.head.groups, offset, self._digest.digest()):
            raise self._damaged(offset, "every block is whole, and together they are not what was written")

    def _decoded(self, block: _Block) -> bytes:
        try:
            raw = self._stream.decode(block.stored, block.offset, block.raw_bytes)
        except CodecError as error:
            raise self._damaged(block.offset, str(error)) from error
        if len(raw) != block.raw_bytes:
            raise self._damaged(block.offset, f"a block has {len(raw)} raw bytes, not {block.raw_bytes}")
        return raw

    def _map(self, block: _Block, kind: type[T]) -> T:
        return self._decode(block.stored, kind, block.offset)

    def _decode(self, body: bytes, kind: type[T], offset: int) -> T:
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except UNREADABLE as error:
            raise self._damaged(offset, str(error)) from error

    def _check(self, data: bytes, offset: int, what: str) -> None:
        if CHECKSUM.unpack(self._taken(CHECKSUM.size, what))[0] != crc32(data):
            raise self._damaged(offset, f"the checksum of {what} does not match")

    def _taken(self, size: int, what: str) -> bytes:
        """As `_take`, and counted in the digest of the file."""
        data = self._take(size, what)
        self._digest.update(data)
        return data

    def _take(self, size: int, what: str) -> bytes:
        """Exactly `size` bytes. A pipe may give fewer at once."""
        parts: list[bytes] = []
        missing = size
        while missing:
            part = self._read(missing)
            if not part:
                raise BackupTruncated(
                    f"{self._name} ends at byte {self._offset + size - missing}, within {what}. It was cut off: copy "
                    "it again, or take another backup. Nothing was changed"
                )
            parts.append(part)
            missing -= len(part)
        self._offset += size
        return b"".join(parts)

    def _damaged(self, offset: int, reason: str) -> BackupDamaged:
        return BackupDamaged(
            f"{self._name}: the backup is damaged at byte {offset}: {reason}. Take another copy of it, or another "
            "backup. Nothing was changed"
        )
