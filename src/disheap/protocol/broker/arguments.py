"""Arguments of a binding to a headers exchange (AMQP 0-9-1, section 3.1.3.4): what they may be, and their bytes.

Arguments are a flat map with the rule of headers, and smaller bounds. None as a value asks only that the message has
the header. `x-match` says how many of the others have to match. The bytes are canonical: two maps with the same content
are one binding. A client encodes them, and the machine encodes them again. Everything here raises `InvalidArgument`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from disheap.errors import InvalidArgument, InvalidHeaders
from disheap.protocol.broker.fields import ARGUMENTS_BYTES_MAX, ARGUMENTS_MAX
from disheap.protocol.broker.headers import HeaderValue, check_header
from disheap.protocol.frames import UNREADABLE

Arguments = Mapping[str, HeaderValue | None]
"""What a client gives."""

X_MATCH = "x-match"
MATCHES = ("all", "any", "all-with-x", "any-with-x")
"""Values of `x-match`; the first is the default. Without `-with-x`, arguments whose names begin with `x-` match
nothing and are ignored."""
RESERVED = "x-"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_VALUE_TYPES = frozenset({str, int, float, bool, bytes, type(None)})


def encode_arguments(arguments: Arguments | None) -> bytes:
    """Arguments as one MessagePack map in the order of the names; no arguments are no bytes."""
    if not arguments:
        return b""
    if not isinstance(arguments, Mapping):
        raise InvalidArgument(f"arguments are one flat map; {type(arguments).__name__} is none")
    if len(arguments) > ARGUMENTS_MAX:
        raise InvalidArgument(f"{len(arguments)} arguments of a binding are over the limit of {ARGUMENTS_MAX}")
    for name, value in arguments.items():
        _check(name, value)
    try:
        encoded = _encode(dict(sorted(arguments.items())))
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"an argument holds text that UTF-8 has no form for: {error}") from None
    if len(encoded) > ARGUMENTS_BYTES_MAX:
        raise InvalidArgument(f"arguments of {len(encoded)} bytes are over the limit of {ARGUMENTS_BYTES_MAX}")
    return encoded


def decode_arguments(encoded: bytes) -> dict[str, HeaderValue | None]:
    """The arguments in these bytes; no bytes are no arguments."""
    if not encoded:
        return {}
    if len(encoded) > ARGUMENTS_BYTES_MAX:
        raise InvalidArgument(f"arguments of {len(encoded)} bytes are over the limit of {ARGUMENTS_BYTES_MAX}")
    try:
        arguments: dict[str, HeaderValue | None] | None = _decode(encoded)
    except UNREADABLE:
        arguments = None
    if arguments is None or not _VALUE_TYPES.issuperset(map(type, arguments.values())):
        raise InvalidArgument(
            "arguments are one flat MessagePack map from text to text, integers of 64 bits, floats, booleans, bytes "
            "and nil; these bytes are none"
        )
    return arguments


def _check(name: str, value: HeaderValue | None) -> None:
    if name == X_MATCH:
        if type(value) is not str or value not in MATCHES:
            raise InvalidArgument(f"{X_MATCH} is one of {', '.join(MATCHES)}, not {value!r}")
        return
    try:
        check_header(name, b"" if value is None else value)
    except InvalidHeaders as error:
        raise InvalidArgument(f"an argument of a binding does not fit: {error}") from None
    if value != value:
        raise InvalidArgument(f"argument {name!r} is not a number, which is equal to nothing")
