"""Deliveries, consumers and pops of the asyncio client.

Owns the queue between what the node pushes and what the application takes. It is bounded by credit: the node never
has more unacknowledged deliveries under way than were asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from disheap.client.delivered import Delivered
from disheap.errors import ConsumerNotFound, DisheapError, RequestTimeout, SessionExpired
from disheap.protocol import broker

if TYPE_CHECKING:
    from disheap.client.driver import Driver

DEFAULT_CREDIT = 64


class Delivery(Delivered):
    """One message under one lease. `async with` acks it on success and gives it back on an exception."""

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver, push: broker.Deliver) -> None:
        super().__init__(push)
        self._driver = driver

    def ack(self) -> asyncio.Future[None]:
        """Done with it. Await it to know; raises `LeaseLost` when the lease was not ours any more."""
        if not self._push.epoch:
            future: asyncio.Future[None] = self._driver.loop.create_future()
            future.set_result(None)
            return future
        self.settled = True
        return self._driver.ack((self._push.id, self._push.epoch))

    def ack_nowait(self) -> None:
        """Done with it, and no wish to hear of it."""
        self.settled = True
        self._driver.ack_nowait((self._push.id, self._push.epoch))

    async def nack(self, *, delay_ms: int = 0, discard: bool = False) -> None:
        """Give it back, to its old place or after `delay_ms`; with `discard` drop it. Raises `LeaseLost`."""
        if self._push.epoch:
            self.settled = True
            self._check(await self._driver.request(broker.Nack([self.token], delay_ms, discard)))

    async def extend(self, lease_ms: int = 0) -> None:
        """The lease ends `lease_ms` from now (0: with the session). Raises `LeaseLost`."""
        if self._push.epoch:
            self._check(await self._driver.request(broker.Extend([self.token], lease_ms)))

    async def __aenter__(self) -> Delivery:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.settled:
            return
        if error is None:
            await self.ack()
        else:
            self.settled = True
            self._driver.give_back([self.token])


class Consumer:
    """An iterator over deliveries, and an async context manager that ends it.

    It subscribes at the first `__anext__` or on entering. When it is closed, deliveries that were not taken from it are
    given back; those taken keep their leases. It ends when the topic is deleted, and raises `SessionExpired` when the
    session lapsed.
    """

    def __init__(self, driver: Driver, command: broker.Subscribe) -> None:
        self._driver = driver
        self._command = command
        self._number: int | None = None
        self._queue: deque[broker.Deliver] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._over = False
        self._error: DisheapError | None = None
        self._opening: asyncio.Lock = asyncio.Lock()
        self.reason = ""  # why it ended, for people

    async def set_credit(self, credit: int, credit_bytes: int = 0) -> None:
        await self._open()
        await self._driver.request(broker.SetCredit(self._number or 0, credit, credit_bytes))

    async def aclose(self) -> None:
        """End the consumer. May be called twice."""
        if self._over:
            return
        self._finish()
        queued, self._queue = self._queue, deque()
        if self._number is not None:
            self._driver.unsubscribe(self._number, queued)
            try:
                await self._driver.request(broker.Cancel(self._number))
            except (ConsumerNotFound, SessionExpired):
                pass  # it is gone, as was wanted

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Delivery:
        while not self._queue:
            if self._over:
                raise self._error or StopAsyncIteration
            if self._number is None:
                await self._open()
            else:
                await self._wait()
        return Delivery(self._driver, self._queue.popleft())

    async def __aenter__(self) -> Consumer:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- Sink ---

    def take(self, push: broker.Deliver) -> None:
        self._queue.append(push)
        self._wake()

    def ended(self, push: broker.PopDone | broker.ConsumerEnded) -> None:
        self.reason = push.reason if isinstance(push, broker.ConsumerEnded) else ""
        self._finish()

    def lost(self, error: DisheapError) -> None:
        self._error = error
        self._queue.clear()
        self._finish()

    def _finish(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _open(self) -> None:
        async with self._opening:
            if self._number is None and not self._over:
                await self._driver.room()
                self._number = await self._driver.subscribe(self._command, self)
                if self._over:  # closed meanwhile: nobody takes what it gets
                    self._driver.forsake(self._number, self._queue)

    async def _wait(self) -> None:
        if self._waiting is None or self._waiting.done():
            self._waiting = self._driver.loop.create_future()
        await asyncio.shield(self._waiting)


class Popping:
    """One pop: gathers until the node says that nothing more will come."""

    def __init__(self, driver: Driver, command: broker.Pop) -> None:
        self._driver = driver
        self._command = command
        self._pushes: list[broker.Deliver] = []
        self._done: asyncio.Future[None] = driver.loop.create_future()

    async def wait_deliveries(self) -> list[Delivery]:
        """Raises `SessionExpired` when the session lapsed. Cancelled, it gives back what has come."""
        await self._driver.room()
        number = await self._driver.subscribe(self._command, self)
        try:
            async with asyncio.timeout(self._command.wait_ms / 1000 + self._driver.url.timeout_s):
                await self._done
        except TimeoutError:
            self._driver.forsake(number, self._pushes)
            raise RequestTimeout("the pop did not end in time; what had come was given back") from None
        except asyncio.CancelledError:
            self._driver.forsake(number, self._pushes)
            raise
        return [Delivery(self._driver, push) for push in self._pushes]

    def take(self, push: broker.Deliver) -> None:
        self._pushes.append(push)

    def ended(self, push: broker.PopDone | broker.ConsumerEnded) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def lost(self, error: DisheapError) -> None:
        if not self._done.done():
            self._done.set_exception(error)
