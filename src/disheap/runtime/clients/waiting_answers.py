"""Answers to QUERYs that wait until their client has read what it was sent before.

Owns their order, and when there is room for the next one. An answer may take half a frame, so it is not made before it
can be sent. Does not send it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from disheap.runtime.clients.buffers import Buffers

ROOM_SHARE = 1 / 4
"""Answers are made while less than this share of `write_buffer_bytes` is unsent. Where the transport pauses, too."""


class WaitingAnswers:
    """The answers of one connection, in the order of its queries."""

    __slots__ = ("_buffers", "_waiting", "_write_buffer_bytes")

    def __init__(self, write_buffer_bytes: int, buffers: Buffers) -> None:
        self._write_buffer_bytes = write_buffer_bytes
        self._buffers = buffers
        self._waiting: deque[Callable[[], None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, make: Callable[[], None]) -> None:
        """`make` is called once. It makes the answer and sends it, or only frees its place if the connection is
        closed."""
        self._waiting.append(make)

    def make(self, unsent_bytes: Callable[[], int]) -> None:
        """Make the next answers while there is room. `unsent_bytes` tells what the connection has not sent yet."""
        while self._waiting:
            unsent = unsent_bytes()
            if unsent > self._write_buffer_bytes * ROOM_SHARE:
                break
            if unsent and not self._buffers.has_room_for_answers():
                break
            self._waiting.popleft()()

    def drop(self) -> None:
        """The connection is closed: each query frees its place."""
        while self._waiting:
            self._waiting.popleft()()
