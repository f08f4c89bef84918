"""The contract of codecs: what a storage does with bytes before they go to disk."""

from __future__ import annotations

import random
from typing import Any, NamedTuple, Protocol

from disheap.interfaces.plugin import Plugin


class StreamContext(NamedTuple):
    """What a stream is: `purpose` is "segment", "snapshot" or "connection"; `label` names it within its node."""

    purpose: str
    label: str


class Stream(Protocol):
    """One segment, snapshot or connection. `position` is that of the block in it. It is below 2^62; positions have gaps
    and come in any order. A position is encoded again when the entries that were there are superseded. So a stream
    whose secrecy needs a nonce once must not make it of the position alone. Called on the disk's thread, one call at a
    time."""

    def encode(self, raw: bytes, position: int) -> bytes:
        """What is stored: at most a sixty-fourth and 1,024 bytes longer than `raw`. The caller owns the result. Raises
        nothing."""

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        """Raises `CodecError` when `stored` is damaged or would exceed `raw_limit` bytes; memory is taken after that
        check, never before."""


class CodecContext(NamedTuple):
    """What a codec is built with. All its entropy comes from `random`: equal generators give equal bytes, so that a
    simulated cluster can be run again. A node gives it the system's entropy."""

    random: random.Random


class Codec(Plugin, Protocol):
    """What is done to blocks on their way to a storage, such as compression or encryption."""

    def __init__(self, settings: Any, context: CodecContext) -> None: ...

    def new_stream(self, context: StreamContext) -> tuple[bytes, Stream]:
        """A preamble (what is needed to read the stream again; at most 4 KiB) and the stream."""

    def open_stream(self, preamble: bytes, context: StreamContext) -> Stream:
        """The stream again, by its preamble alone: the codec that wrote it may have run in another process, with other
        settings. Raises `WrongCodec`, a `CodecError`, when the preamble is not this codec's."""
