"""Frees replaced states in slices.

A state of a million messages takes 300 ms to free in one step, on whatever thread: the interpreter lets no other thread
run meanwhile. So a state that a leader's snapshot or a repair replaced is taken apart here, a slice at a time. The loop
has its turn between two slices. A machine that is not `interfaces.Discarding` is freed in one step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from disheap.runtime.state.sessions import Sessions

PAUSE_S = 0.005
"""Between two slices of at most 2 ms: freeing takes less than a third of the loop's time."""


class Discarder:
    """Frees one state at a time, in the order in which they were given up. `freed` is called after each slice."""

    def __init__(self, loop: asyncio.AbstractEventLoop, freed: Callable[[], None]) -> None:
        self._loop = loop
        self._freed = freed
        self._waiting: deque[Sessions] = deque()  # the first one is being freed
        self._slices: Iterator[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a state is being freed, or waits for it."""
        return self._timer is not None

    def memory_bytes(self) -> int:
        """An estimate of the bytes that are not freed yet."""
        return sum(sessions.memory_bytes() + (sessions.machine_bytes() or 0) for sessions in self._waiting)

    def discard(self, sessions: Sessions) -> None:
        """Free this state. Nothing is applied to it any more. Views of it may still be read."""
        self._waiting.append(sessions)
        if self._timer is None:
            self._timer = self._loop.call_later(PAUSE_S, self._step)

    def end(self) -> None:
        """The node stops: free the rest in one step."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._slices = None
        self._waiting.clear()

    def _step(self) -> None:
        if self._slices is None:
            self._slices = self._waiting[0].discarding()
        try:
            next(self._slices)
        except StopIteration:
            self._slices = None
            self._waiting.popleft()
        self._timer = self._loop.call_later(PAUSE_S, self._step) if self._waiting else None
        self._freed()
