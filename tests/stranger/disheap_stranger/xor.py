"""Codec `xor`: a toy with a setting, a preamble and a position, which is all that a codec can depend on."""

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.errors import CodecError

MAGIC = b"xor1"


class XorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Annotated[int, Meta(ge=0, le=255, description="what every byte is crossed with")] = 0x5A


class XorCodec:
    name = "xor"
    api = 1
    Settings = XorSettings

    def __init__(self, settings, context):
        self._key = settings.key

    def new_stream(self, context):
        return MAGIC + bytes([self._key]), XorStream(self._key)

    def open_stream(self, preamble, context):
        """By the preamble's key: what was written under another setting stays readable."""
        if len(preamble) != len(MAGIC) + 1 or not preamble.startswith(MAGIC):
            raise CodecError("the stream was not written by codec 'xor'; set the codec that wrote it")
        return XorStream(preamble[-1])


class XorStream:
    """Stored: one byte, the sum of the raw bytes, then each raw byte crossed with key and position."""

    def __init__(self, key):
        self._key = key

    def encode(self, raw, position):
        return bytes([sum(raw) & 0xFF]) + self._cross(raw, position)

    def decode(self, stored, position, raw_limit):
        if not stored:
            raise CodecError("a block of no bytes: it is damaged")
        if len(stored) - 1 > raw_limit:
            raise CodecError(f"a block of {len(stored)} stored bytes is over the limit of {raw_limit} raw bytes")
        raw = self._cross(stored[1:], position)
        if sum(raw) & 0xFF != stored[0]:
            raise CodecError("the block's sum does not match: it is damaged, or from another position")
        return raw

    def _cross(self, data, position):
        return data.translate(bytes(byte ^ self._key ^ (position & 0xFF) for byte in range(256)))
