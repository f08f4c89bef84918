"""Codec `none`: bytes are stored as they are.

The raw limit is checked here too. So code that reads through a codec needs no check of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap.errors import CodecError, WrongCodec
from disheap.interfaces import CodecContext, StreamContext


class NoneSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to set."""


class PlainStream:
    """Hands back what it was given."""

    def encode(self, raw: bytes, position: int) -> bytes:
        """Returns `raw` itself."""
        return raw

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        """Returns `stored` itself. Raises `CodecError` above `raw_limit`."""
        if len(stored) > raw_limit:
            raise CodecError(f"block of {len(stored)} bytes exceeds the limit of {raw_limit}")
        return stored


class NoneCodec:
    """The codec `none`: bytes are stored as they are, with an empty preamble."""

    name: ClassVar[str] = "none"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = NoneSettings

    def __init__(self, settings: NoneSettings, context: CodecContext) -> None:
        self._stream = PlainStream()

    def new_stream(self, context: StreamContext) -> tuple[bytes, PlainStream]:
        """Returns one shared stream, because it has no state. The preamble is empty."""
        return b"", self._stream

    def open_stream(self, preamble: bytes, context: StreamContext) -> PlainStream:
        """Raises `WrongCodec` unless the preamble is empty."""
        if preamble:
            raise WrongCodec(
                f"{context.label}: a preamble of {len(preamble)} bytes is not of codec 'none', which writes none; "
                "configure the codec that wrote it"
            )
        return self._stream


if TYPE_CHECKING:
    from disheap.interfaces import Codec

    _fits: type[Codec] = NoneCodec
