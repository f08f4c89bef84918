"""The first frames of a connection: which version is chosen, and what is refused with which error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap.errors import (
    CredentialsRefused,
    MalformedFrame,
    ProtocolError,
    UnknownMechanism,
    WrongVersion,
    protocol_error,
)
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.handshake import ANONYMOUS, EXTERNAL, Hello, Versions, Welcome
from disheap.runtime.clients.principal import authenticate

LIMITS = handshake.ClientLimits(1 << 20, (1 << 20) - 26, 1 << 28, 64, 1, 86_400_000, 3000, 60_000, 128)
WELCOME = Welcome("wax", 3, "n1", True, "", ["n1:8400"], "heap", 1, LIMITS)
numbers = st.integers(0, 65_533)


def body_of(frame: bytes) -> bytes:
    return frames.open_plain(frame)


def test_a_hello_keeps_its_content() -> None:
    content = Hello("c", 7, "me", "1.2", EXTERNAL, b"who")
    assert handshake.open_hello(body_of(handshake.hello(Kind.HELLO, content)), Hello) == (2, content)


def test_the_bytes_of_a_hello_are_those_of_the_page() -> None:
    frame = handshake.hello(Kind.HELLO, Hello(group=1))
    assert frame == b"\x15\x00\x00\x00\x10\x00" + b"disheap" + b"\x02\x00\x02\x00" + b"\x81\xa5group\x01"


def test_a_welcome_keeps_its_content_and_begins_with_the_version() -> None:
    body = body_of(handshake.welcome(Kind.WELCOME, 2, WELCOME))
    assert body[:2] == b"\x02\x00"
    assert handshake.open_welcome(body, Welcome) == (2, WELCOME)


@pytest.mark.parametrize(
    ("offered", "supported", "chosen"),
    [
        (Versions(2, 2), Versions(2, 2), 2),
        (Versions(2, 9), Versions(2, 4), 4),
        (Versions(3, 4), Versions(2, 9), 4),
        (Versions(2, 3), Versions(3, 9), 3),
    ],
)
def test_the_highest_version_that_both_speak_is_chosen(offered: Versions, supported: Versions, chosen: int) -> None:
    body = body_of(handshake.hello(Kind.HELLO, Hello(), offered))
    assert handshake.open_hello(body, Hello, supported)[0] == chosen


@pytest.mark.parametrize(
    ("offered", "supported", "says"),
    [
        (Versions(7, 9), Versions(2, 2), "speaks protocol versions 7 to 9, this one version 2; use releases"),
        (Versions(2, 2), Versions(3, 4), "speaks protocol version 2, this one versions 3 to 4; use releases"),
    ],
)
def test_ranges_that_do_not_meet_are_refused_with_both(offered: Versions, supported: Versions, says: str) -> None:
    with pytest.raises(WrongVersion, match=says):
        handshake.open_hello(body_of(handshake.hello(Kind.HELLO, Hello(), offered)), Hello, supported)


def test_a_hello_of_version_1_is_another_version_and_not_rubbish() -> None:
    with pytest.raises(WrongVersion, match="speaks protocol version 1, this one version 2"):
        handshake.open_hello(b"disheap\x01\x00\x81\xa6client\xa2me", Hello)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(MalformedFrame, match="from 4 to 3"):
        handshake.open_hello(body_of(handshake.hello(Kind.HELLO, Hello(), Versions(4, 3))), Hello)


@pytest.mark.parametrize(
    "body", [b"", b"disheap", b"disheap\x02", b"disheap\x02\x00\x02", b"HTTP/1.1 and so on", b"disheap\x02\x00\x02\x00"]
)
def test_a_hello_that_is_cut_or_none_at_all_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedFrame):
        handshake.open_hello(body, Hello)


@pytest.mark.parametrize(
    "content",
    [{"group": -1}, {"group": 1 << 32}, {"group": "a"}, {"client": "x" * 256}, {"mechanism": 4}, {"credentials": "x"}],
)
def test_a_field_of_a_hello_that_is_out_of_its_bounds_is_malformed(content: dict[str, object]) -> None:
    body = b"disheap\x02\x00\x02\x00" + msgspec.msgpack.encode(content)
    with pytest.raises(MalformedFrame, match="a HELLO that cannot be read"):
        handshake.open_hello(body, Hello)


def test_fields_of_a_later_version_are_ignored() -> None:
    hello = msgspec.msgpack.encode({"client": "me", "shoe_size": 43})
    assert handshake.open_hello(b"disheap\x02\x00\x05\x00" + hello, Hello) == (2, Hello(client="me"))
    welcome = msgspec.msgpack.encode(msgspec.to_builtins(WELCOME) | {"shoe_size": 43})
    assert handshake.open_welcome(b"\x02\x00" + welcome, Welcome) == (2, WELCOME)


@pytest.mark.parametrize("version", [0, 1, 3, 65_535])
def test_a_welcome_with_a_version_that_was_not_offered_is_refused(version: int) -> None:
    body = body_of(handshake.welcome(Kind.WELCOME, version, WELCOME))
    with pytest.raises(WrongVersion, match=f"chose protocol version {version}, and this one offered version 2"):
        handshake.open_welcome(body, Welcome)


@given(numbers, numbers, numbers, numbers)
@settings(deadline=None)
def test_a_version_is_chosen_only_if_both_sides_speak_it(a: int, b: int, c: int, d: int) -> None:
    offered, supported = Versions(*sorted((a + 2, b + 2))), Versions(*sorted((c, d)))
    try:
        chosen, _ = handshake.open_hello(body_of(handshake.hello(Kind.HELLO, Hello(), offered)), Hello, supported)
    except ProtocolError:
        assert offered.highest < supported.lowest or supported.highest < offered.lowest
    else:
        assert offered.lowest <= chosen <= offered.highest and supported.lowest <= chosen <= supported.highest


# --- who the client is ---


@pytest.mark.parametrize(
    ("hello", "names", "principal"),
    [
        (Hello(), None, ""),
        (Hello(), (), ""),
        (Hello(), ("ann",), "ann"),
        (Hello(), ("ann", "bob"), "ann"),
        (Hello(mechanism=EXTERNAL), ("ann", "bob"), "ann"),
        (Hello(mechanism=EXTERNAL, credentials=b"ann"), ("ann", "bob"), "ann"),
    ],
)
def test_the_first_name_of_a_certificate_is_the_principals(
    hello: Hello, names: tuple[str, ...] | None, principal: str
) -> None:
    assert authenticate(hello, names) == principal


@pytest.mark.parametrize(
    ("hello", "names", "says"),
    [
        (Hello(mechanism=EXTERNAL), None, "this connection has none"),
        (Hello(mechanism=EXTERNAL), (), "this connection has none"),
        (Hello(mechanism=EXTERNAL, credentials=b"bob"), ("ann",), "the client asks for another name"),
        (Hello(mechanism=EXTERNAL, credentials=b"bob"), ("ann", "bob"), "the first name in the certificate is 'ann'"),
        (Hello(mechanism=ANONYMOUS, credentials=b"bob"), None, "takes no credentials"),
    ],
)
def test_credentials_that_prove_nothing_are_refused(hello: Hello, names: tuple[str, ...] | None, says: str) -> None:
    with pytest.raises(CredentialsRefused, match=says):
        authenticate(hello, names)


def test_an_unknown_mechanism_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(UnknownMechanism, match=r"'scram'.*this node has anonymous, external"):
        authenticate(Hello(mechanism="scram"), ("ann",))


@pytest.mark.parametrize("code", ["unknown-group", "unknown-mechanism", "credentials-refused", "wrong-version"])
def test_the_refusals_of_a_handshake_are_typed_for_the_client(code: str) -> None:
    error = protocol_error(code, "why")
    assert error is not None and error.code == code and str(error) == "why"
