"""Routes pushes to consumers, in the asyncio driver.

Owns the map from consumer numbers to sinks, and two special cases. A push that comes before the reply that names its
consumer waits for it. A delivery that nobody wants any more is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from disheap.errors import DisheapError
from disheap.protocol import broker


class Sink(Protocol):
    """A consumer or a pop, fed in order."""

    def take(self, push: broker.Deliver) -> None:
        """A delivery came."""

    def ended(self, push: broker.PopDone | broker.ConsumerEnded) -> None:
        """The consumer or the pop has ended. Nothing more comes."""

    def lost(self, error: DisheapError) -> None:
        """The session or the client is over."""


class Sinks:
    """The sinks of one client by the numbers of their consumers. `give_back` gets the leases of deliveries without a
    sink."""

    def __init__(self, give_back: Callable[[list[broker.Token]], None]) -> None:
        self._give_back = give_back
        self._sinks: dict[int, Sink] = {}
        self._early: dict[int, list[broker.ConsumerPush]] = {}  # bounded by the credit that was asked for
        self._expected = 0

    def expect(self, future: asyncio.Future[int]) -> None:
        """A subscription is under way, until `future` is done: pushes may come before it."""
        self._expected += 1
        future.add_done_callback(self._settled)

    def begin(self, number: int, sink: Sink) -> None:
        """From here on the pushes of the consumer `number` go to `sink`."""
        self._sinks[number] = sink
        for push in self._early.pop(number, ()):
            self.arrived(push)

    def forget(self, number: int) -> None:
        """Give back deliveries that still come for the consumer."""
        self._sinks.pop(number, None)

    def arrived(self, push: broker.ConsumerPush) -> None:
        """A push came."""
        sink = self._sinks.get(push.consumer)
        if sink is None:
            if self._expected:
                self._early.setdefault(push.consumer, []).append(push)
            elif type(push) is broker.Deliver and push.epoch:
                self._give_back([(push.id, push.epoch)])
        elif type(push) is broker.Deliver:
            sink.take(push)
        else:
            del self._sinks[push.consumer]
            sink.ended(push)  # type: ignore[arg-type]

    def lose(self, error: DisheapError) -> None:
        """The session is over, and with it every consumer."""
        sinks, self._sinks, self._early = self._sinks, {}, {}
        for sink in sinks.values():
            sink.lost(error)

    def end(self, error: DisheapError) -> None:
        """The client is over. It holds this object, which no longer holds it."""
        self.lose(error)
        self._give_back = _give_back_nothing

    def _settled(self, _: asyncio.Future[int]) -> None:
        self._expected -= 1
        if self._expected == 0 and self._early:
            early, self._early = self._early, {}
            for pushes in early.values():
                for push in pushes:
                    self.arrived(push)


def _give_back_nothing(tokens: list[broker.Token]) -> None: ...
