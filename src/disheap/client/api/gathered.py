"""Batches of both clients: enqueues, publishes and settlements that are gathered, and carried out all or nothing.

Owns what is gathered, and which deliveries it settles. How it is sent is the client's. Parts for one group are one
command. Parts for clients of several groups are a transaction (`core.two_phase`). A batch lives in one `with` block.
Its end sends, and an exception in it discards the batch.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from disheap.client.api.delivered import Delivered
from disheap.client.api.outgoing import new_message
from disheap.client.core import faults
from disheap.client.core.two_phase import TRANSACTION_TIMEOUT_MS, TwoPhase, ids_of
from disheap.client.core.url import BrokerUrl
from disheap.errors import BatchTooLarge, InvalidArgument, LeaseLost
from disheap.protocol import broker
from disheap.protocol.broker import Headers
from disheap.protocol.handshake import Welcome

Item = broker.Enqueue | broker.Publish | broker.Ack | broker.Nack


class BatchDriver(Protocol):
    """What a batch asks of a client's driver."""

    url: BrokerUrl

    @property
    def welcome(self) -> Welcome | None:
        """The WELCOME of the present connection."""

    def draw_name(self) -> str:
        """Returns a name for a transaction that nobody draws twice."""


D = TypeVar("D", bound=BatchDriver)
D_co = TypeVar("D_co", bound=BatchDriver, covariant=True)


class HasDriver(Protocol[D_co]):
    """A client."""

    @property
    def driver(self) -> D_co:
        """Its driver."""


class Contents(Generic[D]):
    """What is gathered so far. All parts of a batch have it."""

    def __init__(self) -> None:
        self.items: list[tuple[D, Item]] = []
        self.deliveries: list[Delivered] = []
        self.is_open = False

    def add(self, driver: D, item: Item) -> None:
        """Adds one item. Raises `InvalidArgument` outside the `with` block, and `BatchTooLarge`."""
        if not self.is_open:
            raise InvalidArgument("a batch takes messages and acks inside its `with` block alone; begin another one")
        if len(self.items) >= broker.BATCH_PARTS_MAX:
            raise BatchTooLarge(
                f"the batch has {len(self.items)} messages and acks, which is the limit; end it and begin another one"
            )
        self.items.append((driver, item))

    def discard(self) -> None:
        """The deliveries are as before."""
        for delivery in self.deliveries:
            delivery.settled = False
        self.deliveries, self.items = [], []

    def items_of(self, driver: D) -> list[Any]:
        """The items for one client."""
        return [item for one, item in self.items if one is driver]


class Part(Generic[D]):
    """The words that add to a batch, for one client."""

    def __init__(self, driver: D, contents: Contents[D]) -> None:
        self._driver = driver
        self._contents = contents

    def enqueue(
        self,
        topic: str,
        payload: bytes,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        *,
        headers: Headers | None = None,
        key: str = "",
    ) -> None:
        """Adds a message for a topic. Raises as `Topic.enqueue` for what is wrong with it, and `BatchTooLarge`."""
        message = new_message(payload, priority, delay_ms, expires_ms, headers, key)
        self._contents.add(self._driver, broker.Enqueue(topic, message))

    def publish(
        self,
        exchange: str,
        routing_key: str,
        payload: bytes,
        *,
        priority: int = 0,
        delay_ms: int = 0,
        expires_ms: int = 0,
        mandatory: bool = False,
        headers: Headers | None = None,
        key: str = "",
    ) -> None:
        """Adds a message for an exchange. If a topic that it leads to is full, the whole batch is refused."""
        message = new_message(payload, priority, delay_ms, expires_ms, headers, key)
        self._contents.add(self._driver, broker.Publish(exchange, routing_key, message, mandatory))

    def ack(self, delivery: Delivered) -> None:
        """Adds an ack. If the lease is lost before the batch is carried out, the whole batch is refused with
        `LeaseLost`. Raises that if the delivery is settled already, and `InvalidArgument` for another client's."""
        self._settle(delivery, broker.Ack([delivery.token]))

    def nack(
        self,
        delivery: Delivered,
        *,
        delay_ms: int = 0,
        discard: bool = False,
        release: bool = False,
        error: str = "",
    ) -> None:
        """Adds a nack, as `Delivery.nack`. Raises as `ack`."""
        self._settle(delivery, delivery._nack(delay_ms, discard, release, error))

    def _settle(self, delivery: Delivered, command: broker.Ack | broker.Nack) -> None:
        if delivery._driver is not self._driver:
            raise InvalidArgument(
                f"message {delivery.id} was delivered to another client; only that one can settle it. In a batch over "
                "several groups, say `batch.on(client).ack(delivery)`"
            )
        if delivery.settled:
            raise LeaseLost(f"message {delivery.id} is settled already; nothing was added to the batch")
        self._contents.add(self._driver, command)
        delivery.settled = True
        self._contents.deliveries.append(delivery)


