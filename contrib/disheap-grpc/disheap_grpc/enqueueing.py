"""EnqueueStream: many messages, pipelined, in their order.

What is under way is bounded in number and in bytes. Beyond that nothing is read from the client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc

from disheap.client.io.asyncio_driver import Driver
from disheap.errors import DisheapError
from disheap.protocol import broker
from disheap_grpc import statuses, translation
from disheap_grpc.calls import Call, parse, retrieve
from disheap_grpc.settings import PIPELINED_BYTES, PIPELINED_MAX
from disheap_grpc.v1 import broker_pb2 as pb


async def enqueue_stream(call: Call) -> Any:
    """Returns the answer, or None and sets a status that says how many messages were taken."""
    stream = EnqueueStream(call)
    try:
        await stream.run(await call.driver())
    except DisheapError as error:
        await stream.wait_rest()
        statuses.refuse(call.context, error, {"enqueued": str(stream.enqueued)})
        return None
    finally:
        stream.forget()
    return pb.EnqueueStreamResponse(enqueued=stream.enqueued)


class EnqueueStream:
    """One stream. `enqueued` counts the messages that the cluster has confirmed."""

    def __init__(self, call: Call) -> None:
        self.enqueued = 0
        self._call = call
        self._pending: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._pending_bytes = 0

    async def run(self, driver: Driver) -> None:
        """Reads and sends until the client is done. Raises the first refusal."""
        while (raw := await self._call.context.read()) is not grpc.aio.EOF:
            request = parse(pb.EnqueueRequest, raw)
            command = broker.Enqueue(request.topic, translation.new_message(request.message))
            size = len(raw)
            while self._pending and (
                len(self._pending) >= PIPELINED_MAX or self._pending_bytes + size > PIPELINED_BYTES
            ):
                await self._wait_first()
            await driver.room(self._call.timeout_s)
            self._pending.append((driver.send(command, timeout_s=self._call.timeout_s), size))
            self._pending_bytes += size
        while self._pending:
            await self._wait_first()

    async def wait_rest(self) -> None:
        """After a refusal: what was sent before it was read is confirmed or refused."""
        while self._pending:
            try:
                await self._wait_first()
            except DisheapError:
                continue

    def forget(self) -> None:
        """Nobody waits any more."""
        while self._pending:
            self._pending.popleft()[0].add_done_callback(retrieve)

    async def _wait_first(self) -> None:
        future, size = self._pending.popleft()
        self._pending_bytes -= size
        try:
            await future
        except asyncio.CancelledError:
            future.add_done_callback(retrieve)
            raise
        finally:
            del future  # an error's traceback holds this frame, and the future holds the error: a cycle
        self.enqueued += 1
