"""Consume: one consumer of the cluster for each stream.

The credit bounds what the cluster sends, so a client that reads slowly makes the node hold no more than
`consume_bytes`. However the stream ends, one command ends the consumer and all its leases.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc

from disheap.client.api.consuming import Delivery
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import DisheapError, InvalidArgument, LimitReached, NotSent, RequestTimeout, renewed
from disheap.protocol import broker
from disheap_grpc import messages
from disheap_grpc.calls import Call, parse, retrieve
from disheap_grpc.settings import CREDIT_DEFAULT, CREDIT_MAX, PIPELINED_MAX, START_S
from disheap_grpc.translation import duration_of
from disheap_grpc.v1 import broker_pb2 as pb

Answer = tuple["asyncio.Future[broker.Settled] | None", list[bytes]]
"""(reply, tokens that are none of this client's)."""


class Consumers:
    """The open streams of a service."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[Stream, None] = {}

    async def consume(self, call: Call) -> None:
        """Runs one stream. Raises the refusal that ends it.

        The first request is read before a refusal: a client that is still writing would not learn the reason."""
        stream = Stream(call)
        command = await stream.wait_start()
        if len(self._open) >= self._limit:
            raise LimitReached(
                f"this node serves {self._limit} Consume streams, and no more (consumers in [service.grpc])"
            )
        self._open[stream] = None
        try:
            await stream.run(command)
        finally:
            del self._open[stream]

    def stop(self) -> None:
        """Ends all streams: their clients go to another node."""
        for stream in self._open:
            stream.lost(NotSent("this node is stopping; the leases of this stream have ended"))

    def __len__(self) -> int:
        return len(self._open)


class Stream:
    """One Consume, and the sink of its deliveries."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ready: deque[broker.Deliver] = deque()
        self._answers: deque[Answer] = deque()
        self._reason: str | None = None  # why the cluster ended the consumer
        self._error: DisheapError | None = None
        self._is_half_closed = False
        self._changed: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    async def run(self, command: broker.Subscribe) -> None:
        """Consumes until one side ends the stream."""
        driver = await self._call.driver()
        await driver.room(self._call.timeout_s)
        number = await driver.subscribe(command, self)
        reading = driver.loop.create_task(self._read(driver, number), name="gRPC Consume")
        try:
            await self._call.context.write(pb.ConsumeResponse(started=pb.ConsumeStarted()))
            await self._write(driver)
        finally:
            driver.cancel_and_release(number, ())
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            del reading  # a task that was cancelled keeps its frames, and they hold this stream
            for future, _ in self._answers:
                if future is not None:
                    future.add_done_callback(retrieve)

    # --- Sink --------------------------------------------------------------------------------------------------------

    def take(self, push: broker.Deliver) -> None:
        """A delivery came."""
        self._ready.append(push)
        self._notify()

    def ended(self, push: broker.PopDone | broker.ConsumerEnded) -> None:
        """The cluster ended the consumer."""
        self._reason = push.reason if isinstance(push, broker.ConsumerEnded) else ""
        self._notify()

    def lost(self, error: DisheapError) -> None:
        """The session is over, or this node stops. What was not sent went back to its topic."""
        if self._error is None:
            self._error = renewed(error)
        self._ready.clear()
        self._notify()

    # --- what is sent ------------------------------------------------------------------------------------------------

    async def _write(self, driver: Driver) -> None:
        while True:
            if self._error is not None:
                raise renewed(self._error)
            if self._answers and (self._answers[0][0] is None or self._answers[0][0].done()):
                response = self._settled(*self._answers.popleft())
                self._drain()
            elif self._ready:
                response = self._delivery(Delivery(driver, self._ready.popleft()))
            elif self._reason is not None:
                await self._call.context.write(pb.ConsumeResponse(ended=pb.ConsumeEnded(reason=self._reason)))
                return
            elif self._is_half_closed and not self._answers:
                return
            else:
                self._changed = driver.loop.create_future()
                await self._changed
                continue
            await self._call.context.write(response)

    def _delivery(self, delivery: Delivery) -> Any:
        messages.check_fits(self._call, delivery)
        return pb.ConsumeResponse(delivery=messages.seal(self._call, delivery))

    def _settled(self, future: asyncio.Future[broker.Settled] | None, foreign: list[bytes]) -> Any:
        if future is None:
            return pb.ConsumeResponse(settled=messages.settled(self._call, None, foreign))
        error = future.exception()
        if error is not None:
            raise renewed(error)
        return pb.ConsumeResponse(settled=messages.settled(self._call, future.result(), foreign))

    def _notify(self, _: object = None) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # --- what comes --------------------------------------------------------------------------------------------------

    async def wait_start(self) -> broker.Subscribe:
        """The first request. Raises `InvalidArgument` and `RequestTimeout`."""
        try:
            async with asyncio.timeout(START_S):
                raw = await self._call.context.read()
        except TimeoutError:
            raise RequestTimeout(f"the stream did not say within {START_S:g} s what it wants") from None
        request = parse(pb.ConsumeRequest, raw) if raw is not grpc.aio.EOF else pb.ConsumeRequest()
        if request.WhichOneof("kind") != "start":
            raise InvalidArgument("the first request of a Consume has `start`")
        start = request.start
        return broker.Subscribe(
            start.topic,
            self._credit(start.credit),
            self._credit_bytes(start.credit_bytes),
            start.no_ack,
            duration_of(start.lease_ms, 0, "lease_ms"),
            start.exclusive,
        )

    async def _read(self, driver: Driver, number: int) -> None:
        try:
            while (raw := await self._call.context.read()) is not grpc.aio.EOF:
                await self._take_request(driver, number, parse(pb.ConsumeRequest, raw))
            self._is_half_closed = True
            self._notify()
        except DisheapError as error:
            self.lost(error)

    async def _take_request(self, driver: Driver, number: int, request: Any) -> None:
        kind = request.WhichOneof("kind")
        match kind:
            case "ack" | "nack" | "extend":
                command, foreign = messages.settling(self._call, getattr(request, kind))
                while len(self._answers) >= PIPELINED_MAX:
                    self._drained = driver.loop.create_future()
                    await self._drained
                await driver.room()
                future = None if command is None else driver.send(command)
                self._answers.append((future, foreign))
                if future is None:
                    self._notify()
                else:
                    future.add_done_callback(self._notify)
            case "credit":
                credit = self._credit(request.credit.credit), self._credit_bytes(request.credit.credit_bytes)
                await driver.request(broker.SetCredit(number, *credit))
            case _:
                raise InvalidArgument("a later request of a Consume has `credit`, `ack`, `nack` or `extend`")

    def _drain(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _credit(self, credit: int) -> int:
        if credit > CREDIT_MAX:
            raise InvalidArgument(f"credit is at most {CREDIT_MAX}, not {credit}")
        return credit or CREDIT_DEFAULT

    def _credit_bytes(self, credit_bytes: int) -> int:
        most = self._call.site.settings.consume_bytes
        return min(credit_bytes or most, most)
