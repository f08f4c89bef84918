"""What a queue's and an exchange's declaration means here.

Owns the translation of AMQP's arguments. Honoured: `x-expires`, `x-message-ttl`, `x-max-length`, `x-overflow`. Ignored,
because they ask for what every queue here is already: `durable`, `x-queue-type`, `x-max-priority` (any signed 64-bit
priority is kept, none is clamped). Those that promise what no queue here does yet are ignored with a warning: a program
that counts on them would lose messages in silence.
"""

from __future__ import annotations

import warnings
from typing import Any

from amqp.exceptions import PreconditionFailed

from disheap.protocol import broker
from disheap_kombu.messages import duration_ms

STANDARD_EXCHANGES = {f"amq.{kind}": kind for kind in broker.EXCHANGE_KINDS}
"""AMQP's own: there without being declared, and kombu declares no name that begins so."""
OVERFLOWS = {"drop-head": "drop", "reject-publish": "reject", "reject-publish-dlx": "reject"}
ALTERNATE = "alternate-exchange"
NOT_THERE = (
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-delivery-limit",
    "x-max-length-bytes",
    "x-single-active-consumer",
)


def warn_of_ignored(queue: str, arguments: dict[str, Any]) -> None:
    """Once for each queue, as Python's warnings go."""
    names = [name for name in NOT_THERE if arguments.get(name)]
    if arguments.get("x-overflow") == "reject-publish-dlx":
        warnings.warn(
            f"queue {queue!r}: with x-overflow=reject-publish-dlx a full queue refuses, as with reject-publish; "
            "nothing is dead-lettered yet",
            stacklevel=3,
        )
    if names:
        warnings.warn(f"queue {queue!r}: {', '.join(names)} has no effect with disheap yet", stacklevel=2)


def topic_settings(arguments: dict[str, Any], exclusive: bool, auto_delete: bool) -> broker.TopicSettings:
    """Raises 406 for an argument that has no meaning. A full queue drops (AMQP's `drop-head`, the default) or refuses
    (`reject-publish`)."""
    overflow = arguments.get("x-overflow") or "drop-head"
    if overflow not in OVERFLOWS:
        raise PreconditionFailed(f"x-overflow is one of {', '.join(OVERFLOWS)}, not {overflow!r}")
    max_messages = _whole(arguments, "x-max-length")
    return broker.TopicSettings(
        max_messages=max_messages,
        overflow=OVERFLOWS[overflow] if max_messages else "reject",
        message_ttl_ms=_duration(arguments, "x-message-ttl"),
        expires_ms=_duration(arguments, "x-expires"),
        auto_delete=auto_delete,
        exclusive=exclusive,
    )


def alternate_exchange(exchange: str, arguments: dict[str, Any]) -> str:
    """The argument `alternate-exchange`; "" where there is none. Warns of the other arguments, which no exchange here
    has. Raises 406 where it is no text."""
    alternate = arguments.get(ALTERNATE) or ""
    if not isinstance(alternate, str):
        raise PreconditionFailed(f"{ALTERNATE} is the name of an exchange, not {alternate!r}")
    ignored = [name for name in arguments if name != ALTERNATE]
    if ignored:
        warnings.warn(f"exchange {exchange!r}: {', '.join(ignored)} has no effect with disheap", stacklevel=3)
    return alternate


def _duration(arguments: dict[str, Any], key: str) -> int:
    """Milliseconds. AMQP's 0 means at once, ours means never: hence at least one where it was asked for."""
    return max(1, duration_ms(_whole(arguments, key))) if arguments.get(key) is not None else 0


def _whole(arguments: dict[str, Any], key: str) -> int:
    value = arguments.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PreconditionFailed(f"{key} is a whole number from 0, not {value!r}")
    return value
