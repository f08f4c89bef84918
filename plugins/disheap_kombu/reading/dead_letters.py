"""What a consumer sees of a message that was delivered or dead-lettered before, in RabbitMQ's words.

| header                                    | value                                                              |
|-------------------------------------------|--------------------------------------------------------------------|
| `x-delivery-count`                        | attempts before this one; left out at the first                    |
| `x-death`                                 | a list of tables, the latest death first: `queue`, `reason`,       |
|                                           | `count`, `time` (of the first), `exchange`, `routing-keys`         |
| `x-first-death-queue`, `-reason`,         | of the first death                                                 |
| `-exchange`                               |                                                                    |
| `x-last-death-queue`, `-reason`,          | of the latest death                                                |
| `-exchange`                               |                                                                    |
| `x-death-error`                           | what the consumer told, or how its lease ended; not in RabbitMQ    |

`exchange` and `routing-keys` are those of the publish. RabbitMQ's word for `overflow` is `maxlen`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kombu.message import Message

from disheap.errors import InvalidHeaders
from disheap.protocol import broker
from disheap.protocol.broker import deaths

REASONS = {deaths.OVERFLOW: "maxlen"}
_PREFIX = deaths.PREFIX.encode()


def add_history(message: Message, push: broker.Deliver, outward: Callable[[str], str]) -> None:
    """Adds the headers to a message. `outward` makes a topic's name the name of a queue."""
    headers: dict[str, Any] = message.headers
    if push.attempts > 1:
        headers["x-delivery-count"] = push.attempts - 1
    if _PREFIX not in push.encoded_headers:
        return
    try:
        death = broker.death_of(broker.decode_headers(push.encoded_headers))
    except InvalidHeaders:
        return
    if death is None:
        return
    exchange = message.delivery_info["exchange"]
    place = {"exchange": exchange, "routing-keys": [message.delivery_info["routing_key"]]}
    told = death.history or (broker.PastDeath(death.topic, death.reason, 1, death.time_ms, death.time_ms),)
    headers["x-death"] = [
        {"queue": outward(one.topic), "reason": _reason(one.reason), "count": one.count, "time": _time(one.first_ms)}
        | place
        for one in told
    ]
    first = (death.first_topic or death.topic, death.first_reason or death.reason)
    for which, (topic, reason) in (("first", first), ("last", (death.topic, death.reason))):
        headers[f"x-{which}-death-queue"] = outward(topic)
        headers[f"x-{which}-death-reason"] = _reason(reason)
        headers[f"x-{which}-death-exchange"] = exchange
    if death.error:
        headers["x-death-error"] = death.error


def _reason(reason: str) -> str:
    return REASONS.get(reason, reason)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1000, UTC)
