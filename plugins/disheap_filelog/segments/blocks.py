"""Entries as blocks of bytes (design, "Storage `file`"). Owns the layout; knows no files.

A block is one durable append, or a part of one. The header has its own checksum, so a damaged length cannot destroy the
framing. The header names its segment and the block before it, so an old or misplaced block is recognized. All numbers
are big-endian. Checksums are CRC-32.

    offset  size  header, 68 bytes
    0       4     magic, "DHB1"
    4       1     version, 1
    5       1     type, 1: entries
    6       2     flags: 1 the last block of its append, 4 holds a membership entry
    8       8     segment id
    16      8     append number: grows by one with each append, over all segments
    24      8     index of the first entry
    32      8     term of its entries; all have the same, so it is known of a damaged block too
    40      4     number of entries
    44      4     raw length of the payload
    48      4     stored length of the payload
    52      4     checksum of the stored payload
    56      4     checksum of the previous block (its header's); of the segment's head for the first
    60      4     reserved, 0
    64      4     checksum of the header's first 64 bytes

The payload, through the segment's codec stream at the block's offset, is for each entry:

    offset  size
    0       8     term
    8       1     kind
    9       8     time_ms, signed
    17      4     length of the data
    21      n     data
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from disheap.errors import CodecError
from disheap.interfaces import Stream
from disheap.kernel.types import Entry, EntryKind, Index, Term

MAGIC = b"DHB1"
VERSION = 1
ENTRIES = 1

LAST_OF_APPEND = 1
HAS_MEMBERSHIP = 4

_HEADER = struct.Struct(">4sBBHQQQQIIIIII")
_CHECKSUM = struct.Struct(">I")
_ENTRY = struct.Struct(">QBqI")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size


class Block(NamedTuple):
    """A block's header, and where it lies."""

    offset: int
    flags: int
    segment_id: int
    append: int
    first: int
    term: int
    entries: int
    raw_bytes: int
    stored_bytes: int
    payload_checksum: int
    previous: int
    checksum: int  # of the header, and with it of everything

    @property
    def last(self) -> int:
        """The index of the block's last entry."""
        return self.first + self.entries - 1

    @property
    def end(self) -> int:
        """Where the block ends in the file, in bytes."""
        return self.offset + HEADER_BYTES + self.stored_bytes


def build(
    entries: Sequence[Entry], stream: Stream, offset: int, segment_id: int, append: int, previous: int, is_last: bool
) -> tuple[Block, bytes, bytes]:
    """The block, its header and its stored payload."""
    raw = encode_entries(entries)
    stored = stream.encode(raw, offset)
    flags = LAST_OF_APPEND if is_last else 0
    for entry in entries:
        if entry.kind == EntryKind.MEMBERSHIP:
            flags |= HAS_MEMBERSHIP
    first, term, count, payload_checksum = entries[0].index, entries[-1].term, len(entries), crc32(stored)
    head = _HEADER.pack(
        MAGIC, VERSION, ENTRIES, flags, segment_id, append, first, term, count,
        len(raw), len(stored), payload_checksum, previous, 0,
    )  # fmt: skip
    checksum = crc32(head)
    fields = (
        offset, flags, segment_id, append, first, term, count,
        len(raw), len(stored), payload_checksum, previous, checksum,
    )  # fmt: skip
    # A named tuple's own constructor is a Python function: one call more for each append.
    return tuple.__new__(Block, fields), head + _CHECKSUM.pack(checksum), stored


def parse_header(data: bytes, offset: int) -> Block | None:
    """The header in `data`, which lies at `offset` of its segment; None if it is none or is damaged."""
    if len(data) < HEADER_BYTES or data[:4] != MAGIC:
        return None
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if crc32(data[: _HEADER.size]) != checksum:
        return None
    fields = _HEADER.unpack_from(data)
    if fields[1] != VERSION or fields[2] != ENTRIES:
        return None
    return Block._make((offset, *fields[3:-1], checksum))


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The payload of a block: each entry's header and data, one behind the other."""
    pack, parts = _ENTRY.pack, []
    for term, _, kind, time_ms, data in entries:
        parts.append(pack(term, kind, time_ms, len(data)))
        parts.append(data)
    return b"".join(parts)


def decode_entries(raw: bytes, first: int, count: int) -> tuple[Entry, ...]:
    """Raises `CodecError` for bytes that `encode_entries` never makes."""
    try:
        entries = tuple(_decode_each(raw, first, count))
    except (struct.error, ValueError) as error:
        raise CodecError(f"entries of the block at index {first} cannot be read: {error}") from error
    size = sum(_ENTRY.size + len(entry.data) for entry in entries)
    if size != len(raw):
        raise CodecError(f"block at index {first} has {len(raw)} bytes and its {count} entries {size}")
    return entries


def _decode_each(raw: bytes, first: int, count: int) -> Iterator[Entry]:
    position = 0
    for index in range(first, first + count):
        term, kind, time_ms, length = _ENTRY.unpack_from(raw, position)
        position += _ENTRY.size + length
        yield Entry(Term(term), Index(index), EntryKind(kind), time_ms, raw[position - length : position])


def split(entries: Sequence[Entry], block_bytes: int) -> list[Sequence[Entry]]:
    """Runs of entries of one term and at most `block_bytes` each; one that is larger alone has a block to itself."""
    if len(entries) == 1:
        return [entries]
    if entries[0].term == entries[-1].term and sum(len(entry.data) for entry in entries) <= block_bytes:
        return [entries]
    groups, start, size = [], 0, 0
    for position, entry in enumerate(entries):
        size += len(entry.data)
        if position > start and (size > block_bytes or entry.term != entries[start].term):
            groups.append(entries[start:position])
            start, size = position, len(entry.data)
    groups.append(entries[start:])
    return groups
