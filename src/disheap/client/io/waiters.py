"""Tasks that wait for the same thing, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque


class Waiters:
    """Futures in a row. Deadlines are in loop time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[asyncio.Future[bool], float]] = deque()

    async def wait(self, deadline: float) -> bool:
        """Returns whether `wake` came before `deadline`. `expire` ends the wait, so that none needs a timer."""
        future = self._loop.create_future()
        self._waiting.append((future, deadline))
        is_awake: bool = await future
        return is_awake

    async def wait_until(self, deadline: float) -> bool:
        """Returns whether `wake` came before `deadline`. This wait has a timer."""
        entry = (self._loop.create_future(), deadline)
        self._waiting.append(entry)
        done, _ = await asyncio.wait([entry[0]], timeout=max(0.0, deadline - self._loop.time()))
        if not done:
            self._waiting.remove(entry)
        return bool(done)

    def wake(self, count: int | None = None) -> None:
        """Wake all, or the first `count`."""
        while self._waiting and (count is None or count > 0):
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                count = None if count is None else count - 1

    def expire(self, now: float) -> None:
        """End the waits whose deadline has passed."""
        for future, deadline in self._waiting:
            if deadline <= now and not future.done():
                future.set_result(False)

    def __bool__(self) -> bool:
        return bool(self._waiting)
