"""Block identities prove which blocks were durable (Alagappan et al., Protocol-Aware Recovery, FAST'18).

A block that cannot be read is torn or damaged. A torn block was never acknowledged, and may be dropped. A damaged block
was acknowledged, and dropping it could lose an entry that a majority needs. The bytes alone cannot tell. So each
segment has slots in its head: slot n says that the fsync of block n returned. The slot is written only after that, with
block n + 1, and both share one fsync. A power cut may persist the two in any order, and both orders are sound.

One slot, 32 bytes, so that none lies across two sectors:

    offset  size
    0       8     term of the block's entries
    8       8     index of its first entry
    16      4     number of entries
    20      4     offset of the block in the segment
    24      4     the block's checksum (its header's)
    28      4     checksum of this slot's first 28 bytes

An empty slot is all zero. A slot that is not empty and fails its checksum proves that somebody began to write it, which
is only done for durable blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

from disheap_filelog.blocks import Block

_SLOT = struct.Struct(">QQIII")
_CHECKSUM = struct.Struct(">I")
SLOT_BYTES = 32
EMPTY = bytes(SLOT_BYTES)


def encode(blocks: Sequence[Block]) -> bytes:
    """Consecutive slots."""
    return b"".join(_encode(block) for block in blocks)


def _encode(block: Block) -> bytes:
    body = _SLOT.pack(block.term, block.first, block.entries, block.offset, block.checksum)
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

    def block(self, number: int, offset: int, segment_id: int, previous: int) -> Block | None:
        """Returns block `number` as its slot describes it. A slot does not know the payload and its length."""
        if not self.is_sound(number):
            return None
        term, first, entries, at, checksum = _SLOT.unpack_from(self.get(number))
        return Block(at, 0, segment_id, 0, first, term, entries, 0, 0, 0, previous, checksum) if at == offset else None

    def offset(self, number: int) -> int | None:
        """Where block `number` lies, if its slot says so."""
        return int(_SLOT.unpack_from(self.get(number))[3]) if self.is_sound(number) else None

    def contradicts(self, number: int, block: Block) -> bool:
        """Whether a sound slot names another block than the one found."""
        return self.is_sound(number) and self.get(number) != _encode(block)

    def proves(self, number: int) -> bool:
        """Whether block `number` is known to be durable: its slot or a later one is sound."""
        return any(self.is_sound(later) for later in range(number, self.used))

    def hints(self, number: int) -> bool:
        """Whether block `number` may have been durable: its slot or a later one is written, sound or damaged."""
        return self.used > number
