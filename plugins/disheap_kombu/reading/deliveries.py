"""What has arrived for the consumers of a connection and waits for its callback.

Owns the order of arrival, and which consumers there are. Messages for a pool of workers wait apart, in `demand`. Runs
no callback, and sends nothing: it returns the tokens of leases that have to go back.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from disheap.client.core.broker_session import SessionLost
from disheap.protocol import broker
from disheap_kombu.reading.demand import Demand
from disheap_kombu.subscription import Subscription

Arrival = broker.ConsumerPush | SessionLost


class Deliveries:
    """Subscriptions by number, and their pushes in the order of arrival."""

    def __init__(self, holds_back: bool = True) -> None:
        """`holds_back`: messages for a pool of workers wait until it has a free slot."""
        self._subscriptions: dict[int, Subscription] = {}
        self._arrived: deque[Arrival] = deque()  # and not looked at
        self._waiting: deque[Arrival] = deque()
        self.demand = Demand(holds_back)

    def __len__(self) -> int:
        """How many pushes wait for their callbacks. Messages that wait for the pool count as one if it has a free
        slot."""
        return len(self._arrived) + len(self._waiting) + self.demand.can_start

    @property
    def has_consumers(self) -> bool:
        """Whether there is a subscription."""
        return bool(self._subscriptions)

    @property
    def has_lapsed(self) -> bool:
        """Whether the end of the session is among what waits."""
        return any(type(push) is SessionLost for push in (*self._arrived, *self._waiting))

    def add_consumer(self, subscription: Subscription) -> None:
        """Takes the pushes for `subscription.number` from now on."""
        self._subscriptions[subscription.number] = subscription

    def remove_consumer(self, number: int) -> Subscription | None:
        """Its pushes are strays from now on. Returns None if there is none of this number."""
        return self._subscriptions.pop(number, None)

    def for_pool(self) -> list[Subscription]:
        """The consumers whose messages are for the pool of workers."""
        return [one for one in list(self._subscriptions.values()) if not one.no_ack and self.demand.serves(one.channel)]

    def get(self, number: int) -> Subscription | None:
        """The subscription, or None if it has ended."""
        return self._subscriptions.get(number)

    def add(self, pushes: list[Arrival]) -> list[broker.Token]:
        """Buffers pushes for their callbacks. Returns the leases of those without a consumer: there may never be a
        callback again to look at them."""
        strays = []
        for push in pushes:
            if not self._is_stray(push):
                self._arrived.append(push)
            elif type(push) is broker.Deliver and push.epoch:
                strays.append((push.id, push.epoch))
        return strays

    def sort(self) -> None:
        """Puts what has arrived where it waits."""
        while self._arrived:
            push = self._arrived.popleft()
            subscription = self._subscriptions.get(push.consumer) if type(push) is broker.Deliver else None
            if subscription is not None and self.demand.accepts(subscription.channel, subscription.no_ack):
                self.demand.add(push, subscription.channel)  # type: ignore[arg-type]
            else:
                self._waiting.append(push)

    def take(self) -> Arrival | None:
        """The next push. None if none waits, or if all that wait are for a pool without a free slot."""
        self.sort()
        if self._waiting:
            return self._waiting.popleft()
        return self.demand.take() if self.demand.can_start else None

    def take_strays(self) -> list[broker.Token]:
        """Removes what waits for consumers that have ended. Returns the leases."""
        strays: list[Arrival] = []
        for waiting in (self._arrived, self._waiting):
            found = [push for push in list(waiting) if self._is_stray(push)]
            for push in found:
                with suppress(ValueError):  # another thread is at its callback
                    waiting.remove(push)
            strays += found
        strays += self.demand.take_all_of(self.demand.consumers() - set(self._subscriptions))
        return self.add(strays)

    def clear(self) -> None:
        """Forgets everything."""
        self._subscriptions.clear()
        self._arrived.clear()
        self._waiting.clear()
        self.demand.clear()

    def _is_stray(self, push: Arrival) -> bool:
        return not isinstance(push, SessionLost) and push.consumer not in self._subscriptions