class Gathered(Part[D]):
    """What both kinds of batch have: what is gathered, and the results."""

    def __init__(self, driver: D, timeout_s: float | None) -> None:
        super().__init__(driver, Contents())
        self._timeout_s = timeout_s
        self._others: dict[int, Part[D]] = {}  # by group
        self._results: list[int] | None = None
        self._name = ""

    @property
    def results(self) -> list[int]:
        """After the block, a number for each call, in their order. Of an enqueue it is the id of the message, of a
        publish how many topics took it, of an ack or a nack 1. Over several groups a publish has 0. An enqueue has 0
        there if its group has not answered in time, or if the batch has publishes for that group. Raises
        `InvalidArgument` before."""
        if self._results is None:
            raise InvalidArgument("a batch has results after its `with` block, if that has ended without an exception")
        return self._results

    @property
    def transaction(self) -> str:
        """The name under which a batch over several groups is known: `client.transaction_outcome(name)` asks how it
        ended."""
        if not self._name:
            self._name = self._driver.draw_name()
        return self._name

    def on(self, client: HasDriver[D]) -> Part[D]:
        """Returns the words of this batch for another client, of another group of the same cluster. Then the batch is a
        transaction. Raises `InvalidArgument` for another cluster, and for a second client of one group."""
        driver, own = client.driver, self._driver
        if driver is own:
            return self
        here, there = own.welcome, driver.welcome
        if here is not None and there is not None and here.cluster_id != there.cluster_id:
            raise InvalidArgument(
                f"the clients of a batch belong to clusters {here.cluster_id} and {there.cluster_id}; nothing was "
                "added. All groups of a batch are of one cluster"
            )
        group = driver.url.group
        part = self._others.setdefault(group, Part(driver, self._contents))
        if group == own.url.group or part._driver is not driver:
            raise InvalidArgument(
                f"the batch has another client of group {group} already; use one client for each group"
            )
        return part

    def _begin(self) -> None:
        if self._contents.is_open or self._results is not None:
            raise InvalidArgument("a batch is entered once; begin another one with `client.batch()`")
        self._contents.is_open = True

    def _end(self, error: BaseException | None) -> tuple[D, broker.Batch] | TwoPhase[D] | None:
        """Closes the batch. Returns the command and whose it is, or the transaction to carry out, or None if there is
        nothing to do. Raises `InvalidArgument` for a nack over several groups; then the deliveries are as before."""
        self._contents.is_open = False
        if error is not None:
            self._contents.discard()
            return None
        if not self._contents.items:
            self._results = []
            return None
        first = self._contents.items[0][0]
        items = self._contents.items_of(first)
        if len(items) == len(self._contents.items):
            return first, broker.Batch(items)
        if any(isinstance(item, broker.Nack) for _, item in self._contents.items):
            self._contents.discard()
            raise InvalidArgument("a batch over several groups takes no nack; nothing was done. Give it back by itself")
        drivers = {driver.url.group: driver for driver, _ in self._contents.items}
        parts = {group: (driver, self._contents.items_of(driver)) for group, driver in drivers.items()}
        return TwoPhase(self.transaction, parts, TRANSACTION_TIMEOUT_MS)

    def _finish(self, reply: broker.Batched) -> None:
        self._results = list(reply.results)

    def _finish_transaction(self, replies: dict[int, broker.Committed | None]) -> None:
        numbers = {
            driver.url.group: iter(ids_of(self._contents.items_of(driver), replies[driver.url.group]))
            for driver in {id(driver): driver for driver, _ in self._contents.items}.values()
        }
        self._results = [next(numbers[driver.url.group]) for driver, _ in self._contents.items]

    def _fail(self, error: BaseException) -> None:
        """If nothing was done, the deliveries are as before. Otherwise nobody knows whether they are settled."""
        if isinstance(error, faults.NOTHING_DONE):
            self._contents.discard()

    def _fail_transaction(self, transaction: TwoPhase[D]) -> None:
        """Deliveries of groups that have not prepared are as before. The leases of the others have ended: if the
        transaction is aborted, their messages are delivered again. If it is committed, there are results."""
        if transaction.decided is not None:
            self._finish_transaction(transaction.decided)
            return
        for delivery in self._contents.deliveries:
            if any(delivery._driver is driver for driver in transaction.untouched):
                delivery.settled = False
