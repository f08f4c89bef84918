"""Acks of one turn of the loop, gathered into one command.

A consumer that works through a burst of deliveries acks each by itself; together they cost the log one envelope, and
the machine one decoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from disheap.errors import DisheapError, LeaseLost
from disheap.protocol import broker

Batch = list[tuple[broker.Token, "asyncio.Future[None] | None"]]


class Acks:
    """Acks that were not sent yet, and the futures that wait for them."""

    def __init__(self) -> None:
        self._gathered: Batch = []

    def add(self, token: broker.Token, future: asyncio.Future[None] | None) -> None:
        """Gather one ack. `future` is None if nobody waits for it."""
        self._gathered.append((token, future))

    def __bool__(self) -> bool:
        return bool(self._gathered)

    def take(self) -> Iterator[tuple[broker.Ack, Callable[[asyncio.Future[Any]], None]]]:
        """Empty it. Yields the commands, and for each what is to be done when its reply is there."""
        gathered, self._gathered = self._gathered, []
        for start in range(0, len(gathered), broker.TOKENS_MAX):
            batch = gathered[start : start + broker.TOKENS_MAX]
            yield broker.Ack([token for token, _ in batch]), partial(_acked, batch)

    def fail(self, error: DisheapError) -> None:
        """Drop all acks, and set `error` on the futures that wait."""
        gathered, self._gathered = self._gathered, []
        for _, future in gathered:
            if future is not None and not future.done():
                future.set_exception(error)


def _acked(batch: Batch, done: asyncio.Future[Any]) -> None:
    if done.cancelled():
        return
    error = done.exception()
    stale = frozenset() if error else frozenset(done.result().stale)
    for token, future in batch:
        if future is None or future.done():
            continue
        if error is not None:
            future.set_exception(error)
        elif token in stale:
            future.set_exception(LeaseLost(f"the lease on message {token[0]} was no longer ours; nothing was changed"))
        else:
            future.set_result(None)
