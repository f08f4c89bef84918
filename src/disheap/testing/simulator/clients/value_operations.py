"""What simulated clients do with values, watches and barriers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from disheap.client.api.asynchronous import Client
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap.testing.simulator.clients.client import SimulatedClient
from disheap.testing.simulator.clients.shapes import BARRIERS, VALUE_KEYS


class ValueOperations(SimulatedClient):
    """The operations of a client on values. `_made` counts what it has made, so that contents differ."""

    _client: Client

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._made = 0

    @abstractmethod
    def _new_message(self) -> NewMessage:
        """A message with a payload of its own."""

    async def _set_value(self) -> None:
        """Under one of a few keys, often as a part of a barrier."""
        rng = self.rng
        self._made += 1
        value = f"{self.name}.{self._lives}.{self._made}".encode() + b"x" * rng.pick((0, 0, 3000))
        barrier, order = rng.pick(("", *BARRIERS)), rng.between(0, 2)
        expires_ms = rng.pick((0, 0, 400, 3000))
        await self._client.driver.request(
            broker.SetValue(rng.pick(VALUE_KEYS), value, expires_ms, rng.between(0, 2), barrier, order)
        )

    async def _set_barrier(self) -> None:
        """A barrier with few parts. Whoever completes it sets off a message. Some clients close it in a batch."""
        rng, driver = self.rng, self._client.driver
        barrier = rng.pick(BARRIERS)
        message = broker.Publish("", rng.pick(("jobs", "small", "nowhere")), self._new_message())
        size, more = rng.pick((0, 1, 2, 4)), rng.pick((0, 0, 0, 1))
        lifetime_ms = rng.pick((0, 2000, 8000))
        await driver.request(broker.SetBarrier(barrier, size, more, rng.pick((None, message)), lifetime_ms))
        if rng.chance(0.3):
            await driver.query(broker.GetParts(barrier, rng.pick((0, 0, 1))))
            close = broker.CloseBarrier(barrier)
            after = broker.Publish("", "jobs", self._new_message())
            await driver.request(close if rng.chance(0.3) else broker.Batch([close, after]))

    async def _watch(self) -> None:
        keys = [self.rng.pick(VALUE_KEYS) for _ in range(self.rng.between(1, 3))]
        await self._client.driver.request(broker.Unwatch(keys) if self.rng.chance(0.2) else broker.Watch(keys))
        await self._client.driver.query(broker.GetValues(keys))

    async def _delete_values(self) -> None:
        await self._client.driver.request(broker.DeleteValues([self.rng.pick(VALUE_KEYS)]))
