"""kombu messages as the payload of a disheap message, and back.

Owns the format. It refuses to know channels and sockets. A payload is a msgpack array, with the body as the bytes
they are (no base64), and headers and properties whole:

| element | field            | meaning                                                     |
|---------|------------------|-------------------------------------------------------------|
| 0       | tag              | "k1": this format, version 1                                |
| 1       | body             | bin; text is encoded by its content encoding                |
| 2       | content_type     | str or nil                                                  |
| 3       | content_encoding | str or nil                                                  |
| 4       | exchange         | str, as published                                           |
| 5       | routing_key      | str, as published                                           |
| 6       | headers          | map                                                         |
| 7       | properties       | map: correlation_id, reply_to, delivery_mode, ... and own   |

Priority and expiry travel beside the payload, where the broker reads them. A payload that is not in this format was put
there by a client that does not speak kombu. Its bytes become the body of a message of type application/data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from amqp.exceptions import PreconditionFailed
from kombu.exceptions import EncodeError
from kombu.message import Message

from disheap.protocol import broker
from disheap.protocol.frames import UNREADABLE

PLAIN_TYPE, PLAIN_ENCODING = "application/data", "binary"


class Payload(msgspec.Struct, array_like=True, frozen=True, tag="k1"):
    """What a message of kombu is in disheap: the payload's bytes are this, in msgpack."""

    body: bytes
    content_type: str | None
    content_encoding: str | None
    exchange: str
    routing_key: str
    headers: dict[str, Any]
    properties: dict[str, Any]


class Outgoing:
    """What `Producer` gets from `prepare_message`. The properties stay the caller's own: kombu fills in `reply_to`
    after. `due_s`: not to be delivered before, in seconds since 1970; 0 for at once."""

    __slots__ = ("body", "content_encoding", "content_type", "due_s", "headers", "priority", "properties")

    def __init__(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        due_s: float = 0.0,
    ) -> None:
        self.body = body
        self.priority = priority or 0
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers or {}
        self.properties = properties or {}
        self.due_s = due_s


AMQP_PROPERTIES = frozenset(
    (
        "app_id",
        "cluster_id",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "message_id",
        "priority",
        "reply_to",
        "timestamp",
        "type",
        "user_id",
    )
)
"""Properties that somebody reads. Any other option of a publish is kept where it is plain data, and left out where it
is not, as pyamqp leaves it out."""

UNWRITABLE = (TypeError, OverflowError, ValueError, RecursionError, msgspec.MsgspecError)
"""What an encoder raises for data that msgpack has no form for."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Payload).decode


def encode(message: Outgoing, exchange: str, routing_key: str) -> bytes:
    """Raises kombu's `EncodeError` for headers and AMQP properties that msgpack has no form for, and for what `decode`
    would take for another client's payload. A worker drops a message that it cannot read."""
    _check_texts(message.headers, "a header's name")
    _check_texts(message.properties, "a property's name")
    _check_texts((message.content_type or "", message.content_encoding or ""), "a content type or encoding")
    body = message.body
    if type(body) is not bytes:
        body = _as_bytes(body, message.content_encoding)
    payload = Payload(
        body,
        message.content_type,
        message.content_encoding,
        exchange,
        routing_key,
        message.headers,
        message.properties,
    )
    try:
        return _encode(payload)
    except UNWRITABLE:
        pass
    try:
        return _encode(msgspec.structs.replace(payload, properties=_readable(message.properties)))
    except UNWRITABLE as error:
        raise EncodeError(f"headers and properties must be plain data: {error}") from error


def _readable(properties: dict[str, Any]) -> dict[str, Any]:
    """Without the options that are neither AMQP's properties nor plain data."""
    return {name: value for name, value in properties.items() if name in AMQP_PROPERTIES or _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        _encode(value)
    except UNWRITABLE:
        return False
    return True


def _check_texts(given: Iterable[Any], what: str) -> None:
    for text in given:
        if not isinstance(text, str):
            raise EncodeError(f"{what} is text, not {text!r}")


def _as_bytes(body: Any, encoding: str | None) -> bytes:
    if isinstance(body, str):
        try:
            return body.encode(encoding or "utf-8")
        except LookupError:  # "binary" and the like name no character set
            return body.encode("utf-8")
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise EncodeError(f"a message body is text or bytes, not {type(body).__name__}; name a serializer")


def decode(payload: bytes) -> Payload:
    """Never raises: what is not ours is the body."""
    try:
        return _decode(payload)
    except UNREADABLE:
        return Payload(payload, PLAIN_TYPE, PLAIN_ENCODING, "", "", {}, {})


def to_message(
    push: broker.Deliver, delivery_tag: int, consumer_tag: str | None, channel: Any, priority_sign: int = 1
) -> Message:
    """A delivery as kombu's own message. `consumer_tag` is None for one that was asked for (basic.get)."""
    payload = decode(push.payload)
    properties, priority = payload.properties, push.priority * priority_sign
    properties["priority"] = priority
    info = {
        "delivery_tag": delivery_tag,
        "redelivered": push.attempts > 1,
        "exchange": payload.exchange,
        "routing_key": payload.routing_key,
        "priority": priority,
    }
    if consumer_tag is not None:
        info["consumer_tag"] = consumer_tag
    return Message(  # type: ignore[no-untyped-call]
        body=payload.body,
        delivery_tag=delivery_tag,
        content_type=payload.content_type,
        content_encoding=payload.content_encoding,
        delivery_info=info,
        properties=properties,
        headers=payload.headers,
        channel=channel,
    )


def expires_ms(properties: dict[str, Any]) -> int:
    """The property `expiration` (milliseconds, as text): 0 for never. "0" means at once, which is one millisecond
    here."""
    expiration = properties.get("expiration")
    if expiration is None or expiration == "":
        return 0
    try:
        return max(1, duration_ms(int(expiration), "expiration"))
    except (TypeError, ValueError):
        raise PreconditionFailed(f"expiration {expiration!r} is not a number of milliseconds") from None


def duration_ms(value: int, name: str) -> int:
    """Raises 406 with the name of what holds it."""
    if not 0 <= value <= broker.DURATION_MAX_MS:
        raise PreconditionFailed(f"{name} is {value} ms; a duration is from 0 to {broker.DURATION_MAX_MS} ms")
    return value


def checked_priority(priority: Any, sign: int = 1) -> int:
    """Any signed 64-bit integer, the larger first. With a `sign` of -1 the smaller goes first, and becomes the larger
    one here. Nothing is clamped: a priority that cannot be kept is an error."""
    lowest, highest = sorted((broker.PRIORITY_MIN * sign, broker.PRIORITY_MAX * sign))
    if not isinstance(priority, int) or not lowest <= priority <= highest:
        raise PreconditionFailed(
            f"priority {priority!r} is out of range: it is a whole number from {lowest} to {highest}, and the "
            f"{'larger' if sign > 0 else 'smaller'} goes first"
        )
    return priority * sign
