"""How a broker is used, and what its confirmation is worth.

A setting is a broker with options of its transport and arguments of its queue. Several settings may share a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PRIORITIES = {"x-max-priority": 10}
QUORUM = {"x-queue-type": "quorum"}


@dataclass(frozen=True)
class Setting:
    """`name` is unique. `confirm` says what a publish that has returned is worth."""

    name: str
    broker: str
    confirm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    low: int = 0
    urgent: int = 9

    @property
    def is_redis(self) -> bool:
        """Whether the smaller priority goes first, and a queue has no arguments."""
        return self.broker.startswith("redis")


WINDOW = {"confirm": "window"}
ONE, THREE = "on its one disk, after an fsync", "on the disks of two of three nodes, after an fsync of each"
LATER = "on its way; the confirmation comes later, when it is {}"

SETTINGS = (
    Setting("disheap-1", "disheap-1", ONE, arguments=PRIORITIES),
    Setting("disheap-3", "disheap-3", THREE, arguments=PRIORITIES),
    Setting("disheap-1 count", "disheap-1", ONE, {"prefetch": "count"}, PRIORITIES),
    Setting("disheap-1 window", "disheap-1", LATER.format(ONE), WINDOW, PRIORITIES),
    Setting("disheap-3 window", "disheap-3", LATER.format(THREE), WINDOW, PRIORITIES),
    Setting(
        "rabbitmq classic confirmed",
        "rabbitmq",
        ONE,
        {"confirm_publish": True},
        PRIORITIES,
    ),
    Setting(
        "rabbitmq quorum confirmed",
        "rabbitmq",
        ONE + "; the queue has one member, as there is one node",
        {"confirm_publish": True},
        QUORUM,
    ),
    Setting(
        "rabbitmq classic unconfirmed",
        "rabbitmq",
        "on its way, and lost without a word if the broker or the connection ends",
        {},
        PRIORITIES,
    ),
    Setting(
        "rabbitmq quorum unconfirmed",
        "rabbitmq",
        "on its way, and lost without a word if the broker or the connection ends",
        {},
        QUORUM,
    ),
    Setting("redis", "redis", "in memory; a snapshot of all follows after minutes", low=9, urgent=0),
    Setting("redis-always", "redis-always", ONE, low=9, urgent=0),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
BROKERS = tuple(dict.fromkeys(setting.broker for setting in SETTINGS))
