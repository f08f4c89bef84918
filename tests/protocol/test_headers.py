"""Headers and keys of a message: what a client may give, what bytes are headers, and what is refused in which words."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap.errors import InvalidArgument, InvalidHeaders, InvalidKey
from disheap.protocol import broker
from disheap.protocol.broker import (
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    KEY_BYTES_MAX,
    NAME_CHARACTERS,
    check_key,
    checked_headers,
    decode_headers,
    encode_headers,
)

pack = msgspec.msgpack.encode
values = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.binary()
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.dictionaries(names, values, max_size=20))
def test_headers_come_back_as_they_were_and_of_the_same_types(headers: dict[str, Any]) -> None:
    encoded = encode_headers(headers)
    assert decode_headers(encoded) == headers
    assert {name: type(value) for name, value in decode_headers(encoded).items()} == {
        name: type(value) for name, value in headers.items()
    }
    assert list(decode_headers(encoded)) == list(headers), "the order is kept"


def test_no_headers_are_no_bytes() -> None:
    assert encode_headers({}) == checked_headers(None) == checked_headers({}) == checked_headers(b"") == b""
    assert decode_headers(b"") == {}


def test_encoded_headers_are_checked_and_kept_as_they_are() -> None:
    long_form = b"\xdf\x00\x00\x00\x01" + pack("n") + b"\xd3" + (7).to_bytes(8, "big")
    assert checked_headers(long_form) is long_form
    assert decode_headers(long_form) == {"n": 7}


BAD: list[tuple[Any, str]] = [
    ({"n": [1]}, "'n' is of the type list; a header is a str, int, float, bool or bytes, and nothing is nested"),
    ({"n": {"m": 1}}, "'n' is of the type dict"),
    ({"n": None}, "'n' is of the type NoneType"),
    ({"n": datetime(2026, 1, 1, tzinfo=UTC)}, "'n' is of the type datetime"),
    ({"n": 1 << 64}, "'n' is an integer beyond 64 bits"),
    ({"n": -(1 << 63) - 1}, "'n' is an integer beyond 64 bits"),
    ({1: "one"}, "the name of a header is text, not int"),
    ({b"n": "one"}, "the name of a header is text, not bytes"),
    ({"": 1}, "has 1 to 255 characters, not 0"),
    ({"n" * (NAME_CHARACTERS + 1): 1}, "has 1 to 255 characters, not 256"),
    ({"\ud800": 1}, "UTF-8 has no form for"),
    ({"n": "\ud800"}, "UTF-8 has no form for"),
    ({"n": b"x" * HEADERS_BYTES_MAX}, "are over the limit of 16384; put large data into the payload"),
    ({f"n{number}": 1 for number in range(HEADERS_MAX + 1)}, "257 headers are over the limit of 256"),
    ([("n", 1)], "list is none"),
]


@pytest.mark.parametrize(("headers", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_headers_that_cannot_be_are_refused_before_anything_is_sent(headers: Any, words: str) -> None:
    with pytest.raises(InvalidHeaders, match=words):
        encode_headers(headers)


def named_twice() -> bytes:
    return b"\x82" + pack("n") + pack(1) + pack("n") + pack(2)


BAD_BYTES: list[tuple[bytes, str]] = [
    (named_twice(), "name 1 of 2 headers twice"),
    (b"\xc1", "0xc1, which begins no map"),
    (pack([1]), "0x91, which begins no map"),
    (pack(None), "0xc0, which begins no map"),
    (pack({"n": [1]}), "flat MessagePack map"),
    (pack({"n": {"m": 1}}), "flat MessagePack map"),
    (b"\x81" + pack("n") + b"\x91" * 10_000, "flat MessagePack map"),
    (pack({"n": None}), "flat MessagePack map"),
    (pack({"n": datetime(2026, 1, 1, tzinfo=UTC)}), "flat MessagePack map"),
    (pack({1: "one"}), "flat MessagePack map"),
    (pack({b"n": "one"}), "flat MessagePack map"),
    (pack({"": 1}), "names of 1 to 255 characters"),
    (pack({"n" * (NAME_CHARACTERS + 1): 1}), "names of 1 to 255 characters"),
    (pack({"n": 1})[:-1], "flat MessagePack map"),
    (pack({"n": 1}) + b"\x00", "flat MessagePack map"),
    (b"\x81\xa1\xff\x01", "flat MessagePack map"),
    (b"\x81\xa1n\xa1\xff", "flat MessagePack map"),
    (b"\xde\x00", "flat MessagePack map"),
    (b"\xdf" + struct.pack(">I", HEADERS_MAX + 1), "257 headers are over the limit"),
    (b"\xdf" + struct.pack(">I", (1 << 32) - 1), "4294967295 headers are over the limit"),
    (pack({f"n{number}": 1 for number in range(HEADERS_MAX + 1)}), "257 headers are over the limit of 256"),
    (pack({"n": b"x" * HEADERS_BYTES_MAX}), "over the limit of 16384"),
]


@pytest.mark.parametrize(("encoded", "words"), BAD_BYTES, ids=range(len(BAD_BYTES)))
def test_bytes_that_are_no_headers_are_refused(encoded: bytes, words: str) -> None:
    with pytest.raises(InvalidHeaders, match=words):
        decode_headers(encoded)
    with pytest.raises(InvalidHeaders, match=words):
        checked_headers(encoded)


def test_the_largest_headers_and_as_many_as_may_be_are_taken() -> None:
    empty = len(encode_headers({"n": b"x" * 1000})) - 1000
    largest = encode_headers({"n": b"x" * (HEADERS_BYTES_MAX - empty)})
    assert len(largest) == HEADERS_BYTES_MAX
    assert decode_headers(largest)
    assert len(decode_headers(encode_headers({f"n{number}": 1 for number in range(HEADERS_MAX)}))) == HEADERS_MAX


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"\x82" + rest))
def test_any_bytes_are_headers_or_are_refused(encoded: bytes) -> None:
    try:
        headers = decode_headers(encoded)
    except InvalidHeaders:
        return
    again = encode_headers(headers)
    assert decode_headers(again).keys() == headers.keys()


@pytest.mark.parametrize("key", ["", "k", "k" * KEY_BYTES_MAX, "ä" * (KEY_BYTES_MAX // 2)])
def test_a_key_is_text_of_a_bounded_length(key: str) -> None:
    check_key(key)


BAD_KEYS: list[tuple[Any, str]] = [
    ("k" * (KEY_BYTES_MAX + 1), "a key of 256 bytes is over the limit of 255 bytes"),
    ("ä" * (KEY_BYTES_MAX // 2 + 1), "a key of 256 bytes"),
    ("\ud800", "UTF-8 has no form for"),
    (b"k", "a key is text, not bytes"),
    (7, "a key is text, not int"),
]


@pytest.mark.parametrize(("key", "words"), BAD_KEYS, ids=[words[:25] for _, words in BAD_KEYS])
def test_a_key_that_cannot_be_is_refused(key: Any, words: str) -> None:
    with pytest.raises(InvalidKey, match=words):
        check_key(key)


def test_both_refusals_are_invalid_arguments_with_codes_of_their_own() -> None:
    assert issubclass(InvalidHeaders, InvalidArgument)
    assert issubclass(InvalidKey, InvalidArgument)
    assert (InvalidHeaders.code, InvalidKey.code) == ("invalid-headers", "invalid-key")


def test_the_records_show_their_headers_decoded() -> None:
    encoded = encode_headers({"n": 1})
    assert broker.NewMessage(b"x", encoded_headers=encoded).headers == {"n": 1}
    assert broker.PeekedMessage(1, 0, 0, 0, "ready", 0, b"x", encoded).headers == {"n": 1}
    assert broker.NewMessage(b"x").headers == {}


def test_the_headers_of_one_batch_are_counted_together() -> None:
    each = encode_headers({f"n{number}": 1 for number in range(250)})
    assert broker.check_batch([each] * 80) == broker.BATCH_HEADERS_MAX
    with pytest.raises(InvalidHeaders, match="20250 headers, over the limit of 20000; send fewer at once"):
        broker.check_batch([each] * 81)
