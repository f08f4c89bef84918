"""Encoding of replies and pushes: one cached encoder, replies that never vary, and the tag of a body."""

from __future__ import annotations

import msgspec

from disheap.protocol.broker import Done, Published, Settled, Stored

encode = msgspec.msgpack.Encoder().encode

DONE = encode(Done())
SETTLED_ONE = encode(Settled(1, []))
STORED = (encode(Stored(False)), encode(Stored(True)))
PUBLISHED = (encode(Published(0)), encode(Published(1)))

_FIXARRAY = 0x9
_UINT8 = b"\xcc"
_POSITIVE_MAX = 0x7F
_ARRAY_BYTES = {b"\xdc": 3, b"\xdd": 5}
"""How msgpack begins an array: 0x9 in the upper half of the byte, or one of these and the length. A number up to
`_POSITIVE_MAX` is one byte."""


def known_tag(body: bytes) -> int | None:
    """The tag of a body, or None if it has none. Reads nothing after the tag, so the rest of the body may be damaged.
    Tags are below 256."""
    array = body[:1] or b"\0"
    at = 1 if array[0] >> 4 == _FIXARRAY else _ARRAY_BYTES.get(array, len(body))
    tag = body[at : at + 2]
    if tag[:1] == _UINT8:
        return tag[1] if len(tag) == 2 else None
    return tag[0] if tag and tag[0] <= _POSITIVE_MAX else None
