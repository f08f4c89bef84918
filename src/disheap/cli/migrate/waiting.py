"""One message on its way from another broker: what kombu read there, and what it becomes here.

Owns which properties go along. A property that describes the delivery by the other broker stays behind.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

LEFT_BEHIND = frozenset(
    ("application_headers", "body_encoding", "cluster_id", "delivery_info", "delivery_mode", "delivery_tag", "priority")
)
PERSISTENT = 2
"""The delivery mode that waits for its confirmation, whatever the message had before."""
DELAYED_KEY = re.compile(r"(?:[01]\.){28}(.+)", re.DOTALL)
"""What Celery's native delayed delivery makes of a routing key: the bits of the delay, then the key."""


class Waiting(NamedTuple):
    """A message that waits at its source. `handle` is what the source needs to remove it."""

    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    properties: dict[str, Any]
    priority: int
    handle: Any


def waiting(message: Any, handle: Any) -> Waiting:
    """Returns what a message of kombu becomes. Its body is decompressed already."""
    properties = {name: value for name, value in (message.properties or {}).items() if value is not None}
    headers = {name: value for name, value in (message.headers or {}).items() if name != "compression"}
    return Waiting(
        message.body,
        message.content_type,
        message.content_encoding,
        headers,
        {name: value for name, value in properties.items() if name not in LEFT_BEHIND} | {"delivery_mode": PERSISTENT},
        int(properties.get("priority") or 0),
        handle,
    )


def queue_of(message: Any, queue: str) -> str:
    """The queue that the message is for: `queue`, or the one for which Celery delays it there."""
    key = (message.delivery_info or {}).get("routing_key") or ""
    delayed = DELAYED_KEY.fullmatch(key) if queue.startswith("celery_delayed_") else None
    return delayed.group(1) if delayed else queue
