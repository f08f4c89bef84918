"""A queue of kombu's Redis transport: a list for each priority, and the messages that workers held when they ended.

kombu keeps a queue in lists, `celery` for priority 0 and `celery\\x06\\x163` for priority 3, and takes from the right
end. What it delivered is in the hash `unacked` until the acknowledgement, and so are the tasks that a worker holds for
their eta. The keys and their contents are kombu's (kombu/transport/redis.py, 5.3 to 5.7).

A message is removed by its value, so nothing is lost that is added or taken meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from disheap.cli.migrate.waiting import Waiting, waiting
from disheap.errors import ConfigError

SCANNED_AT_ONCE = 500


class InList(NamedTuple):
    """The list, and the bytes of the message."""

    key: str
    value: bytes


class Unacked(NamedTuple):
    """The field of the hash."""

    tag: bytes


class RedisSource:
    """`channel` is a channel of kombu's Redis transport. `with_unacked`: what workers held counts as waiting."""

    def __init__(self, channel: Any, queue: str, with_unacked: bool = True) -> None:
        self._channel = channel
        # kombu's own client puts the option `global_keyprefix` before the keys of some commands only.
        self._client = import_module("redis").Redis(connection_pool=channel.client.connection_pool)
        self._prefix = channel.global_keyprefix
        self._queue = queue
        self._with_unacked = with_unacked

    def count(self) -> int:
        """The messages in all lists, and those that workers held."""
        return sum(int(self._client.llen(key)) for key in self._keys()) + sum(1 for _ in self._unacked())

    def consumers(self) -> int:
        """0: Redis does not tell."""
        return 0

    def take(self, most: int) -> list[tuple[str, Waiting]]:
        """From the most urgent list that has some, the oldest first. Then what workers held."""
        for key in self._keys():
            values = self._client.lrange(key, -most, -1)
            if values:
                return [(self._queue, self._waiting(value, InList(key, value))) for value in reversed(values)]
        held = []
        for tag, payload in self._unacked():
            held.append((self._queue, self._message(payload, Unacked(tag))))
            if len(held) == most:
                break
        return held

    def remove(self, taken: list[Waiting]) -> int:
        """Removes each message in one transaction."""
        missing = 0
        for message in taken:
            with self._client.pipeline() as pipe:
                if isinstance(message.handle, InList):
                    pipe.lrem(message.handle.key, -1, message.handle.value)
                else:
                    pipe.hdel(self._prefix + self._channel.unacked_key, message.handle.tag)
                    pipe.zrem(self._prefix + self._channel.unacked_index_key, message.handle.tag)
                missing += not pipe.execute()[0]
        return missing

    def _keys(self) -> list[str]:
        """The lists of the queue, the most urgent one first."""
        steps = self._channel.priority_steps
        return [self._prefix + self._channel._q_for_pri(self._queue, step) for step in steps]

    def _unacked(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """What workers held of this queue: the field, and the message."""
        if not self._with_unacked:
            return
        for tag, value in self._client.hscan_iter(self._prefix + self._channel.unacked_key, count=SCANNED_AT_ONCE):
            payload, exchange, routing_key = _parsed(value)
            if self._queue in self._reached(exchange, routing_key):
                yield tag, payload

    def _reached(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that this routing key leads to."""
        if not exchange:
            return [routing_key]
        rows = self._channel.get_table(exchange)
        return [queue for key, _, queue in rows if key == routing_key] or [routing_key]

    def _waiting(self, value: bytes, handle: InList | Unacked) -> Waiting:
        return self._message(_parsed(value), handle)

    def _message(self, payload: dict[str, Any], handle: InList | Unacked) -> Waiting:
        return waiting(self._channel.Message(payload, channel=self._channel), handle)


def _parsed(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        shown = value[:60]
        raise ConfigError(
            f"the source has an entry that is no message of kombu: {shown!r} ({error}). Remove it, or move the rest by "
            "hand; what was moved before is at the target"
        ) from error
