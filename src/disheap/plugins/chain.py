"""A chain of codecs, `zstd+aesgcm`, as one codec. The first named sees the raw bytes, the last one's output is stored.

Preamble of a chain (integers little-endian), one part after the other in the order of the name:

| bytes  | field    | meaning                  |
|--------|----------|--------------------------|
| 0-1    | length   | of the part's preamble   |
| 2-     | preamble | the part's own           |
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING

from disheap.errors import CodecError, WrongCodec

if TYPE_CHECKING:
    from disheap.interfaces import Codec, Stream, StreamContext

PREAMBLE_BYTES = 4096  # what `Codec.new_stream` promises; a reader takes no more than this before it knows the file
GROWTH_SHARE = 64  # a part may grow its input by 1/64 and GROWTH_BYTES: zstd needs 1/256, a sealed block 28 bytes
GROWTH_BYTES = 1024

_LENGTH = Struct("<H")


class ChainedCodec:
    """Fits `Codec` for whoever stores; it is built by `Registry.codec`, never found by name."""

    def __init__(self, spec: str, parts: Sequence[Codec]) -> None:
        self.name = spec
        self._parts = tuple(parts)

    def new_stream(self, context: StreamContext) -> tuple[bytes, ChainedStream]:
        """Start a stream of every part. Raises `CodecError` if the joined preamble is too long."""
        preambles, streams = [], []
        for part in self._parts:
            preamble, stream = part.new_stream(context)
            preambles.append(_LENGTH.pack(len(preamble)) + preamble)
            streams.append(stream)
        joined = b"".join(preambles)
        if len(joined) > PREAMBLE_BYTES:
            raise CodecError(
                f"the preambles of codec {self.name!r} are {len(joined)} bytes together, over the {PREAMBLE_BYTES} "
                "that a stream may start with; use fewer parts, or smaller dictionaries"
            )
        return joined, ChainedStream(streams)

    def open_stream(self, preamble: bytes, context: StreamContext) -> ChainedStream:
        """Open a stream that `new_stream` began. Raises `WrongCodec` if another codec wrote the preamble."""
        offset, streams = 0, []
        for part in self._parts:
            own, offset = self._cut(preamble, offset)
            streams.append(part.open_stream(own, context))
        if offset != len(preamble):
            raise self._foreign()
        return ChainedStream(streams)

    def _cut(self, preamble: bytes, offset: int) -> tuple[bytes, int]:
        start = offset + _LENGTH.size
        if start > len(preamble):
            raise self._foreign()
        end = start + _LENGTH.unpack_from(preamble, offset)[0]
        if end > len(preamble):
            raise self._foreign()
        return preamble[start:end], end

    def _foreign(self) -> CodecError:
        return WrongCodec(f"the stream was not written by codec {self.name!r}; set the codec that wrote it")


class ChainedStream:
    """A stream of each part, applied in the order of the name."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._forward = tuple(streams)
        self._inner_first = tuple(streams[1:][::-1])

    def encode(self, raw: bytes, position: int) -> bytes:
        """`raw` after every part has encoded it."""
        for stream in self._forward:
            raw = stream.encode(raw, position)
        return raw

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        """Each part is held to what the parts before it can have made of `raw_limit` bytes."""
        limits = [raw_limit]
        for _ in self._inner_first:
            limits.append(limits[-1] + limits[-1] // GROWTH_SHARE + GROWTH_BYTES)
        for stream in self._inner_first:
            stored = stream.decode(stored, position, limits.pop())
        return self._forward[0].decode(stored, position, raw_limit)
