"""The bytes of a backup. Numbers are big-endian, checksums CRC-32, digests BLAKE2b of 32 bytes.

    file: header; for each group one block `GROUP`, blocks `DATA`, one block `END`; trailer

    offset  size  header
    0       8     magic, "DHBACKUP"
    8       2     format version, 1
    10      2     reserved, 0
    12      4     length of the head, at most 64 KiB
    16      n     the head: a MessagePack map, `BackupHead`
    16 + n  4     checksum of all before it

    offset  size  block
    0       4     magic, "DHBK"
    4       1     kind: 1 GROUP, 2 DATA, 3 END
    5       3     reserved, 0
    8       4     raw length, at most 1 MiB
    12      4     stored length
    16      4     checksum of the stored bytes
    20      4     checksum of the block's first 20 bytes
    24      n     stored bytes. GROUP: a MessagePack map, `GroupHead`. END: a MessagePack map, `GroupEnd`.
                  DATA: the next raw bytes of the group's snapshot, through the codec's stream. Their position in the
                  stream is the offset of the block in the file

    offset  size  trailer
    0       4     magic, "DHBT"
    4       4     number of groups
    8       8     length of the file before the trailer
    16      32    digest of the file before the trailer
    48      4     checksum of the trailer's first 48 bytes

A file that ends before its trailer was cut off. A file whose checksums do not hold is damaged. The two have different
errors, because a copy that was cut off can be copied again. A reader refuses a later format version than its own, once
the header's checksum holds. It ignores fields of the maps that it does not know.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta

MAGIC: Final = b"DHBACKUP"
BLOCK_MAGIC: Final = b"DHBK"
TRAILER_MAGIC: Final = b"DHBT"
FORMAT: Final = 1

GROUP, DATA, END = 1, 2, 3

HEADER = Struct(">8sHHI")
BLOCK = Struct(">4sB3xIII")
TRAILER = Struct(">4sIQ32s")
CHECKSUM = Struct(">I")
BLOCK_BYTES = BLOCK.size + CHECKSUM.size
TRAILER_BYTES = TRAILER.size + CHECKSUM.size

MAP_BYTES_MAX = 64 << 10
"""The size of a map. The names of a hundred members take 25 KiB at most."""
RAW_BYTES_MAX = 1 << 20
"""Raw bytes of a block, which a reader takes into memory at once."""
STORED_BYTES_MAX = RAW_BYTES_MAX + RAW_BYTES_MAX // 64 + 1024
"""What a codec may make of them."""
PURPOSE = "backup"
"""The purpose that the codec's stream is told."""

Text = Annotated[str, Meta(max_length=255)]
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
GroupNumber = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class BackupHead(msgspec.Struct, frozen=True):
    """What a backup says of itself. `created_ms` is the wall clock of the command that wrote it."""

    cluster_id: Text
    release: Text  # of disheap, that wrote the file
    created_ms: Number
    groups: Annotated[int, Meta(ge=1, le=64)]  # that the cluster has; the file holds all of them, in order
    codec: Text
    preamble: Annotated[bytes, Meta(max_length=4096)] = b""  # of the codec's stream


class GroupHead(msgspec.Struct, frozen=True):
    """What stands before a group's snapshot. The snapshot holds all entries up to `index`."""

    group: GroupNumber
    node: Text  # the name of the node that took the snapshot
    machine: Text
    machine_version: Number
    log_version: Number
    index: Number
    term: Number
    time_ms: Number  # log time of the entry at `index`
    members: list[Text]  # their names


class GroupEnd(msgspec.Struct, frozen=True):
    """What stands behind a group's snapshot."""

    raw_bytes: Number
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]  # of the raw bytes


def new_digest() -> hashlib.blake2b:
    """A digest of 32 bytes."""
    return hashlib.blake2b(digest_size=32)
