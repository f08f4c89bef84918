"""What a thing that comes and goes leaves in memory when nothing collects garbage, as in a node's process.

Counts the objects of every type before and after many rounds. A type that grows with the rounds is a leak: a reference
cycle, or a table that is never cleaned up.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from tests.support.wire import PATIENCE_S

LOG = ("disheap.kernel.types.Entry", "disheap_memory.storage.Block")
"""Commands are kept in the node's log until a snapshot is taken."""
WARM_UP = 20
"""Rounds before the first count: caches and tables reach their size."""
SHARE = 0.8
"""A type that grows by one with each round is found."""
ROUNDS_MIN = 150
"""asyncio keeps up to a hundred cancelled timers."""
LOOK_AGAIN_S = 0.05


async def grown_by(
    rounds: int, one_round: Callable[[], Awaitable[object]], ignored: tuple[str, ...] = LOG
) -> dict[str, float]:
    """Objects left by each round, by type, where they are more than `SHARE`. `ignored` are names of types that are
    meant to stay."""
    for _ in range(WARM_UP):
        await one_round()
    await asyncio.sleep(LOOK_AGAIN_S)
    with _without_collector():
        count = _Count(rounds, ignored)
        for _ in range(rounds):
            await one_round()
        while not count.is_over():  # the last rounds may still be ending
            await asyncio.sleep(LOOK_AGAIN_S)
        return count.left


def grown_by_blocking(rounds: int, one_round: Callable[[], object], ignored: tuple[str, ...] = LOG) -> dict[str, float]:
    """As `grown_by`, for a client that blocks; the node runs in another thread."""
    for _ in range(WARM_UP):
        one_round()
    time.sleep(LOOK_AGAIN_S)
    with _without_collector():
        count = _Count(rounds, ignored)
        for _ in range(rounds):
            one_round()
        while not count.is_over():
            time.sleep(LOOK_AGAIN_S)
        return count.left


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


class _Count:
    def __init__(self, rounds: int, ignored: tuple[str, ...]) -> None:
        self.left: dict[str, float] = {}
        assert rounds >= ROUNDS_MIN
        self._rounds, self._ignored = rounds, ignored
        self._looks = int(PATIENCE_S / LOOK_AGAIN_S)
        self._before = _objects()

    def is_over(self) -> bool:
        """Nothing is left, or nobody waits any longer."""
        grown = _objects() - self._before
        self.left = {
            name: count / self._rounds
            for name, count in grown.items()
            if count > self._rounds * SHARE and name not in self._ignored
        }
        self._looks -= 1
        return not self.left or self._looks <= 0


def _objects() -> Counter[str]:
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
