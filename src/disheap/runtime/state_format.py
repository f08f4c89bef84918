"""The session table in a snapshot, before the machine's own bytes.

A snapshot is a stream of bytes. It begins with records, each a length (4 bytes, little-endian) and msgpack: one `Head`,
then `Head.sessions` rows. All that follows is the machine's. Pieces may be cut anywhere by whoever stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TypeVar

import msgspec

from disheap.errors import SnapshotDamaged
from disheap.protocol.frames import UNREADABLE

_LENGTH = Struct("<I")
RECORD_BYTES = 256 << 20  # no record of ours comes near; a larger length is damage
T = TypeVar("T")


class Head(msgspec.Struct, array_like=True, frozen=True):
    machine_version: int
    next_session: int
    term: int
    sessions: int


class Row(msgspec.Struct, array_like=True, frozen=True):
    """One session. `replies`: (seq, (index, status, body)) in the order of application."""

    id: int
    timeout_ms: int
    label: str
    attachment: int
    confirmed: int
    replies: list[tuple[int, tuple[int, int, bytes]]]


def write(head: Head, rows: Iterable[Row], machine: Iterator[bytes]) -> Iterator[bytes]:
    yield _record(head)
    for row in rows:
        yield _record(row)
    yield from machine


def _record(value: Head | Row) -> bytes:
    body = msgspec.msgpack.encode(value)
    return _LENGTH.pack(len(body)) + body


class Reader:
    """Reads records from pieces, then hands on the rest."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""

    def record(self, kind: type[T]) -> T:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > RECORD_BYTES:
            raise SnapshotDamaged(f"a record of {length} bytes stands in the snapshot's session table; none is so long")
        try:
            return msgspec.msgpack.decode(self._take(length), type=kind)
        except UNREADABLE as error:
            raise SnapshotDamaged(f"the snapshot's session table cannot be read: {error}") from error

    def rest(self) -> Iterator[bytes]:
        if self._buffer:
            yield self._buffer
        yield from self._pieces

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = next(self._pieces, None)
            if piece is None:
                raise SnapshotDamaged("the snapshot ends within its session table")
            self._buffer += piece
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken
