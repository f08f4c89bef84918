"""What simulated clients do with topics that exist: change their settings, pause, purge and delete them."""

from __future__ import annotations

from disheap.protocol import broker
from disheap.testing.simulator.clients.shapes import CHANGES, CHANGING
from disheap.testing.simulator.clients.value_operations import ValueOperations


class TopicOperations(ValueOperations):
    """The operations of a client on topics that exist."""

    async def _update_topic(self) -> None:
        """Later creations with the first settings are refused, until one is deleted."""
        command = broker.UpdateTopic(self.rng.pick(CHANGING), self.rng.pick(CHANGES))
        await self._client.driver.request(command)

    async def _pause_topic(self) -> None:
        """Mostly a topic that goes on again soon."""
        deliveries, enqueues = self.rng.pick(((True, None), (None, True), (False, False), (False, False)))
        await self._client.set_paused(self.rng.pick(CHANGING), deliveries=deliveries, enqueues=enqueues)

    async def _delete_topic(self) -> None:
        name = self.rng.pick(("passing", "fleeting", "small", "tiny", "dropping"))
        await self._client.delete_topic(name, if_unused=self.rng.chance(0.3), if_empty=self.rng.chance(0.3))

    async def _purge(self) -> None:
        await self._client.topic(self.rng.pick(("small", "brief"))).purge()
