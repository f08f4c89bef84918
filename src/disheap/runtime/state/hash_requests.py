"""Computes the state's hash for operators. One hash is computed at a time, in slices with pauses, for all requests. All
requests during one hash share the next. So nobody gets the hash of a state that is older than the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

from disheap.kernel.types import Index
from disheap.runtime.state.sessions import Sessions
from disheap.runtime.state.state_hashes import DIGEST_BYTES, PAUSE_S

Hash = tuple[Index, bytes]
OnView = Callable[[Index, Sessions], None]


class StateHasher:
    """`view` calls back with a state that belongs to an index, at once or as soon as there is one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, view: Callable[[OnView], None]) -> None:
        self._loop = loop
        self._view = view
        self._next: asyncio.Future[Hash] | None = None
        self._made: asyncio.Future[Hash] | None = None
        self._is_busy = False
        self._timer: asyncio.Handle | None = None

    async def hash_state(self) -> Hash:
        """Returns the index and the hash of the state there. Raises what the machine raises."""
        future = self._next
        if future is None:
            future = self._next = self._loop.create_future()
            self._begin()
        return await asyncio.shield(future)

    def end(self) -> None:
        """The node stops: cancel all requests."""
        if self._timer is not None:
            self._timer.cancel()
        for future in (self._next, self._made):
            if future is not None:
                future.cancel()

    def _begin(self) -> None:
        """Begin a hash unless one is being computed. Its end begins the next."""
        if self._next is not None and not self._is_busy:
            self._is_busy = True
            self._view(self._start)

    def _start(self, index: Index, sessions: Sessions) -> None:
        self._made, self._next = self._next, None
        try:
            slices = sessions.hashing()
        except Exception as error:
            self._finish(error)
        else:
            self._timer = self._loop.call_soon(self._step, index, slices, blake2b(digest_size=DIGEST_BYTES))

    def _step(self, index: Index, slices: Iterator[bytes], digest: Any) -> None:
        try:
            piece = next(slices, None)
        except Exception as error:
            self._finish(error)
            return
        if piece is None:
            self._finish((index, digest.digest()))
            return
        digest.update(piece)
        self._timer = self._loop.call_later(PAUSE_S, self._step, index, slices, digest)

    def _finish(self, result: Hash | Exception) -> None:
        future, self._made, self._timer, self._is_busy = self._made, None, None, False
        if future is None or future.done():
            pass
        elif isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
        self._begin()
