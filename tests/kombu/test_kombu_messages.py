"""The payload format of kombu messages."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from amqp.exceptions import PreconditionFailed
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import EncodeError

from disheap.protocol import broker
from disheap_kombu.publishing import messages
from disheap_kombu.publishing.messages import Outgoing

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
tables = st.dictionaries(st.text(max_size=8), plain, max_size=4)


def through(message: Outgoing, priority: int = 0, epoch: int = 1, attempts: int = 1):
    payload = messages.encode(message, "ex", "key")
    return messages.to_message(broker.Deliver(1, 7, epoch, priority, 0, payload, 0, attempts), 42, "tag", None)


@given(st.binary(max_size=200), tables, tables)
def test_body_headers_and_properties_come_back_whole(body, headers, properties):
    headers.pop("compression", None)
    message = through(Outgoing(body, 0, "application/x-python", "binary", headers, properties), priority=5)
    assert message.body == body
    assert message.headers == headers
    assert message.properties == {**properties, "priority": 5}
    assert (message.content_type, message.content_encoding) == ("application/x-python", "binary")


def test_a_consumer_sees_where_a_message_came_from_and_how_often():
    info = through(Outgoing("x"), priority=-9, epoch=3, attempts=3).delivery_info
    assert info == {
        "delivery_tag": 42,
        "redelivered": True,
        "exchange": "ex",
        "routing_key": "key",
        "priority": -9,
        "consumer_tag": "tag",
    }
    assert through(Outgoing("x"), epoch=1).delivery_info["redelivered"] is False
    assert through(Outgoing("x"), epoch=0, attempts=2).delivery_info["redelivered"] is True, "by a no-ack get"


def test_text_is_encoded_by_its_content_encoding():
    assert through(Outgoing("ä", content_encoding="latin-1")).body == b"\xe4"
    assert through(Outgoing("ä", content_encoding="binary")).body == "ä".encode()
    assert through(Outgoing("ä")).body == "ä".encode()


def test_the_body_is_not_inflated():
    body = bytes(range(256)) * 4
    assert len(messages.encode(Outgoing(body), "", "q")) < len(body) + 40


@pytest.mark.parametrize("payload", [b"", b"hello", msgspec.msgpack.encode(["k9", 1]), b"\xc1", b"\x98\xa2k1"])
def test_a_payload_of_another_client_is_the_body_as_it_stands(payload):
    decoded = messages.decode(payload)
    assert decoded.body == payload
    assert (decoded.content_type, decoded.content_encoding) == ("application/data", "binary")


@given(st.binary(max_size=100))
def test_no_payload_makes_decoding_fail(payload):
    assert isinstance(messages.decode(payload), messages.Payload)


def test_arrays_in_arrays_beyond_any_stack_are_the_body_too():
    whole = msgspec.msgpack.encode(["k1", b"body", None, None, "", "q", {"h": 0}, {}])
    deep = whole.replace(msgspec.msgpack.encode({"h": 0}), b"\x81\xa1h" + b"\x91" * 100_000)
    assert messages.decode(deep).body == deep


@pytest.mark.parametrize("value", [object(), 1 << 70, {"deep": [object()]}])
def test_a_value_that_msgpack_cannot_encode_is_an_encode_error(value):
    with pytest.raises(EncodeError, match="plain data"):
        messages.encode(Outgoing(b"", headers={"x": value}), "", "q")


def test_an_unknown_option_that_is_no_plain_data_is_left_out_as_with_pyamqp():
    given = {"shadow": object(), "mine": [1], "correlation_id": "c"}
    assert through(Outgoing(b"", properties=given)).properties == {"mine": [1], "correlation_id": "c", "priority": 0}
    assert "shadow" in given  # the dict is the caller's


def test_a_property_of_amqp_that_is_no_plain_data_is_an_encode_error():
    with pytest.raises(EncodeError, match="plain data"):
        messages.encode(Outgoing(b"", properties={"correlation_id": object()}), "", "q")


@pytest.mark.parametrize(
    "given", [{"headers": {1: 2}}, {"headers": {None: 2}}, {"properties": {b"x": 1}}, {"content_type": 5}]
)
def test_a_value_that_cannot_be_decoded_is_an_encode_error(given):
    with pytest.raises(EncodeError, match="is text"):
        messages.encode(Outgoing(b"", **given), "", "q")


def test_maps_inside_headers_may_have_other_keys():
    assert through(Outgoing(b"", headers={"x": {1: 2, None: 3}})).headers == {"x": {1: 2, None: 3}}


def test_a_body_that_is_neither_text_nor_bytes_is_an_encode_error():
    with pytest.raises(EncodeError, match="dict"):
        messages.encode(Outgoing({}), "", "q")


def test_dates_in_headers_survive():
    now = datetime.datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=datetime.UTC)
    assert through(Outgoing(b"", headers={"at": now})).headers == {"at": now}


@pytest.mark.parametrize("priority", [broker.PRIORITY_MIN, -1, 0, 255, broker.PRIORITY_MAX])
def test_any_signed_64_bit_priority_is_kept(priority):
    assert messages.checked_priority(priority) == priority


@pytest.mark.parametrize("priority", [broker.PRIORITY_MIN - 1, broker.PRIORITY_MAX + 1, 1.5, "9"])
def test_a_priority_out_of_range_is_refused_and_never_clamped(priority):
    with pytest.raises(PreconditionFailed, match="out of range"):
        messages.checked_priority(priority)


@pytest.mark.parametrize(
    ("expiration", "milliseconds"), [(None, 0), ("", 0), ("0", 1), ("1500", 1500), (2000, 2000), ("1", 1)]
)
def test_expiration_is_milliseconds_as_text(expiration, milliseconds):
    assert messages.expires_ms({"expiration": expiration}) == milliseconds


@pytest.mark.parametrize("expiration", ["soon", "-1", str(1 << 47), "1.5"])
def test_an_expiration_that_is_no_duration_is_refused(expiration):
    with pytest.raises(PreconditionFailed):
        messages.expires_ms({"expiration": expiration})
