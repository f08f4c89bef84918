"""Headers and keys of a message: what they may be, and how headers become bytes.

Headers are a flat map. They travel and are stored as the bytes that the client made, and are decoded only where
somebody reads them. A client checks them before it sends, and the machine before it changes anything, by the same
functions. Everything here raises `InvalidHeaders` or `InvalidKey`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from disheap.errors import InvalidHeaders, InvalidKey
from disheap.protocol.broker.fields import (
    BATCH_HEADERS_MAX,
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    KEY_BYTES_MAX,
    NAME_CHARACTERS,
)
from disheap.protocol.frames import UNREADABLE

HeaderValue = str | int | float | bool | bytes
Headers = Mapping[str, HeaderValue] | bytes
"""What a client gives: a map, or what `encode_headers` made of one."""

RULE = "headers are one flat MessagePack map from text to text, integers of 64 bits, floats, booleans and bytes"

_SHOWN = 60  # characters of a name in an error
_VALUE_TYPES = frozenset({str, int, float, bool, bytes})
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1  # what MessagePack has a form for
_FIXMAP, _MAP16, _MAP32 = 0x8, 0xDE, 0xDF

_Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[_Name, Any]).decode


def encode_headers(headers: Mapping[str, HeaderValue]) -> bytes:
    """Headers as one MessagePack map; no headers are no bytes. Raises `InvalidHeaders`."""
    if not isinstance(headers, Mapping):
        raise InvalidHeaders(f"{RULE}; {type(headers).__name__} is none")
    if not headers:
        return b""
    for name, value in headers.items():
        check_header(name, value)
    try:
        encoded = _encode(dict(headers))
    except UnicodeEncodeError as error:
        raise InvalidHeaders(f"a header holds text that UTF-8 has no form for: {error}") from None
    _check_size(len(encoded), len(headers))
    return encoded


def decode_headers(encoded: bytes) -> dict[str, HeaderValue]:
    """The headers in these bytes; no bytes are no headers. Raises `InvalidHeaders`, also for a name that is there
    twice.

    Every replica refuses the same bytes in the same words. So the error does not say what the decoder stumbled over:
    how deep it may go depends on the stack."""
    if not encoded:
        return {}
    first = encoded[0]
    count = first & 0xF if first >> 4 == _FIXMAP else count_headers(encoded)  # most maps have up to 15 headers
    if count > HEADERS_MAX or len(encoded) > HEADERS_BYTES_MAX:
        _check_size(len(encoded), count)
    try:
        headers: dict[str, HeaderValue] | None = _decode(encoded)
    except UNREADABLE:
        headers = None
    if headers is None or not _VALUE_TYPES.issuperset(map(type, headers.values())):
        raise InvalidHeaders(f"{RULE}, with names of 1 to {NAME_CHARACTERS} characters; these bytes are none")
    if len(headers) != count:
        raise InvalidHeaders(f"the headers name {count - len(headers)} of {count} headers twice")
    return headers


def checked_headers(headers: Headers | None) -> bytes:
    """The encoded headers of what a client gave. Raises `InvalidHeaders`."""
    if not headers:
        return b""
    if isinstance(headers, bytes):
        decode_headers(headers)
        return headers
    return encode_headers(headers)


def count_headers(encoded: bytes) -> int:
    """How many headers the map says that it has; no more is read. Raises `InvalidHeaders` if there is no map."""
    first = encoded[0]
    if first >> 4 == _FIXMAP:
        return first & 0xF
    if first in (_MAP16, _MAP32):
        return int.from_bytes(encoded[1 : 3 if first == _MAP16 else 5], "big")
    raise InvalidHeaders(f"{RULE}; these bytes begin with {first:#04x}, which begins no map")


def check_batch(encoded: Iterable[bytes]) -> int:
    """How many headers the messages of one batch have. Raises `InvalidHeaders` if they are too many in all. The headers
    of each message are not looked at."""
    count = sum(map(count_headers, encoded))
    if count > BATCH_HEADERS_MAX:
        raise InvalidHeaders(
            f"the messages of one batch have {count} headers, over the limit of {BATCH_HEADERS_MAX}; send fewer at once"
        )
    return count


def check_key(key: str) -> None:
    """Raises `InvalidKey`."""
    if not isinstance(key, str):
        raise InvalidKey(f"a key is text, not {type(key).__name__}")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(f"a key holds text that UTF-8 has no form for: {error}") from None
    if size > KEY_BYTES_MAX:
        raise InvalidKey(f"a key of {size} bytes is over the limit of {KEY_BYTES_MAX} bytes in UTF-8")


def _check_size(size: int, count: int) -> None:
    if size > HEADERS_BYTES_MAX:
        raise InvalidHeaders(
            f"headers of {size} bytes are over the limit of {HEADERS_BYTES_MAX}; put large data into the payload"
        )
    if count > HEADERS_MAX:
        raise InvalidHeaders(f"{count} headers are over the limit of {HEADERS_MAX}; put some into the payload")


def check_header(name: Any, value: Any) -> None:
    """Raises `InvalidHeaders` if this is no name or no value of a header."""
    if type(name) is not str:
        raise InvalidHeaders(f"the name of a header is text, not {type(name).__name__}")
    if not 1 <= len(name) <= NAME_CHARACTERS:
        raise InvalidHeaders(
            f"the name of a header has 1 to {NAME_CHARACTERS} characters, not {len(name)}: {name[:_SHOWN]!r}"
        )
    if type(value) not in _VALUE_TYPES:
        raise InvalidHeaders(
            f"header {name[:_SHOWN]!r} is of the type {type(value).__name__}; a header is a str, int, float, bool or "
            "bytes, and nothing is nested"
        )
    if type(value) is int and not _INT_MIN <= value <= _INT_MAX:
        raise InvalidHeaders(f"header {name[:_SHOWN]!r} is an integer beyond 64 bits")
