"""Message counts for the broker page of Flower, and for its `/api/queues/length`.

Flower knows brokers by the scheme of their URL, in a class that nothing can be registered with. `contrib/flower` has a
patch for Flower that looks such classes up by the entry point group `flower.brokers`. `DisheapBroker` is there for it.
Without the patch, `introduce` puts the class where Flower looks for one. Celery's signal `import_modules` calls it,
which Flower sends as it starts. It does nothing for an application with another broker.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any

import kombu.connection
import kombu.serialization  # makes the transport known

SCHEMES = ("disheap://", "disheaps://")
CONNECT_TIMEOUT_S = 2.0
"""Flower's page waits no longer for a broker than for that of RabbitMQ."""


class DisheapBroker:
    """What Flower asks of a broker. The arguments are those that it gives to all of them."""

    def __init__(
        self, broker_url: str, http_api: str | None = None, broker_options: Any = None, broker_use_ssl: Any = None
    ) -> None:
        self._connect: Callable[[], Any] = lambda: kombu.connection.Connection(  # type: ignore[no-untyped-call]
            broker_url,
            transport_options=dict(broker_options or {}),
            ssl=broker_use_ssl or False,
            connect_timeout=CONNECT_TIMEOUT_S,
        )

    @classmethod
    def of_application(cls, app: Any) -> DisheapBroker:
        """The broker of a Celery application, with all its settings."""
        broker = cls("")
        broker._connect = lambda: app.connection_for_read(connect_timeout=CONNECT_TIMEOUT_S)
        return broker

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Counts of the queues of these names, in RabbitMQ's words. Leaves out those that do not exist. `messages` are
        all: those that are ready, in a worker's hands, or waiting for their eta."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._counts, list(names))

    def _counts(self, names: list[str]) -> list[dict[str, Any]]:
        found = []
        with self._connect() as connection:
            for name in names:
                try:
                    info = connection.default_channel.topic_info(name)
                except connection.channel_errors:
                    continue
                found.append(
                    {
                        "name": name,
                        "messages": info.ready + info.leased + info.delayed,
                        "messages_ready": info.ready,
                        "messages_unacknowledged": info.leased,
                        "consumers": info.consumers,
                    }
                )
        return found


def introduce(sender: Any = None, **_: Any) -> None:
    """Has Flower use `DisheapBroker` for the application `sender`. Does nothing in a process without Flower."""
    views = sys.modules.get("flower.views")
    if sender is None or not hasattr(views, "Broker"):
        return
    if str(sender.conf.broker_read_url or sender.conf.broker_url or "").startswith(SCHEMES):
        views.Broker = lambda *_, **__: DisheapBroker.of_application(sender)  # type: ignore[union-attr]
