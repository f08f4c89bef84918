"""The envelopes in the data of an entry, read without the product's own reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from disheap.protocol.frames import ENVELOPE


class Envelope(NamedTuple):
    """One envelope of an entry of commands, decoded."""

    kind: int
    session: int
    seq: int
    confirmed: int
    body: bytes


def read_envelopes(data: bytes) -> Iterator[Envelope]:
    """Yields the envelopes of an entry of commands."""
    position = 0
    while position < len(data):
        length, kind, _, session, seq, confirmed = ENVELOPE.unpack_from(data, position)
        body = data[position + ENVELOPE.size : position + 4 + length]
        position += 4 + length
        yield Envelope(kind, session, seq, confirmed, body)
