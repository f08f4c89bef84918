"""The contract of codecs: what a storage does with bytes before they go to disk."""

from __future__ import annotations

import random
from typing import Any, NamedTuple, Protocol

from disheap.interfaces.plugin import Plugin


class StreamContext(NamedTuple):
    """What a stream is for. `purpose` is "segment", "snapshot", "backup" or "connection". `label` names the stream
    within its node."""

    purpose: str
    label: str


class Stream(Protocol):
    """One segment, snapshot or connection. `position` is the place of a block in it. It is below 2^62. Positions have
    gaps and come in any order. A position is used again when the entries that were there are superseded. So a stream
    that needs a nonce only once must not make it from the position alone. Called on the disk's thread, one call at a
    time."""

    def encode(self, raw: bytes, position: int) -> bytes:
        """Returns the block to store, at most a sixty-fourth and 1,024 bytes longer than `raw`. The caller owns the
        result. Raises nothing."""

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        """Returns the raw block. Raises `CodecError` when `stored` is damaged or would exceed `raw_limit` bytes. Memory
        is allocated only after that check."""


class CodecContext(NamedTuple):
    """What a codec is built with. All its entropy comes from `random`. Equal generators give equal bytes, so that a
    simulated cluster can be run again. A node passes the system's entropy."""

    random: random.Random


class Codec(Plugin, Protocol):
    """Encodes blocks before they go to a storage, for example to compress or encrypt them."""

    def __init__(self, settings: Any, context: CodecContext) -> None: ...

    def new_stream(self, context: StreamContext) -> tuple[bytes, Stream]:
        """Returns a preamble and the stream. The preamble is what `open_stream` needs to read the stream, at most 4
        KiB."""

    def open_stream(self, preamble: bytes, context: StreamContext) -> Stream:
        """Opens a stream again with the preamble alone. The codec that wrote it may have run in another process, with
        other settings. Raises `WrongCodec`, a `CodecError`, when the preamble does not belong to this codec."""
