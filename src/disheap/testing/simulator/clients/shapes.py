"""The names that simulated clients use: topics with their settings, exchanges, routing keys and patterns.

They are few, so that clients meet. Their bounds are low, so that some messages reach them. Patterns and keys stay far
below `routing_steps`, because the reference knows no such bound.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from disheap.protocol.broker import HeaderValue, TopicSettings


class ExchangeShape(NamedTuple):
    """The settings of an exchange that clients create."""

    kind: str
    alternate: str = ""
    auto_delete: bool = False


GUARDED, DEAD = "guarded", "dead"
"""A topic that loses no message, and the topic of its dead letters. Nobody deletes or purges them."""
TOPICS: dict[str, TopicSettings] = {
    "jobs": TopicSettings(),
    "least": TopicSettings(mode="min"),
    "brief": TopicSettings(message_ttl_ms=1500),
    "small": TopicSettings(max_messages=12, priority_max=3),
    "tiny": TopicSettings(max_messages=2),
    "dropping": TopicSettings(max_messages=3, overflow="drop"),
    "passing": TopicSettings(expires_ms=4000),
    "fleeting": TopicSettings(auto_delete=True),
    GUARDED: TopicSettings(delivery_limit=2, dead_letter_topic=DEAD, retry_delay_ms=200, retry_delay_max_ms=1000),
    DEAD: TopicSettings(),
    "failing": TopicSettings(
        message_ttl_ms=1200, max_messages=4, overflow="drop", delivery_limit=3, dead_letter_exchange="all"
    ),
}
TOPIC_WEIGHTS = (
    ("jobs", 8), ("least", 4), ("brief", 2), ("small", 2), ("tiny", 1), ("dropping", 2), ("passing", 1),
    ("fleeting", 1), (GUARDED, 4), (DEAD, 1), ("failing", 2),
)  # fmt: skip
"""How often clients choose each."""
CHANGING = ("passing", "fleeting", "small", "tiny", "dropping")
"""Topics whose settings change, and that are paused."""
CHANGES: tuple[dict[str, bool | int | str], ...] = (
    {"max_messages": 2, "overflow": "drop"},
    {"max_messages": 1},
    {"max_messages": 0, "priority_max": 2},
    {"message_ttl_ms": 900, "priority_max": 0},
    {"expires_ms": 3000, "message_ttl_ms": 0},
    {"expires_ms": 0, "retry_delay_ms": 150},
    {"dead_letter_exchange": "all", "delivery_limit": 2},
    {"dead_letter_exchange": "", "auto_delete": False},
)
EXCHANGES: dict[str, ExchangeShape] = {
    "direct": ExchangeShape("direct"),
    "words": ExchangeShape("topic", alternate="spare"),
    "all": ExchangeShape("fanout"),
    "by-headers": ExchangeShape("headers", alternate="spare"),
    "gone": ExchangeShape("direct", auto_delete=True),
    "spare": ExchangeShape("direct", alternate="all"),
    "lost": ExchangeShape("direct", alternate="nowhere"),
    "events": ExchangeShape("fanout"),
    "ring-a": ExchangeShape("direct", alternate="ring-b"),
    "ring-b": ExchangeShape("direct", alternate="ring-a"),
}
"""`nowhere` is never made. A message that leads nowhere in `ring-a` and `ring-b` is refused."""
RING = ("ring-a", "ring-b")
VALUE_KEYS = ("result-a", "result-b", "result-c", "result-d")
BARRIERS = ("gate-a", "gate-b")
LONG_KEYS = (".".join("a" * 30), ".".join("ab" * 12), ".".join("a" * 24 + "b"))
KEYS = ("a", "a.b", "a.b.c", "b", *LONG_KEYS)
LONG_PATTERNS = (
    ".".join(["#", "a"] * 12),
    ".".join(["a", "#"] * 10 + ["b"]),
    ".".join(["#", "*"] * 12 + ["b"]),
    ".".join("*" * 30),
)
"""A matcher that backtracks takes millions of steps for some of these."""
PATTERNS = ("a", "a.*", "#", "*.b.#", *LONG_PATTERNS)


ARGUMENTS: tuple[dict[str, HeaderValue | None], ...] = (
    {},
    {"odd": True},
    {"odd": True, "kind": 2},
    {"odd": False, "kind": None, "x-match": "all"},
    {"odd": 1, "kind": 3},
    {"kind": 0, "odd": True, "x-match": "any"},
    {"kind": 1, "x-share": None, "x-match": "any"},
    {"kind": 1, "x-share": 0.5, "x-match": "any-with-x"},
    {"x-share": 0.5, "kind": None, "x-match": "all-with-x"},
)
"""The arguments of bindings to a headers exchange. Some match the headers of `extras_of`."""


def extras_of(payload: bytes) -> tuple[dict[str, HeaderValue], str]:
    """The headers and the key that a message with this payload is sent with. Whoever gets it compares them."""
    number = crc32(payload)
    headers: dict[str, HeaderValue] = {}
    if number % 3:
        headers = {
            "number": number,
            "start": payload[:12],
            "share": number / 7,
            "odd": number % 2 == 1,
            "kind": number % 4,
        }
        headers["x-share"] = number % 3 / 2
    if number % 16 == 1:
        headers["long"] = "ä" * 1000
    return headers, f"customer-{number % 7}" if number % 5 > 1 else ""
