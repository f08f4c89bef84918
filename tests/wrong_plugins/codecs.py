"""Codecs that break one rule each, made from `Seal`, which keeps all of them."""

from __future__ import annotations

import os
import random
import zlib
from typing import Any, ClassVar

import msgspec

from disheap.errors import CodecError
from disheap.interfaces import CodecContext, StreamContext

MARK = b"seal"
CRC_BYTES = 4


class SealStream:
    """Shifts every byte by a key, behind a checksum over position and content."""

    def __init__(self, key: int) -> None:
        self.key = key

    def encode(self, raw: bytes, position: int) -> bytes:
        return self.seal(raw, position) + shifted(raw, self.key)

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        if len(stored) - CRC_BYTES > raw_limit:
            raise CodecError(f"{len(stored)} bytes exceed the limit of {raw_limit}")
        raw = shifted(stored[CRC_BYTES:], -self.key)
        if stored[:CRC_BYTES] != self.seal(raw, position):
            raise CodecError("this block is damaged")
        return raw

    def seal(self, raw: bytes, position: int) -> bytes:
        return zlib.crc32(raw, zlib.crc32(position.to_bytes(8, "little"))).to_bytes(CRC_BYTES, "little")


def shifted(data: bytes, by: int) -> bytes:
    return data.translate(bytes((byte + by) % 256 for byte in range(256)))


class Seal:
    name: ClassVar[str] = "seal"
    api: ClassVar[int] = 1
    stream: ClassVar[type[SealStream]] = SealStream

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, settings: Any, context: CodecContext) -> None:
        self.random = context.random

    def new_stream(self, context: StreamContext) -> tuple[bytes, Any]:
        key = self.random.randrange(256)
        return MARK + bytes([key]), self.stream(key)

    def open_stream(self, preamble: bytes, context: StreamContext) -> Any:
        if len(preamble) != len(MARK) + 1 or preamble[:-1] != MARK:
            raise CodecError(f"{context.label}: this is no stream of a seal")
        return self.stream(preamble[-1])


# --- limits and damage -----------------------------------------------------------------------------------------------


class NoLimitStream(SealStream):
    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        return super().decode(stored, position, 1 << 40)


class IgnoredLimit(Seal):
    """Decodes a block of any size."""

    stream = NoLimitStream


class LateLimitStream(SealStream):
    def encode(self, raw: bytes, position: int) -> bytes:
        return zlib.compress(raw)

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        raw = zlib.decompress(stored)
        if len(raw) > raw_limit:
            raise CodecError("over the limit")
        return raw


class Bomb(Seal):
    """Looks at the limit when it has decoded the whole block."""

    stream = LateLimitStream


class BareErrors(Seal):
    """Damage raises what the library raises."""

    stream = LateLimitStream


class PrefixedStream(SealStream):
    """Says its length before the block, and looks no further."""

    def encode(self, raw: bytes, position: int) -> bytes:
        return len(raw).to_bytes(CRC_BYTES, "little") + shifted(raw, self.key)

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        size = int.from_bytes(stored[:CRC_BYTES], "little")
        if size > raw_limit:
            raise CodecError("over the limit")
        return shifted(stored[CRC_BYTES : CRC_BYTES + size], -self.key).ljust(size, b"\0")


class TrailingTaken(Seal):
    """Passes over what is behind a block."""

    stream = PrefixedStream


class CutTaken(Seal):
    """Fills up a block whose end is missing."""

    stream = PrefixedStream


class CrashingStream(SealStream):
    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        if not stored[0] and not stored:
            raise AssertionError
        return super().decode(stored, position, raw_limit)


class EmptyCrash(Seal):
    """Looks at the first byte of a block that has none."""

    stream = CrashingStream


class GrowingStream(SealStream):
    def encode(self, raw: bytes, position: int) -> bytes:
        return raw.hex().encode()

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        if len(stored) > 2 * raw_limit:
            raise CodecError("over the limit")
        try:
            return bytes.fromhex(stored.decode())
        except (ValueError, UnicodeDecodeError) as error:
            raise CodecError(str(error)) from error


class Growing(Seal):
    """Makes every block twice as long."""

    stream = GrowingStream


# --- preambles, positions, order -------------------------------------------------------------------------------------


class IgnoredPreamble(Seal):
    """Reads an old stream with a new key."""

    def open_stream(self, preamble: bytes, context: StreamContext) -> Any:
        super().open_stream(preamble, context)
        return self.stream(self.random.randrange(256))


