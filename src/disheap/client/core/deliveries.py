"""What a client holds of the heap machine's: leases, pops it waits for, consumers, topics of its own.

Owns the list that an ATTACH names. The rule that matters: a lease is held until the *reply* to its ack, nack or cancel
has come. Were it dropped when the ack is sent, an ATTACH in between would not name it, and the machine would deliver a
message again that the client has done with.
"""

from __future__ import annotations

from collections.abc import Iterable

from disheap.protocol import broker
from disheap.protocol.broker import HELD_MAX, Token

ENDED_EARLY_KEPT = 1024
"""Ends remembered for replies still to come; the reply stands beside its push in the stream."""


class Deliveries:
    def __init__(self) -> None:
        self.tokens: dict[Token, int] = {}  # held lease -> consumer
        self.tickets: dict[int, None] = {}
        self.consumers: dict[int, None] = {}
        self._owned: dict[str, None] = {}  # exclusive topics
        self._ended_early: dict[int, None] = {}  # ended before the reply that names them came

    # --- for the session ---

    def claim(self) -> bytes:
        """Names the newest leases. The node repeats the others, and `delivered` passes over them."""
        return broker.encode(broker.Held(list(self.tokens)[-HELD_MAX:], list(self.tickets), list(self.consumers)))

    def idle(self) -> bool:
        return not (self.tokens or self.tickets or self.consumers or self._owned)

    def lapsed(self) -> None:
        self.tokens.clear()
        self.tickets.clear()
        self.consumers.clear()
        self._owned.clear()

    # --- for the broker session ---

    def delivered(self, push: broker.Deliver) -> bool:
        """False for a delivery that is held already: an ATTACH repeats what was under way."""
        if not push.epoch:
            return True
        token = (push.id, push.epoch)
        if token in self.tokens:
            return False
        self.tokens[token] = push.consumer
        return True

    def ended(self, consumer: int) -> None:
        """No more comes for a consumer or ticket. Its leases stay until each is settled."""
        known = consumer in self.consumers or consumer in self.tickets
        self.consumers.pop(consumer, None)
        self.tickets.pop(consumer, None)
        if not known:
            self._ended_early[consumer] = None
            if len(self._ended_early) > ENDED_EARLY_KEPT:
                del self._ended_early[next(iter(self._ended_early))]

    def subscribed(self, consumer: int, pop: bool) -> None:
        if consumer in self._ended_early:
            del self._ended_early[consumer]
        else:
            (self.tickets if pop else self.consumers)[consumer] = None

    def settled(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            self.tokens.pop(token, None)

    def held_by(self, consumers: Iterable[int]) -> list[Token]:
        wanted = frozenset(consumers)
        return [token for token, consumer in self.tokens.items() if consumer in wanted]

    def owns(self, topic: str) -> None:
        self._owned[topic] = None

    def disowned(self, topic: str) -> None:
        self._owned.pop(topic, None)
