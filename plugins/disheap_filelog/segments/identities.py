"""Block identities prove which blocks were durable (Alagappan et al., Protocol-Aware Recovery, FAST'18).
Marks tell which block was begun.

A block that cannot be read is torn or damaged. A torn block was never acknowledged, and may be dropped. A damaged block
was acknowledged, and dropping it could lose an entry that a majority needs. The bytes alone cannot tell. So each
segment has slots in its head: slot n says that the fsync of block n returned. The slot is written only after that, with
block n + 1, and both share one fsync. A power cut may persist the two in any order, and both orders are sound.

Space behind the last block is allocated before it is needed, so the size of the file does not tell where the log ends.
A **mark** does: slot n says that block n was begun. It is written together with the block, and only for the first block
of an append. The identity takes its place later. Zeros where a mark names a block are a lost or torn block. Zeros
without a mark were never written.

One slot, 32 bytes, so that none lies across two sectors:

    offset  size
    0       8     term of the block's entries
    8       8     index of its first entry
    16      4     number of entries, and two flags: 2^31 this is a mark, 2^30 the block is its whole append (of a mark)
    20      4     offset of the block in the segment
    24      4     the block's checksum (its header's)
    28      4     checksum of this slot's first 28 bytes

An empty slot is all zero. A slot that is not empty and fails its checksum was a mark or an identity. Everything before
the block that it stood for was durable, because an append is begun only then.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

from disheap_filelog.segments.blocks import LAST_OF_APPEND, Block

_SLOT = struct.Struct(">QQIII")
_CHECKSUM = struct.Struct(">I")
SLOT_BYTES = 32
EMPTY = bytes(SLOT_BYTES)
MARK = 1 << 31
WHOLE_APPEND = 1 << 30


def encode(blocks: Sequence[Block]) -> bytes:
    """Consecutive slots."""
    return _encode(blocks[0], 0) if len(blocks) == 1 else b"".join([_encode(block, 0) for block in blocks])


def encode_mark(block: Block) -> bytes:
    """The slot of a block that is the first of its append, while the append is under way."""
    return _encode(block, MARK | WHOLE_APPEND if block.flags & LAST_OF_APPEND else MARK)


def _encode(block: Block, flags: int) -> bytes:
    body = _SLOT.pack(block.term, block.first, block.entries | flags, block.offset, block.checksum)
    return body + _CHECKSUM.pack(crc32(body))


class Slots:
    """The identity slots of a segment, as they were read when the log was opened."""

    def __init__(self, region: bytes) -> None:
        self._region = region
        self.count = len(region) // SLOT_BYTES
        self.used = -(-len(region.rstrip(b"\0")) // SLOT_BYTES)  # behind this, all are empty

    def get(self, number: int) -> bytes:
        """The bytes of one slot. Fewer than `SLOT_BYTES` if the file ends in it."""
        return self._region[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]

    def is_sound(self, number: int) -> bool:
        """Whether a slot is written and its checksum holds."""
        slot = self.get(number)
        return (
            len(slot) == SLOT_BYTES
            and slot != EMPTY
            and _CHECKSUM.unpack_from(slot, _SLOT.size)[0] == crc32(slot[: _SLOT.size])
        )

    def is_empty(self, number: int) -> bool:
        """Whether nothing was ever written in a slot."""
        return self.get(number) in (EMPTY, b"")

    def is_mark(self, number: int) -> bool:
        """Whether a sound slot says that the block was begun, and not that it was durable."""
        return self.is_sound(number) and bool(self._entries(number) & MARK)

    def is_identity(self, number: int) -> bool:
        """Whether a sound slot says that the block was durable."""
        return self.is_sound(number) and not self._entries(number) & MARK

    def _entries(self, number: int) -> int:
        return int(_SLOT.unpack_from(self.get(number))[2])

    def block(self, number: int, offset: int, segment_id: int, previous: int) -> Block | None:
        """Returns block `number` as its slot describes it. A slot does not know the payload and its length. The flag
        `LAST_OF_APPEND` is missing if the slot says that the append has more blocks."""
        if not self.is_sound(number):
            return None
        term, first, entries, at, checksum = _SLOT.unpack_from(self.get(number))
        if at != offset:
            return None
        flags = 0 if entries & (MARK | WHOLE_APPEND) == MARK else LAST_OF_APPEND
        return Block(at, flags, segment_id, 0, first, term, entries & (WHOLE_APPEND - 1), 0, 0, 0, previous, checksum)

    def offset(self, number: int) -> int | None:
        """Where block `number` lies, if its slot says so."""
        return int(_SLOT.unpack_from(self.get(number))[3]) if self.is_sound(number) else None

    def contradicts(self, number: int, block: Block) -> bool:
        """Whether a sound slot names another block than the one found."""
        return self.is_sound(number) and self.get(number) not in (_encode(block, 0), encode_mark(block))

    def proves(self, number: int) -> bool:
        """Whether block `number` is known to be durable: its identity is sound, or a later slot is."""
        return self.is_identity(number) or any(self.is_sound(later) for later in range(number + 1, self.used))

    def hints(self, number: int) -> bool:
        """Whether block `number` may have been durable: its slot or a later one is written, sound or damaged. Its own
        sound mark says no more than that the block was begun."""
        return self.used > number + 1 or (self.used > number and not self.is_mark(number))
