"""What the arguments of a queue, an exchange and a consumer mean here.

Owns the translation of AMQP's arguments. Each is honoured, refused with 406 and a reason, or warned of. None is ignored
in silence unless every queue here does what it asks for.

| argument                                          | here                                                         |
|---------------------------------------------------|--------------------------------------------------------------|
| `x-expires`                                       | honoured, from 1 ms                                          |
| `x-message-ttl`                                   | honoured; 0 ("at once") is 1 ms                              |
| `x-max-length`                                    | honoured, from 1                                             |
| `x-overflow`                                      | honoured; `reject-publish-dlx` refuses and warns             |
| `x-dead-letter-exchange`                          | honoured; "" needs a routing key that names another queue    |
| `x-dead-letter-routing-key`                       | honoured; without it the name of the queue                   |
| `x-delivery-limit`                                | honoured: so many returns, then one more is the last         |
| `x-max-priority`                                  | honoured: higher priorities are lowered to it; 0 is no bound |
| `x-queue-type`                                    | `classic` and `quorum` are what a queue is; others: 406      |
| `STORAGE_ARGUMENTS`                               | where and how RabbitMQ stores a queue: not asked of this one |
| `UNSUPPORTED`, and whatever else                  | checked where it is known, and warned of                     |

Zero has no meaning for a length, so it is refused. RabbitMQ's queue of length 0 holds nothing, and a topic's limit of 0
means that there is none.
"""

from __future__ import annotations

import warnings
from typing import Any

from amqp.exceptions import PreconditionFailed

from disheap.protocol import broker
from disheap_kombu.publishing.messages import duration_ms

STANDARD_EXCHANGES = {**{f"amq.{kind}": kind for kind in broker.EXCHANGE_KINDS}, "amq.match": "headers"}
"""AMQP's own: there without being declared, and kombu declares no name that begins so."""
OVERFLOWS = {"drop-head": "drop", "reject-publish": "reject", "reject-publish-dlx": "reject"}
QUEUE_TYPES = ("classic", "quorum")
ALTERNATE = "alternate-exchange"
DEAD_EXCHANGE, DEAD_KEY, DELIVERY_LIMIT = "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-delivery-limit"
SUPPORTED = frozenset(
    (
        "x-expires",
        "x-message-ttl",
        "x-max-length",
        "x-overflow",
        "x-max-priority",
        "x-queue-type",
        DEAD_EXCHANGE,
        DEAD_KEY,
        DELIVERY_LIMIT,
    )
)
STORAGE_ARGUMENTS = frozenset(
    (
        "x-ha-policy",
        "x-max-in-memory-bytes",
        "x-max-in-memory-length",
        "x-queue-leader-locator",
        "x-queue-master-locator",
        "x-queue-mode",
        "x-queue-version",
        "x-quorum-initial-group-size",
    )
)
"""Where and how RabbitMQ stores a queue. Every queue here is on the disks of a majority."""
UNSUPPORTED: dict[str, tuple[type, str]] = {
    "x-max-length-bytes": (int, "a whole number from 1"),
    "x-single-active-consumer": (bool, "true or false"),
}
"""Arguments that promise what no queue here does yet, and what they hold. A program that counts on them would lose
messages in silence, hence the warning."""


def topic_settings(
    queue: str, arguments: dict[str, Any], exclusive: bool, auto_delete: bool, priority_sign: int = 1
) -> broker.TopicSettings:
    """Raises 406 for an argument that has no meaning, and warns of those without effect. A full queue drops (AMQP's
    `drop-head`, the default) or refuses (`reject-publish`). `priority_sign` is -1 if smaller priorities go first: then
    the broker has them negated."""
    given = {name: value for name, value in arguments.items() if value is not None}
    overflow = _one_of(given, "x-overflow", OVERFLOWS, "drop-head")
    _check_type(given)
    priority_max = _count(given, "x-max-priority", 0)
    if priority_max > broker.PRIORITY_MAX:
        raise PreconditionFailed(f"x-max-priority is at most {broker.PRIORITY_MAX}, not {priority_max}")
    max_messages = _count(given, "x-max-length", 1)
    settings = broker.TopicSettings(
        max_messages=max_messages,
        overflow=OVERFLOWS[overflow] if max_messages else "reject",
        message_ttl_ms=_ttl_ms(given),
        expires_ms=duration_ms(_count(given, "x-expires", 1), "x-expires"),
        auto_delete=auto_delete,
        exclusive=exclusive,
        priority_max=priority_max * priority_sign,
        **_dead_letters(queue, given),
    )
    _warn_of_ignored(queue, given, overflow)
    return settings


