"""What has arrived for the consumers of a connection and waits for its callback.

Owns the order of arrival, and which consumers there are. Runs no callback, and sends nothing: it returns the tokens of
leases that have to go back.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from disheap.client.core.broker_session import SessionLost
from disheap.protocol import broker
from disheap_kombu.subscription import Subscription

Arrival = broker.ConsumerPush | SessionLost


class Deliveries:
    """Subscriptions by number, and their pushes in the order of arrival."""

    def __init__(self) -> None:
        self._subscriptions: dict[int, Subscription] = {}
        self._waiting: deque[Arrival] = deque()

    def __len__(self) -> int:
        """How many pushes wait for their callbacks."""
        return len(self._waiting)

    @property
    def has_consumers(self) -> bool:
        """Whether there is a subscription."""
        return bool(self._subscriptions)

    @property
    def has_lapsed(self) -> bool:
        """Whether the end of the session is among what waits."""
        return any(type(push) is SessionLost for push in self._waiting)

    def add_consumer(self, subscription: Subscription) -> None:
        """Takes the pushes for `subscription.number` from now on."""
        self._subscriptions[subscription.number] = subscription

    def remove_consumer(self, number: int) -> Subscription | None:
        """Its pushes are strays from now on. Returns None if there is none of this number."""
        return self._subscriptions.pop(number, None)

    def get(self, number: int) -> Subscription | None:
        """The subscription, or None if it has ended."""
        return self._subscriptions.get(number)

    def add(self, pushes: list[Arrival]) -> list[broker.Token]:
        """Buffers pushes for their callbacks. Returns the leases of those without a consumer: there may never be a
        callback again to look at them."""
        strays = []
        for push in pushes:
            if not self._is_stray(push):
                self._waiting.append(push)
            elif type(push) is broker.Deliver and push.epoch:
                strays.append((push.id, push.epoch))
        return strays

    def take(self) -> Arrival:
        """The next push. Raises `IndexError` if none waits."""
        return self._waiting.popleft()

    def take_strays(self) -> list[broker.Token]:
        """Removes what waits for consumers that have ended. Returns the leases."""
        strays = [push for push in list(self._waiting) if self._is_stray(push)]
        for push in strays:
            with suppress(ValueError):  # another thread is at its callback
                self._waiting.remove(push)
        return self.add(strays)

    def clear(self) -> None:
        """Forgets everything."""
        self._subscriptions.clear()
        self._waiting.clear()

    def _is_stray(self, push: Arrival) -> bool:
        return not isinstance(push, SessionLost) and push.consumer not in self._subscriptions
