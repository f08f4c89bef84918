"""A message as a line of JSON, and back. Nothing that a message is made of is lost on the way.

| field | meaning |
|---|---|
| `priority` | the number |
| `key` | the key; left out if there is none |
| `headers` | by name; left out if there are none. Bytes are `{"base64": TEXT}`, infinity is `{"float": "inf"}` |
| `due_ms` | when a delayed message is due, in ms since 1970; left out if it is not delayed |
| `expires_at_ms` | when it is dropped if it is not delivered; left out for never |
| `payload` or `payload_base64` | text, or bytes that are no UTF-8 |
| `id`, `state`, `attempts`, `enqueued_ms` | what it was where it comes from. Nobody reads them |
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, NamedTuple

from disheap.cli.terminal.output import json_text, payload_fields
from disheap.errors import CommandRefused
from disheap.protocol.broker import (
    DURATION_MAX_MS,
    PRIORITY_MAX,
    PRIORITY_MIN,
    HeaderValue,
    NewMessage,
    PeekedMessage,
    encode_headers,
)

KNOWN = {
    "priority", "key", "headers", "due_ms", "expires_at_ms", "payload", "payload_base64", "id", "state", "attempts",
    "enqueued_ms",
}  # fmt: skip


class BadLine(ValueError):
    """A line that is no message. The text says why."""


class Line(NamedTuple):
    """What a line says. Times are in ms since 1970; 0 for none."""

    new: NewMessage
    due_ms: int
    expires_at_ms: int

    def at(self, now_ms: int) -> NewMessage | None:
        """The message to enqueue now. None if it has expired."""
        if self.expires_at_ms and self.expires_at_ms <= now_ms:
            return None
        delay_ms = max(0, self.due_ms - now_ms)
        expires_ms = self.expires_at_ms - now_ms if self.expires_at_ms else 0
        return NewMessage(
            self.new.payload, self.new.priority, delay_ms, expires_ms, self.new.encoded_headers, self.new.key
        )


def written(message: PeekedMessage) -> str:
    """The line of a message, without a line feed."""
    fields: dict[str, Any] = {
        "id": message.id,
        "state": message.state,
        "priority": message.priority,
        "attempts": message.attempts,
        "enqueued_ms": message.enqueued_ms,
    }
    if message.due_ms:
        fields["due_ms"] = message.due_ms
    if message.expires_at_ms:
        fields["expires_at_ms"] = message.expires_at_ms
    if message.key:
        fields["key"] = message.key
    if message.encoded_headers:
        fields["headers"] = {name: _json_of(value) for name, value in message.headers.items()}
    return json_text({**fields, **payload_fields(message.payload)}, ensure_ascii=True)


def read(text: str | bytes) -> Line:
    """The message of a line. Raises `BadLine`."""
    try:
        fields = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"it is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadLine("it is no JSON object")
    if unknown := sorted(set(fields) - KNOWN):
        raise BadLine(f"it has a field that no message has: {unknown[0]!r}")
    headers = fields.get("headers", {})
    key = fields.get("key", "")
    if not isinstance(headers, dict) or not isinstance(key, str):
        raise BadLine("its headers are no object" if isinstance(key, str) else "its key is no text")
    priority = _whole(fields, "priority", PRIORITY_MIN, PRIORITY_MAX)
    times = (_whole(fields, name, 0, DURATION_MAX_MS) for name in ("due_ms", "expires_at_ms"))
    try:
        encoded = encode_headers({name: _value_of(value) for name, value in headers.items()})
        new = NewMessage(_payload(fields), priority, 0, 0, encoded, key)
        new.check_key()
    except CommandRefused as error:
        raise BadLine(str(error)) from None
    return Line(new, *times)


def _payload(fields: dict[str, Any]) -> bytes:
    text, encoded = fields.get("payload"), fields.get("payload_base64")
    if (text is None) == (encoded is None):
        raise BadLine("it has to have one of payload and payload_base64")
    if text is not None:
        if not isinstance(text, str):
            raise BadLine("its payload is no text")
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise BadLine("its payload is text that UTF-8 has no form for") from None
    return _bytes_of(encoded, "its payload_base64")


def _bytes_of(encoded: Any, what: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise BadLine(f"{what} is no base64") from None


def _whole(fields: dict[str, Any], name: str, least: int, most: int) -> int:
    number = fields.get(name, 0)
    if type(number) is not int or not least <= number <= most:
        raise BadLine(f"its {name} is no whole number from {least} to {most}")
    return number


def _json_of(value: HeaderValue) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _value_of(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if list(value) == ["base64"]:
        return _bytes_of(value["base64"], "a header")
    if list(value) == ["float"] and value["float"] in ("inf", "-inf", "nan"):
        return float(value["float"])
    raise BadLine("a header is an object, and neither base64 nor a float")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
