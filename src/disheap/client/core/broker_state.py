"""What a client holds at the heap machine: leases, waiting pops, consumers, and exclusive topics.

Owns the list that an ATTACH names. A lease is held until the *reply* to its ack, nack or cancel has
come. The schedule that is prevented: the ack is sent, the connection is lost, and the ATTACH does not name the lease.
Then the machine would deliver the message again.
"""

from __future__ import annotations

from collections.abc import Iterable

from disheap.protocol import broker
from disheap.protocol.broker import HELD_MAX, Token

ENDED_EARLY_KEPT = 1024
"""Ends remembered for replies still to come; the reply stands beside its push in the stream."""


class BrokerState:
    """The leases, pops, consumers and exclusive topics of one session."""

    def __init__(self) -> None:
        self.tokens: dict[Token, int] = {}  # held lease -> consumer
        self.tickets: dict[int, None] = {}
        self.consumers: dict[int, None] = {}
        self._owned: dict[str, None] = {}  # exclusive topics
        self._ended_early: dict[int, None] = {}  # ended before the reply that names them came

    # --- for the session ---

    def encode_held(self) -> bytes:
        """The body of an ATTACH. It names the newest leases. The node repeats the others, and `delivered` passes over
        them."""
        return broker.encode(broker.Held(list(self.tokens)[-HELD_MAX:], list(self.tickets), list(self.consumers)))

    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not (self.tokens or self.tickets or self.consumers or self._owned)

    def clear(self) -> None:
        """The session is over: nothing is held any more."""
        self.tokens.clear()
        self.tickets.clear()
        self.consumers.clear()
        self._owned.clear()

    # --- for the broker session ---

    def delivered(self, push: broker.Deliver) -> bool:
        """Notes a delivery. Returns False if its lease is held already: an ATTACH repeats what was under way."""
        if not push.epoch:
            return True
        token = (push.id, push.epoch)
        if token in self.tokens:
            return False
        self.tokens[token] = push.consumer
        return True

    def ended(self, consumer: int) -> None:
        """A consumer or a pop has ended. Its leases stay until each is settled."""
        known = consumer in self.consumers or consumer in self.tickets
        self.consumers.pop(consumer, None)
        self.tickets.pop(consumer, None)
        if not known:
            self._ended_early[consumer] = None
            if len(self._ended_early) > ENDED_EARLY_KEPT:
                del self._ended_early[next(iter(self._ended_early))]

    def subscribed(self, consumer: int, pop: bool) -> None:
        """A consumer or a pop has begun."""
        if consumer in self._ended_early:
            del self._ended_early[consumer]
        else:
            (self.tickets if pop else self.consumers)[consumer] = None

    def settled(self, tokens: Iterable[Token]) -> None:
        """These leases are settled."""
        for token in tokens:
            self.tokens.pop(token, None)

    def held_by(self, consumers: Iterable[int]) -> list[Token]:
        """The leases of these consumers."""
        wanted = frozenset(consumers)
        return [token for token, consumer in self.tokens.items() if consumer in wanted]

    def owns(self, topic: str) -> None:
        """An exclusive topic was created."""
        self._owned[topic] = None

    def disowned(self, topic: str) -> None:
        """A topic was deleted."""
        self._owned.pop(topic, None)
