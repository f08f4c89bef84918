"""What the headers of a dead letter say, and how they are read.

The machine adds these headers when it dead-letters a message (`dead_letter_topic` in `TopicSettings`). Their names all
begin with `PREFIX`. The machine replaces headers of these names that a client set.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from disheap.protocol.broker.fields import Record
from disheap.protocol.broker.headers import HeaderValue
from disheap.protocol.frames import UNREADABLE

DELIVERY_LIMIT, REJECTED, EXPIRED, OVERFLOW = "delivery_limit", "rejected", "expired", "overflow"
REASONS = (DELIVERY_LIMIT, REJECTED, EXPIRED, OVERFLOW)
"""Why a message is dead-lettered: its attempts are used up, or its consumer discarded it. Or it was not delivered in
time, or its topic was full and dropped it."""

PREFIX = "disheap-death-"
REASON = PREFIX + "reason"
TOPIC = PREFIX + "topic"
TIME_MS = PREFIX + "time-ms"
ATTEMPTS = PREFIX + "attempts"
COUNT = PREFIX + "count"
ERROR = PREFIX + "error"
FIRST_TOPIC = PREFIX + "first-topic"
FIRST_REASON = PREFIX + "first-reason"
FIRST_TIME_MS = PREFIX + "first-time-ms"
HISTORY = PREFIX + "history"
DEATH_HEADERS = (REASON, TOPIC, TIME_MS, ATTEMPTS, COUNT, ERROR, FIRST_TOPIC, FIRST_REASON, FIRST_TIME_MS, HISTORY)
"""In the order of need. If the headers of a message leave no room for all of them, the last ones are left out."""

HISTORY_MAX = 10
"""Pairs of a topic and a reason that the history names."""


class PastDeath(Record, frozen=True):
    """Deaths of one message in one topic for one reason. `count` is how many there were. The times are those of the
    first and the last one."""

    topic: str
    reason: str
    count: int
    first_ms: int
    last_ms: int


class Death(Record, frozen=True):
    """Why, where and when a message was dead-lettered. `attempts`: its deliveries in that topic. `count`: how often it
    was dead-lettered in all. `error` is that of the Nack, or says how the last lease ended. `history`: the latest death
    comes first. What was left out for want of room is empty, or 0."""

    reason: str
    topic: str
    time_ms: int = 0
    attempts: int = 0
    count: int = 0
    error: str = ""
    first_topic: str = ""
    first_reason: str = ""
    first_time_ms: int = 0
    history: tuple[PastDeath, ...] = ()


_decode_history = msgspec.json.Decoder(tuple[PastDeath, ...]).decode
_encode_history = msgspec.json.Encoder().encode


def encode_history(history: tuple[PastDeath, ...]) -> str:
    """The history as the text of its header: JSON, a list of [topic, reason, count, first_ms, last_ms]."""
    return _encode_history(history).decode()


def death_of(headers: Mapping[str, HeaderValue]) -> Death | None:
    """What the headers say, or None if the message is no dead letter. A header that does not fit counts as left out:
    a client may have set it."""
    if REASON not in headers:
        return None
    try:
        history = _decode_history(_text(headers, HISTORY) or "[]")
    except UNREADABLE:
        history = ()
    return Death(
        _text(headers, REASON),
        _text(headers, TOPIC),
        _number(headers, TIME_MS),
        _number(headers, ATTEMPTS),
        _number(headers, COUNT),
        _text(headers, ERROR),
        _text(headers, FIRST_TOPIC),
        _text(headers, FIRST_REASON),
        _number(headers, FIRST_TIME_MS),
        history,
    )


def without_death(headers: Mapping[str, HeaderValue]) -> dict[str, HeaderValue]:
    """The headers that the message had before it was dead-lettered."""
    return {name: value for name, value in headers.items() if not name.startswith(PREFIX)}


def _text(headers: Mapping[str, HeaderValue], name: str) -> str:
    value = headers.get(name)
    return value if isinstance(value, str) else ""


def _number(headers: Mapping[str, HeaderValue], name: str) -> int:
    value = headers.get(name)
    return value if type(value) is int else 0
