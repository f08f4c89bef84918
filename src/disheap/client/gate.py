"""Futures in a row, for those who wait for the same thing."""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._waiting.append(future)
        await future

    async def wait_until(self, deadline: float) -> bool:
        """False when it was not opened by `deadline`, in loop time."""
        future = self._loop.create_future()
        self._waiting.append(future)
        done, _ = await asyncio.wait([future], timeout=max(0.0, deadline - self._loop.time()))
        if not done:
            self._waiting.remove(future)
        return bool(done)

    def open(self, count: int | None = None) -> None:
        """Let everybody through, or the first `count`."""
        while self._waiting and (count is None or count > 0):
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                count = None if count is None else count - 1

    def __bool__(self) -> bool:
        return bool(self._waiting)
