"""BrokerState, consumers and pops of the asyncio client.

Owns the queue between what the node pushes and what the application takes. It is bounded by credit: the node never
has more unacknowledged deliveries under way than were asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from disheap.client.api.delivered import Delivered, told
from disheap.errors import ConsumerNotFound, DisheapError, RequestTimeout, SessionExpired
from disheap.protocol import broker

if TYPE_CHECKING:
    from disheap.client.io.asyncio_driver import Driver

DEFAULT_CREDIT = 64


class Delivery(Delivered):
    """One message under one lease. `async with` acks it on success and gives it back on an exception."""

    __slots__ = ("_driver",)
    _driver: Driver

    def __init__(self, driver: Driver, push: broker.Deliver) -> None:
        super().__init__(push)
        self._driver = driver

    def ack(self) -> asyncio.Future[None]:
        """Acknowledge the message. Awaiting the result raises `LeaseLost` if the lease was not ours any more."""
        if not self._push.epoch:
            future: asyncio.Future[None] = self._driver.loop.create_future()
            future.set_result(None)
            return future
        self.settled = True
        return self._driver.ack((self._push.id, self._push.epoch))

    def ack_nowait(self) -> None:
        """Acknowledge it without waiting for the reply."""
        self.settled = True
        self._driver.ack_nowait((self._push.id, self._push.epoch))

    async def nack(self, *, delay_ms: int = 0, discard: bool = False, release: bool = False, error: str = "") -> None:
        """Give it back, to its old place or after `delay_ms`. Without a delay that of the topic applies
        (`retry_delay_ms`). With `discard` it is dead-lettered, or dropped if the topic has no place for dead letters.
        With `release` the delivery does not count: nothing was done with the message. `error` is what a dead letter
        tells, the first 1024 characters. Raises `LeaseLost`, and `InvalidArgument` for `release` with `discard` or an
        `error`."""
        if self._push.epoch:
            self.settled = True
            self._check(await self._driver.request(self._nack(delay_ms, discard, release, error)))

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
            self._driver.give_back([self.token], told(error))


class Inbox:
    """The deliveries of one consumer, in order: what the node pushed and the application did not take yet."""

    def __init__(self, driver: Driver) -> None:
        self.queue: deque[broker.Deliver] = deque()
        self.over = False
        self.reason = ""
        self._driver = driver
        self._error: DisheapError | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, timeout_s: float | None) -> None:
        """Waits until something has changed, or `timeout_s` are over."""
        if self._waiting is None or self._waiting.done():
            self._waiting = self._driver.loop.create_future()
        if timeout_s is None:
            await asyncio.shield(self._waiting)
        else:
            await asyncio.wait([self._waiting], timeout=timeout_s)

    def finish(self) -> None:
        """Nothing more comes."""
        self.over = True
        self._wake()

    def check(self) -> None:
        """Raises why it ended, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    # --- Sink ---

    def take(self, push: broker.Deliver) -> None:
        """A delivery came."""
        self.queue.append(push)
        self._wake()

    def ended(self, push: broker.PopDone | broker.ConsumerEnded) -> None:
        """The node ended the consumer."""
        self.reason = push.reason if isinstance(push, broker.ConsumerEnded) else ""
        self.finish()

    def lost(self, error: DisheapError) -> None:
        """The session or the client is over. Deliveries that were not taken went back to their topic."""
        self._error = error
        self.queue.clear()
        self.finish()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Consumer:
    """An iterator over deliveries, and an async context manager that ends it.

    It subscribes at the first `__anext__` or on entering. When it is closed, deliveries that were not taken from it are
    given back; those taken keep their leases. It ends when the topic is deleted or nothing came for `idle_s`, and
    raises `SessionExpired` when the session lapsed.
    """

    def __init__(self, driver: Driver, command: broker.Subscribe, idle_s: float | None = None) -> None:
        self._driver = driver
        self._command, self._idle_s = command, idle_s
        self._number: int | None = None
        self._inbox = Inbox(driver)
        self._opening: asyncio.Lock = asyncio.Lock()

    @property
    def reason(self) -> str:
        """Why it ended, for people."""
        return self._inbox.reason

    async def set_credit(self, credit: int, credit_bytes: int = 0) -> None:
        """From now on at most `credit` deliveries not yet settled, and `credit_bytes` of their payloads (0: the
        machine's bound). What is out already stays. A shared credit is changed for its group. Raises `InvalidArgument`,
        and `ConsumerNotFound` at its end."""
        await self._open()
        group = self._command.group
        number = 0 if group else self._number or 0
        await self._driver.request(broker.SetCredit(number, credit, credit_bytes, group))

    async def close(self) -> None:
        """End the consumer. May be called twice."""
        inbox = self._inbox
        if inbox.over:
            return
        inbox.finish()
        queued, inbox.queue = inbox.queue, deque()
        if self._number is not None:
            self._driver.unsubscribe(self._number, queued)
            try:
                await self._driver.request(broker.Cancel(self._number))
            except (ConsumerNotFound, SessionExpired):
                pass  # it is gone, as was wanted

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Delivery:
        inbox = self._inbox
        while not inbox.queue:
            if inbox.over:
                inbox.check()
                raise StopAsyncIteration
            if self._number is None:
                await self._open()
                continue
            await inbox.wait(self._idle_s)
            if self._idle_s is not None and not (inbox.queue or inbox.over):
                await self.close()
        return Delivery(self._driver, inbox.queue.popleft())

    async def __aenter__(self) -> Consumer:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> None:
        async with self._opening:
            if self._number is None and not self._inbox.over:
                await self._driver.room()
                self._number = await self._driver.subscribe(self._command, self._inbox)
                if self._inbox.over:  # closed meanwhile: nobody takes what it gets
                    self._driver.cancel_and_release(self._number, self._inbox.queue)


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
            self._driver.cancel_and_release(number, self._pushes)
            raise RequestTimeout("the pop did not end in time; what had come was given back") from None
        except asyncio.CancelledError:
            self._driver.cancel_and_release(number, self._pushes)
            raise
        return [Delivery(self._driver, push) for push in self._pushes]

    def take(self, push: broker.Deliver) -> None:
        """A delivery came."""
        self._pushes.append(push)

    def ended(self, push: broker.PopDone | broker.ConsumerEnded) -> None:
        """Nothing more comes for the pop."""
        if not self._done.done():
            self._done.set_result(None)

    def lost(self, error: DisheapError) -> None:
        """The session or the client is over."""
        if not self._done.done():
            self._done.set_exception(error)
