"""Bounds what a node holds for all client connections together: unfinished frames, and unsent bytes.

Each connection has bounds of its own (`limits.frame_bytes`, `limits.write_buffer_bytes`), and thousands of connections
may reach them at once. Owns the two totals and decides which connection is closed. Input cannot wait: a connection that
is not read from never finishes its frame. So the oldest unfinished frame is dropped. Answers can wait: they are made
when there is room for them. Pushes cannot wait, so a connection that reads nothing is closed.
"""

from __future__ import annotations

from typing import Protocol

UNCOUNTED_BYTES = 16 << 10
"""Less than this of a frame, or unsent to a connection, is not counted: with 4,096 connections 64 MiB."""
STALLED_S = 1.0
"""A connection that read nothing for so long is closed before one that reads."""


class BufferedConnection(Protocol):
    """A connection, as the buffers see it."""

    unsent_bytes: int  # at the last look
    took_at: float  # when it took something

    def drop_unfinished_frame(self, limit_bytes: int) -> None:
        """Drop the frame and close. `limit_bytes` is the bound that all connections together have exceeded."""

    def drop_unsent(self, limit_bytes: int) -> None:
        """Drop the unsent bytes and close. `limit_bytes` is the bound that all connections together have exceeded."""


class Buffers:
    """The bytes held for all client connections of a node, in both directions. Both bounds are in bytes."""

    def __init__(self, input_max_bytes: int, output_max_bytes: int) -> None:
        self.input_bytes = 0
        self.output_bytes = 0  # at the last look, and what answers have added since
        self._input_max_bytes = input_max_bytes
        self._output_max_bytes = output_max_bytes
        self._unfinished: dict[BufferedConnection, int] = {}  # bytes of the frame; the oldest first

    def hold_input(self, connection: BufferedConnection, size: int) -> None:
        """The connection holds `size` bytes of an unfinished frame. If all of them are too much, the oldest is
        dropped."""
        before = self._unfinished.get(connection, 0)
        size = size if size > UNCOUNTED_BYTES else 0
        if size < before:
            del self._unfinished[connection]  # that frame is whole; another has begun
        self.input_bytes += size - before
        if size:
            self._unfinished[connection] = size
        while self.input_bytes > self._input_max_bytes:
            oldest = next(iter(self._unfinished))
            self.hold_input(oldest, 0)
            oldest.drop_unfinished_frame(self._input_max_bytes)

    def holds_input(self, connection: BufferedConnection) -> bool:
        """Whether an unfinished frame of the connection is counted."""
        return connection in self._unfinished

    def add_output(self, size: int) -> None:
        """An answer of so many bytes is sent. It counts until the next `check_output`."""
        self.output_bytes += size

    def has_room_for_answers(self) -> bool:
        """Whether fewer bytes than the bound are unsent, over all connections."""
        return self.output_bytes < self._output_max_bytes

    def check_output(self, connections: list[BufferedConnection], now: float) -> None:
        """`connections` are those with unsent bytes. If they have too many, connections are closed: first those that
        read nothing, then the others, the largest first."""
        self.output_bytes = sum(one.unsent_bytes for one in connections)
        if self.output_bytes <= self._output_max_bytes:
            return
        for one in sorted(connections, key=lambda one: (now - one.took_at < STALLED_S, -one.unsent_bytes)):
            self.output_bytes -= one.unsent_bytes
            one.drop_unsent(self._output_max_bytes)
            if self.output_bytes <= self._output_max_bytes:
                break
