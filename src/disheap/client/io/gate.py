"""Futures in a row, for those who wait for the same thing."""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[asyncio.Future[bool], float]] = deque()

    async def wait(self, deadline: float) -> bool:
        """False where it was not opened by `deadline`, in loop time, which `expire` tells: no timer for each."""
        future = self._loop.create_future()
        self._waiting.append((future, deadline))
        is_open: bool = await future
        return is_open

    async def wait_until(self, deadline: float) -> bool:
        """The same with a timer of its own."""
        entry = (self._loop.create_future(), deadline)
        self._waiting.append(entry)
        done, _ = await asyncio.wait([entry[0]], timeout=max(0.0, deadline - self._loop.time()))
        if not done:
            self._waiting.remove(entry)
        return bool(done)

    def open(self, count: int | None = None) -> None:
        """Let everybody through, or the first `count`."""
        while self._waiting and (count is None or count > 0):
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                count = None if count is None else count - 1

    def expire(self, now: float) -> None:
        """Those whose deadline has passed wait no longer."""
        for future, deadline in self._waiting:
            if deadline <= now and not future.done():
                future.set_result(False)

    def __bool__(self) -> bool:
        return bool(self._waiting)
