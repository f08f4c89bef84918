"""What a filter can ask of a message: the fields that the broker has, headers, and the task of a Celery message.

Each field is a function of a `Shown`. It returns None if the message has no such field.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from disheap.errors import InvalidHeaders
from disheap.protocol.broker import HeaderValue, PeekedMessage

HEADER = "header."
STATES = ("ready", "delayed", "leased")
CELERY_KEYS = ("task", "id", "root_id", "parent_id", "group", "retries", "eta", "argsrepr", "kwargsrepr", "origin")
"""Headers of Celery's protocol 2 that are shown."""


class _KombuPayload(msgspec.Struct, array_like=True, frozen=True, tag="k1"):
    """What the kombu transport puts into a payload (`disheap_kombu.publishing.messages`)."""

    body: bytes
    content_type: str | None
    content_encoding: str | None
    exchange: str
    routing_key: str
    headers: dict[str, Any]
    properties: dict[str, Any]


_decode_kombu = msgspec.msgpack.Decoder(_KombuPayload).decode


class Shown:
    """A message, and the cluster's time when it was asked for. What is decoded is decoded once, and only if a filter or
    the table asks for it."""

    def __init__(self, message: PeekedMessage, now_ms: int = 0) -> None:
        self.message, self.now_ms = message, now_ms

    @cached_property
    def headers(self) -> dict[str, HeaderValue]:
        """The headers. None, if a client has sent some that cannot be read."""
        try:
            return self.message.headers
        except InvalidHeaders:
            return {}

    @cached_property
    def kombu(self) -> dict[str, Any]:
        """The headers that kombu has put into the payload; empty for a message of another client."""
        if not self.message.payload.startswith(b"\x98\xa2k1"):
            return {}
        try:
            return _decode_kombu(self.message.payload).headers
        except msgspec.DecodeError:
            return {}

    def header(self, name: str) -> HeaderValue | None:
        """A header of the message, or of kombu's message within it."""
        found = self.headers.get(name)
        return found if found is not None else self.kombu.get(name)

    def task(self) -> dict[str, Any]:
        """What Celery says of its task; empty for any other message."""
        return {key: self.kombu[key] for key in CELERY_KEYS if key in self.kombu} if "task" in self.kombu else {}


class Field(NamedTuple):
    """A field: what reads it, and what kind of value it is compared with."""

    read: Callable[[Shown], Any]
    kind: str  # "number", "duration", "size", "state" or "text"


def _text_of(name: str) -> Callable[[Shown], Any]:
    return lambda shown: shown.task().get(name)


FIELDS: dict[str, Field] = {
    "id": Field(lambda shown: shown.message.id, "number"),
    "priority": Field(lambda shown: shown.message.priority, "number"),
    "attempts": Field(lambda shown: shown.message.attempts, "number"),
    "age": Field(lambda shown: max(0, shown.now_ms - shown.message.enqueued_ms), "duration"),
    "due": Field(
        lambda shown: max(0, shown.message.due_ms - shown.now_ms) if shown.message.due_ms else None, "duration"
    ),
    "size": Field(lambda shown: len(shown.message.payload), "size"),
    "state": Field(lambda shown: shown.message.state, "state"),
    "key": Field(lambda shown: shown.message.key or None, "text"),
    "session": Field(lambda shown: shown.message.session or None, "number"),
    "payload": Field(lambda shown: shown.message.payload.decode(errors="replace"), "text"),
    "task": Field(_text_of("task"), "text"),
    "task_id": Field(_text_of("id"), "text"),
    "task_args": Field(_text_of("argsrepr"), "text"),
    "task_kwargs": Field(_text_of("kwargsrepr"), "text"),
}
"""By name. `header.NAME` is a field, too."""


def header_field(name: str) -> Field:
    """The field of a header, of which nobody knows what it is compared with."""
    return Field(lambda shown: shown.header(name), "any")
