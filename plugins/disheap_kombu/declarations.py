"""What a connection has declared, and what that says of its queues.

kombu remembers for each connection what it has declared, and does not declare it again. So a connection has to know
when the broker may have lost a declaration. Sends nothing.
"""

from __future__ import annotations

from typing import Any

from disheap.protocol import broker

DECLARATIONS_MAX = 10_000
"""Declarations remembered, some 1 MB of them. A program that declares a queue for each answer forgets the oldest."""


class Declarations:
    """Queues and bindings that were declared on one connection."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], None] = {}  # (exchange, queue); the default exchange is ""
        self._temporary: dict[str, bool] = {}  # queues that end with their consumer: whether one is bound

    def add(self, exchange: str, queue: str = "", is_temporary: bool = False) -> None:
        """A queue of the default exchange "", or a binding to another exchange. A temporary queue ends with its
        consumer."""
        _remember(self._routes, (exchange, queue), None)
        if is_temporary:
            _remember(self._temporary, queue, self._temporary.get(queue, False))

    def add_binding(self, queue: str) -> None:
        """The queue gets messages from an exchange."""
        if queue in self._temporary:
            self._temporary[queue] = True

    def expects_route(self, command: broker.Publish) -> bool:
        """Whether the message goes where something was declared, so that some queue should take it."""
        return (command.exchange, "" if command.exchange else command.routing_key) in self._routes

    def is_transient(self, queue: str) -> bool:
        """Whether the queue is temporary and bound to an exchange: events, remote control and its replies. The result
        of an `rpc://` task goes to its queue by the default exchange, and is worth an acknowledgement."""
        return self._temporary.get(queue, False)


def _remember(table: dict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    if len(table) > DECLARATIONS_MAX:
        del table[next(iter(table))]
