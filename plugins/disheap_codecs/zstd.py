"""Codec `zstd`: every block a frame of its own, so that any block can be read without those before it.

Owns the choice whether a block is compressed, and the guard against decompression bombs. Does not know the content of
blocks.

A stored block is one marker byte and the content:

    offset  size  field
    0       1     0: the raw bytes follow; 1: one zstd frame follows
    1       n     content

The preamble is one byte, the version of this format, 1. The codec has no dictionary and no state between blocks.

**Bombs.** `decompress(data, max_output_size=n)` ignores n where a frame declares its size, and a frame of 8 KiB can
declare 256 MiB. So the frame's header is read first. A declared size over the limit is refused before memory is taken.
A frame without a declared size is decompressed in small pieces, up to the limit. Windows over 8 MiB are refused in both
cases. Levels stop at 19, the last whose window fits.

**Contexts** are kept by thread and reused. Making one costs more than compressing a small block. Using one from two
threads at once is undefined (zstandard releases the interpreter's lock).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
import zstandard

from disheap.errors import CodecError, WrongCodec
from disheap.interfaces import CodecContext, StreamContext

PREAMBLE = b"\x01"
PLAIN = b"\x00"
FRAME = b"\x01"

WINDOW_BYTES = 8 << 20
"""The largest window read; what level 19 writes at most."""

PIECE_BYTES = 64
"""Input taken between two checks of the limit, where a frame declares no size. 4 bytes can stand for a block of
128 KiB, so this piece becomes 2 MiB at most. Such frames are only read, never written: their speed does not matter."""

GAIN = 16
"""A frame is kept only if it saves a sixteenth: less is not worth decompressing for."""


class ZstdSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the codec `zstd`, from the table `[codec.zstd]`."""

    level: Annotated[int, msgspec.Meta(ge=1, le=19, description="of zstd; more is smaller and slower")] = 1
    """Compression stands between a command and its fsync; level 1 takes about as long as the fsync of a fast disk."""

    plain_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 20, description="blocks under it are not compressed")] = 1024
    """Blocks under this many bytes are stored plain. A single command is one block. To compress it takes 10 to 30 us on
    its way to the disk, and saves no page of the disk."""


class ZstdCodec:
    """The codec `zstd`: each block is one zstd frame, or plain if it would not get smaller."""

    name: ClassVar[str] = "zstd"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = ZstdSettings

    def __init__(self, settings: ZstdSettings, context: CodecContext) -> None:
        self._stream = ZstdStream(settings)

    def new_stream(self, context: StreamContext) -> tuple[bytes, ZstdStream]:
        """Returns one shared stream, because it has no state. The preamble is one byte."""
        return PREAMBLE, self._stream

    def open_stream(self, preamble: bytes, context: StreamContext) -> ZstdStream:
        """Raises `WrongCodec` for the preamble of another codec."""
        if preamble != PREAMBLE:
            raise WrongCodec(
                f"{context.label}: the preamble {preamble[:8].hex() or '(empty)'} is not of codec 'zstd', version 1; "
                "configure the codec that wrote it"
            )
        return self._stream


class ZstdStream:
    """Without state between blocks, so one serves all streams of a codec."""

    def __init__(self, settings: ZstdSettings) -> None:
        self._plain_bytes = settings.plain_bytes
        self._contexts = _Contexts(settings.level)

    def encode(self, raw: bytes, position: int) -> bytes:
        """A marker byte, then a frame, or the raw bytes if a frame saves less than it costs to decode."""
        if len(raw) >= self._plain_bytes:
            frame = self._contexts.compressor.compress(raw)
            if len(frame) + len(raw) // GAIN < len(raw):
                return FRAME + frame
        return PLAIN + raw

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        """Checks the size that the frame announces against `raw_limit`, then decompresses it."""
        marker = stored[:1]
        if marker == PLAIN:
            _check_size(len(stored) - 1, raw_limit)
            return stored[1:]
        if marker != FRAME:
            raise CodecError(f"block at {position} begins with {marker.hex() or 'nothing'}, not with a zstd marker")
        try:
            return self._decompress(stored[1:], raw_limit)
        except zstandard.ZstdError as error:
            raise CodecError(f"block at {position} cannot be decompressed: {error}") from error

    def _decompress(self, frame: bytes, raw_limit: int) -> bytes:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.window_size > WINDOW_BYTES:
            raise CodecError(f"window of {parameters.window_size} bytes exceeds the limit of {WINDOW_BYTES}")
        if parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            return self._decompress_unsized(frame, raw_limit)
        _check_size(parameters.content_size, raw_limit)
        raw = self._contexts.decompressor.decompress(frame, allow_extra_data=False)
        if len(raw) != parameters.content_size:
            raise CodecError(f"frame declares {parameters.content_size} bytes and holds {len(raw)}")
        return raw

    def _decompress_unsized(self, frame: bytes, raw_limit: int) -> bytes:
        reader, pieces, size = self._contexts.decompressor.decompressobj(), [], 0
        for start in range(0, len(frame), PIECE_BYTES):
            if reader.eof:
                raise CodecError(f"frame ends at byte {start} of {len(frame)}; what follows is not part of it")
            piece = reader.decompress(frame[start : start + PIECE_BYTES])
            pieces.append(piece)
            size += len(piece)
            _check_size(size, raw_limit)
        if not reader.eof or reader.unused_data:
            raise CodecError(f"frame of {len(frame)} bytes does not end where it should")
        return b"".join(pieces)


class _Contexts(threading.local):
    """One compressor and one decompressor for each thread."""

    def __init__(self, level: int) -> None:
        self.compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)


def _check_size(size: int, raw_limit: int) -> None:
    if size > raw_limit:
        raise CodecError(f"block of {size} raw bytes exceeds the limit of {raw_limit}")


if TYPE_CHECKING:
    from disheap.interfaces import Codec

    _fits: type[Codec] = ZstdCodec
