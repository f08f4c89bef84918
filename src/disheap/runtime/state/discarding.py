"""Frees replaced states in slices.

A state of a million messages takes 300 ms to free in one step, on whatever thread: the interpreter lets no other thread
run meanwhile. So a state that a leader's snapshot or a repair replaced is taken apart here, a slice at a time. The loop
has its turn between two slices. A machine that is not `interfaces.Discarding` is freed in one step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from disheap.runtime.state.sessions import Sessions

PAUSE_S = 0.005
"""Between two slices of at most 2 ms: freeing takes less than a third of the loop's time."""


class Discarder:
    """Frees one state at a time, in the order in which they were given up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Sessions] = deque()
        self._slices: Iterator[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a state is being freed, or waits for it."""
        return self._timer is not None

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
            self._slices = self._waiting.popleft().discarding()
        try:
            next(self._slices)
        except StopIteration:
            self._slices = None
        is_done = self._slices is None and not self._waiting
        self._timer = None if is_done else self._loop.call_later(PAUSE_S, self._step)
