"""Encoding, in one place: one cached encoder, the replies that never vary, and the tag of what cannot be decoded."""

from __future__ import annotations

import msgspec

from disheap.protocol.broker import Done, Published, Settled

encode = msgspec.msgpack.Encoder().encode

DONE = encode(Done())
SETTLED_ONE = encode(Settled(1, []))
PUBLISHED = (encode(Published(0)), encode(Published(1)))

_FIXARRAY = 0x9
_UINT8 = b"\xcc"
_POSITIVE_MAX = 0x7F
_ARRAY_BYTES = {b"\xdc": 3, b"\xdd": 5}
"""Of msgpack: how an array begins (0x9 in the upper half of the byte, or these with a length), and a small number."""


def known_tag(body: bytes) -> int | None:
    """The tag of a body, for an error about one that does not decode; None where it has none. Reads no further: what
    follows may be anything. Tags are below 256."""
    array = body[:1] or b"\0"
    at = 1 if array[0] >> 4 == _FIXARRAY else _ARRAY_BYTES.get(array, len(body))
    tag = body[at : at + 2]
    if tag[:1] == _UINT8:
        return tag[1] if len(tag) == 2 else None
    return tag[0] if tag and tag[0] <= _POSITIVE_MAX else None