class AnyPreamble(Seal):
    """Takes any stream for its own."""

    def open_stream(self, preamble: bytes, context: StreamContext) -> Any:
        return self.stream(preamble[-1])


class LongPreamble(Seal):
    """Needs more room for its preamble than a storage has."""

    def new_stream(self, context: StreamContext) -> tuple[bytes, Any]:
        preamble, stream = super().new_stream(context)
        return MARK * 2000 + preamble, stream

    def open_stream(self, preamble: bytes, context: StreamContext) -> Any:
        return super().open_stream(preamble[-len(MARK) - 1 :], context)


class CountingStream(SealStream):
    """Shifts by one more for every block; decodes in the same order only."""

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.encoded = self.decoded = 0

    def encode(self, raw: bytes, position: int) -> bytes:
        self.encoded += 1
        return SealStream(self.key + self.encoded).encode(raw, position)

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        self.decoded += 1
        return SealStream(self.key + self.decoded).decode(stored, position, raw_limit)


class KeptOrder(Seal):
    """A block can only be read after all blocks before it."""

    stream = CountingStream


class ShortPositionStream(SealStream):
    def seal(self, raw: bytes, position: int) -> bytes:
        return zlib.crc32(raw, zlib.crc32(position.to_bytes(4, "little"))).to_bytes(CRC_BYTES, "little")


class ShortPosition(Seal):
    """Has 32 bits for a position."""

    stream = ShortPositionStream


class OncePerPositionStream(SealStream):
    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.used: set[int] = set()

    def encode(self, raw: bytes, position: int) -> bytes:
        if position in self.used:
            raise CodecError("this position is taken")
        self.used.add(position)
        return super().encode(raw, position)


class OncePerPosition(Seal):
    """Does not expect that entries are superseded."""

    stream = OncePerPositionStream


class SharedKeyStream(SealStream):
    """Encodes with the key of the stream that was made last."""

    newest: ClassVar[int] = 0

    def __init__(self, key: int) -> None:
        super().__init__(key)
        SharedKeyStream.newest = key

    def encode(self, raw: bytes, position: int) -> bytes:
        return SealStream(self.newest).encode(raw, position)


class OneKey(Seal):
    """Has one key for all streams that are written."""

    stream = SharedKeyStream


# --- ownership -------------------------------------------------------------------------------------------------------


class OwnEntropy(Seal):
    """Draws its key from the system."""

    def __init__(self, settings: Any, context: CodecContext) -> None:
        self.random = random.Random(os.urandom(8))


class ViewStream(SealStream):
    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        return memoryview(super().decode(stored, position, raw_limit))  # type: ignore[return-value]


class Views(Seal):
    """Gives a view of a buffer."""

    stream = ViewStream


class HoardingStream(SealStream):
    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.blocks: list[bytes] = []

    def encode(self, raw: bytes, position: int) -> bytes:
        stored = super().encode(raw, position)
        self.blocks.append(stored)
        return stored


class Hoarder(Seal):
    """Keeps every block that it has encoded."""

    stream = HoardingStream


RIGHT = Seal
MEANT: dict[type[Seal], str] = {
    IgnoredLimit: "test_a_block_over_the_raw_limit_is_refused",
    Bomb: "test_a_bomb_is_refused_before_it_takes_memory",
    BareErrors: "test_damage_is_an_error_or_changes_bytes_but_never_exceeds_the_limit",
    TrailingTaken: "test_a_block_with_something_behind_it_is_refused",
    CutTaken: "test_a_block_that_was_cut_is_not_taken_for_whole",
    EmptyCrash: "test_nothing_at_all_is_refused_or_decodes_to_nothing",
    Growing: "test_a_block_grows_by_little",
    IgnoredPreamble: "test_another_instance_reads_a_stream_by_its_preamble",
    AnyPreamble: "test_a_preamble_that_is_not_the_codecs_own_is_refused",
    LongPreamble: "test_a_preamble_is_at_most_four_kibibytes",
    KeptOrder: "test_blocks_are_read_in_any_order",
    ShortPosition: "test_a_position_may_be_any_offset",
    OncePerPosition: "test_a_block_may_be_encoded_again_at_its_position",
    OneKey: "test_streams_of_one_codec_do_not_disturb_each_other",
    OwnEntropy: "test_equal_generators_give_equal_bytes",
    Views: "test_what_comes_out_is_bytes",
    Hoarder: "test_a_stream_keeps_nothing_of_its_blocks",
}
