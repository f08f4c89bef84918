"""Between the messages of `disheap.v1` and the records of `disheap.protocol.broker`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disheap.client.api.consuming import Delivery
from disheap.errors import InvalidArgument, InvalidHeaders
from disheap.protocol import broker
from disheap.protocol.broker import HeaderValue, NewMessage, encode_headers
from disheap_grpc.settings import COUNT_MAX
from disheap_grpc.v1 import broker_pb2 as pb


def new_message(message: Any) -> NewMessage:
    """What a client sends. Raises `InvalidHeaders` and `InvalidKey`."""
    headers = encode_headers(_headers(message.headers)) if message.headers else b""
    new = NewMessage(message.payload, message.priority, message.delay_ms, message.expires_ms, headers, message.key)
    new.check_key()
    return new


def delivery(message: Delivery, lease: bytes) -> Any:
    """What a client gets."""
    out = pb.Delivery(
        id=message.id,
        lease=lease,
        payload=message.payload,
        priority=message.priority,
        key=message.key,
        attempts=message.attempts,
        enqueued_ms=message.enqueued_ms,
        lease_until_ms=message.lease_until_ms,
    )
    _set_headers(out.headers, message.headers)
    return out


def peeked(message: broker.PeekedMessage) -> Any:
    """One message of a Peek."""
    out = pb.PeekedMessage(
        id=message.id,
        payload=message.payload,
        priority=message.priority,
        key=message.key,
        attempts=message.attempts,
        enqueued_ms=message.enqueued_ms,
        state=message.state,
        due_ms=message.due_ms,
    )
    _set_headers(out.headers, message.headers)
    return out


def topic(info: broker.TopicInfo) -> Any:
    """One topic."""
    settings = info.settings
    return pb.Topic(
        name=info.topic,
        settings=pb.TopicSettings(
            mode=settings.mode,
            max_messages=settings.max_messages,
            message_ttl_ms=settings.message_ttl_ms,
            expires_ms=settings.expires_ms,
            auto_delete=settings.auto_delete,
            overflow=settings.overflow,
        ),
        ready=info.ready,
        delayed=info.delayed,
        leased=info.leased,
        consumers=info.consumers,
        ready_bytes=info.ready_bytes,
        oldest_enqueued_ms=info.oldest_enqueued_ms,
        created=info.created,
    )


def topic_settings(settings: Any) -> broker.TopicSettings:
    """What a client asks for."""
    return broker.TopicSettings(
        mode=settings.mode or "max",
        max_messages=settings.max_messages,
        message_ttl_ms=settings.message_ttl_ms,
        expires_ms=settings.expires_ms,
        auto_delete=settings.auto_delete,
        overflow=settings.overflow or "reject",
    )


def count_of(count: int, default: int, what: str) -> int:
    """A count of a request; 0 is the default. Raises `InvalidArgument`."""
    if count > COUNT_MAX:
        raise InvalidArgument(f"{what} is at most {COUNT_MAX}, not {count}")
    return count or default


def duration_of(value_ms: int, default_ms: int, what: str, most_ms: int = broker.DURATION_MAX_MS) -> int:
    """A duration of a request; 0 is the default. Raises `InvalidArgument`."""
    if value_ms > most_ms:
        raise InvalidArgument(f"{what} is at most {most_ms} ms, not {value_ms}")
    return value_ms or default_ms


def _headers(given: Mapping[str, Any]) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    for name, value in given.items():
        kind = value.WhichOneof("kind")
        if kind is None:
            raise InvalidHeaders(f"header {name[:60]!r} has no value: set text, integer, real, boolean or blob")
        headers[name] = getattr(value, kind)
    return headers


_KINDS: Mapping[type, str] = {str: "text", int: "integer", float: "real", bool: "boolean", bytes: "blob"}


def _set_headers(out: Any, headers: Mapping[str, HeaderValue]) -> None:
    for name, value in headers.items():
        setattr(out[name], _KINDS[type(value)], value)
