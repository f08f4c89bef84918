"""Virtual hosts: two applications with a queue of one name do not meet.

The path of a broker URL names the virtual host. Within `/shop` the queue `celery` is the topic `shop/celery` of the
broker, and so is each exchange. So queues, fanout and remote control of one virtual host are out of reach of another.
Without a path, or with `/`, names are what they are. Owns this translation, in both directions. Names of consumers and
routing keys stay as they are, except that the default exchange's routing key is the name of a queue.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from disheap.protocol import broker

NAMES: dict[type, tuple[str, ...]] = {
    broker.Enqueue: ("topic",),
    broker.EnqueueMany: ("topic",),
    broker.Subscribe: ("topic",),
    broker.Pop: ("topic",),
    broker.CreateTopic: ("topic",),
    broker.UpdateTopic: ("topic",),
    broker.PauseTopic: ("topic",),
    broker.DeleteTopic: ("topic",),
    broker.Purge: ("topic",),
    broker.CreateExchange: ("exchange", "alternate"),
    broker.DeleteExchange: ("exchange",),
    broker.Bind: ("exchange", "topic"),
    broker.Unbind: ("exchange", "topic"),
    broker.Peek: ("topic",),
    broker.Browse: ("topic",),
    broker.Explain: ("topic",),
    broker.DescribeTopic: ("topic",),
    broker.ListExchanges: ("exchange",),
}
"""The fields of commands and queries that are names. `Publish` and `Batch` are treated by themselves."""
SEPARATOR = "/"


class Namespace:
    """One virtual host; "" is the one without a name."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._prefix = f"{name}{SEPARATOR}" if name else ""

    def inward(self, command: Any) -> Any:
        """The command or query with the names that the broker knows."""
        if not self._prefix:
            return command
        kind = type(command)
        if kind is broker.Publish:
            field = "exchange" if command.exchange else "routing_key"
            return structs.replace(command, **{field: self._prefix + getattr(command, field)})
        if kind is broker.Batch:
            return broker.Batch([self.inward(item) for item in command.items])
        changes: dict[str, Any] = {
            field: self._prefix + name for field in NAMES.get(kind, ()) if (name := getattr(command, field))
        }
        if kind is broker.CreateTopic:
            changes["settings"] = self._with_places(command.settings)
        return structs.replace(command, **changes) if changes else command

    def queue_of(self, topic: str) -> str:
        """The name of a topic of this virtual host, as the application knows it."""
        return topic.removeprefix(self._prefix)

    def _with_places(self, settings: broker.TopicSettings) -> broker.TopicSettings:
        """The settings with the names of the places for dead letters that the broker knows."""
        places = {name: getattr(settings, name) for name in ("dead_letter_topic", "dead_letter_exchange")}
        return structs.replace(settings, **{name: self._prefix + place for name, place in places.items() if place})

    def outward(self, reply: Any) -> Any:
        """The reply with the names that the application knows."""
        if not self._prefix:
            return reply
        if type(reply) is broker.TopicInfo:
            return structs.replace(reply, topic=reply.topic.removeprefix(self._prefix))
        if type(reply) is broker.ExchangeInfos:
            exchanges = [(name.removeprefix(self._prefix), kind) for name, kind in reply.exchanges]
            alternates = {
                name.removeprefix(self._prefix): alternate.removeprefix(self._prefix)
                for name, alternate in reply.alternates.items()
            }
            return structs.replace(reply, exchanges=exchanges, alternates=alternates)
        return reply