def _dead_letters(queue: str, given: dict[str, Any]) -> dict[str, Any]:
    """Where dead letters go, and after how many attempts. RabbitMQ counts returns: a limit of 0 allows one attempt."""
    for name in (DEAD_EXCHANGE, DEAD_KEY):
        if not isinstance(given.get(name, ""), str):
            raise PreconditionFailed(f"{name} is text, not {given[name]!r}")
    found: dict[str, Any] = {}
    if DELIVERY_LIMIT in given:
        found["delivery_limit"] = min(_count(given, DELIVERY_LIMIT, 0) + 1, broker.DELIVERY_LIMIT_MAX)
    exchange, key = given.get(DEAD_EXCHANGE), given.get(DEAD_KEY, "")
    if exchange is None:
        if DEAD_KEY in given:
            raise PreconditionFailed(f"{DEAD_KEY} is for {DEAD_EXCHANGE}, which is missing; name the exchange too")
        return found
    if exchange:
        return found | {"dead_letter_exchange": exchange, "dead_letter_key": key or queue}
    if not key or key == queue:
        raise PreconditionFailed(
            f"dead letters of queue {queue!r} would come back to it; name another queue in {DEAD_KEY}, or an exchange "
            f"in {DEAD_EXCHANGE}"
        )
    return found | {"dead_letter_topic": key}


def _warn_of_ignored(queue: str, given: dict[str, Any], overflow: str) -> None:
    """Once for each queue, as Python's warnings go."""
    if overflow == "reject-publish-dlx":
        warnings.warn(
            f"queue {queue!r}: with x-overflow=reject-publish-dlx a full queue refuses, as with reject-publish; "
            "a message that is refused is not dead-lettered",
            stacklevel=4,
        )
    for name, (kind, what) in UNSUPPORTED.items():
        if name in given and type(given[name]) is not kind:
            raise PreconditionFailed(f"{name} is {what}, not {given[name]!r}")
    _count(given, "x-max-length-bytes", 1)
    if given.get("x-single-active-consumer") is False:
        del given["x-single-active-consumer"]
    names = [str(name) for name in given if name not in SUPPORTED and name not in STORAGE_ARGUMENTS]
    if names:
        warnings.warn(f"queue {queue!r}: {', '.join(names)} has no effect with disheap", stacklevel=4)


def alternate_exchange(exchange: str, arguments: dict[str, Any]) -> str:
    """The argument `alternate-exchange`; "" if there is none. Warns of the other arguments, which no exchange here
    has. Raises 406 where it is no text."""
    alternate = arguments.get(ALTERNATE)
    if alternate is None:
        alternate = ""
    if not isinstance(alternate, str):
        raise PreconditionFailed(f"{ALTERNATE} is the name of an exchange, not {alternate!r}")
    ignored = [name for name in arguments if name != ALTERNATE]
    if ignored:
        warnings.warn(f"exchange {exchange!r}: {', '.join(ignored)} has no effect with disheap", stacklevel=3)
    return alternate


def warn_of_consumer_arguments(queue: str, arguments: dict[str, Any]) -> None:
    """No consumer here has any, a priority among consumers (`x-priority`) included."""
    if arguments:
        names = ", ".join(str(name) for name in arguments)
        warnings.warn(f"consumer of queue {queue!r}: {names} has no effect with disheap", stacklevel=3)


def _check_type(given: dict[str, Any]) -> None:
    if given.get("x-queue-type") == "stream":
        raise PreconditionFailed(
            "x-queue-type is stream, which keeps what was read; a queue here does not. Use "
            f"{' or '.join(QUEUE_TYPES)}, or leave it out"
        )
    _one_of(given, "x-queue-type", QUEUE_TYPES, QUEUE_TYPES[0])


def _one_of(given: dict[str, Any], key: str, allowed: Any, default: str) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or value not in allowed:
        raise PreconditionFailed(f"{key} is one of {', '.join(allowed)}, not {value!r}")
    return value


def _ttl_ms(given: dict[str, Any]) -> int:
    """AMQP's 0 means at once, ours means never: hence at least one where it was asked for."""
    key = "x-message-ttl"
    return max(1, duration_ms(_count(given, key, 0), key)) if key in given else 0


def _count(given: dict[str, Any], key: str, least: int) -> int:
    """A whole number of at least `least`; 0 if it is not given."""
    if key not in given:
        return 0
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        unlimited = "; leave it out for no limit" if least == 1 else ""
        raise PreconditionFailed(f"{key} is a whole number from {least}, not {value!r}{unlimited}")
    return value
