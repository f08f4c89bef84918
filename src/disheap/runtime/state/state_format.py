"""The session table in a snapshot, before the machine's own bytes.

A snapshot is a stream of bytes. It begins with records, each a length (4 bytes, little-endian) and msgpack. The first
is a `Head`, which begins with `FORMAT`. For each of `Head.sessions` follow a `Start` and its `Start.replies` replies,
(seq, (index, status, body)). All that follows is the machine's. A storage may cut pieces anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from struct import Struct
from typing import Any, TypeVar

import msgspec

from disheap.errors import SnapshotDamaged, VersionUnsupported
from disheap.protocol.frames import UNREADABLE
from disheap.runtime.state.session_table import SessionFacts

FORMAT = 3
"""1 had no secrets, principals and addresses, and no number of its own; 2 no `log_version`. A release that knows
several formats writes the one of the cluster's `log_version`. So an older node can read it before the raise.
"""
_LENGTH = Struct("<I")
RECORD_BYTES = 256 << 20  # no record of ours comes near; a larger length is damage
PIECE_BYTES = 256 << 10  # small records are gathered to pieces of this, so that the disk is not asked for each
RECORDS_AT_ONCE = 1000  # or so many, if they are as small as most: made in less than a millisecond
MAX_PIECE_BYTES = 1 << 20  # what a storage has to take at once
T = TypeVar("T")
Reply = tuple[int, tuple[int, int, bytes]]
"""(seq, (index, status, body))."""


class Head(msgspec.Struct, array_like=True, frozen=True):
    """The first record of a snapshot. `sessions` rows follow."""

    format: int
    machine_version: int
    log_version: int
    next_session: int
    term: int
    sessions: int


class FormatOnly(msgspec.Struct, array_like=True, frozen=True):
    """A head of any format, as far as all have it in common."""

    format: int


class Start(msgspec.Struct, array_like=True, frozen=True):
    """What stands before a session's replies, and how many there are."""

    facts: SessionFacts
    address: str
    attachment: int
    confirmed: int
    replies: int


class Row(msgspec.Struct, array_like=True, frozen=True):
    """One session, with its replies in the order of application."""

    facts: SessionFacts
    address: str
    attachment: int
    confirmed: int
    replies: Collection[Reply]


def write(head: Head, rows: Iterable[Row], machine: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the snapshot in pieces: the head, the sessions, then the machine's pieces."""
    gathered, count = bytearray(), 0
    for record in _records(head, rows):
        gathered += record
        count += 1
        while len(gathered) > MAX_PIECE_BYTES:
            yield bytes(gathered[:MAX_PIECE_BYTES])
            del gathered[:MAX_PIECE_BYTES]
        if len(gathered) >= PIECE_BYTES or count >= RECORDS_AT_ONCE:
            yield bytes(gathered)
            gathered.clear()
            count = 0
    yield bytes(gathered)
    yield from machine


def _records(head: Head, rows: Iterable[Row]) -> Iterator[bytes]:
    yield _record(head)
    for row in rows:
        yield _record(Start(row.facts, row.address, row.attachment, row.confirmed, len(row.replies)))
        for reply in row.replies:
            yield _record(reply)


def _record(value: Head | Start | Reply) -> bytes:
    body = msgspec.msgpack.encode(value)
    return _LENGTH.pack(len(body)) + body


class Reader:
    """Reads the records at the beginning of a snapshot. `rest` yields the machine's bytes behind them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._at = 0

    def head(self) -> Head:
        """Returns the first record. Raises `SnapshotDamaged`, and `VersionUnsupported` for another format."""
        body = self._body()
        found = _decode(body, FormatOnly).format
        if found != FORMAT:
            raise VersionUnsupported(
                f"the snapshot's session table has format {found}, and this release reads format {FORMAT}. Install the "
                f"{'newer' if found > FORMAT else 'older'} release that wrote it and start again; nothing was changed"
            )
        return _decode(body, Head)

    def row(self) -> Row:
        """Returns the next session with its replies. Raises `SnapshotDamaged`."""
        start = self.record(Start)
        reply: Any = Reply  # a type, as msgspec sees it
        replies = [self.record(reply) for _ in range(start.replies)]
        return Row(start.facts, start.address, start.attachment, start.confirmed, replies)

    def record(self, kind: type[T]) -> T:
        """Returns the next record, decoded as `kind`. Raises `SnapshotDamaged`."""
        return _decode(self._body(), kind)

    def _body(self) -> bytes:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > RECORD_BYTES:
            raise SnapshotDamaged(f"a record of {length} bytes stands in the snapshot's session table; none is so long")
        return self._take(length)

    def rest(self) -> Iterator[bytes]:
        """Yields all bytes behind the records read so far: the machine's."""
        if self._at < len(self._buffer):
            yield self._buffer[self._at :]
        yield from self._pieces

    def _take(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size:
            piece = next(self._pieces, None)
            if piece is None:
                raise SnapshotDamaged("the snapshot ends within its session table")
            self._buffer, self._at = self._buffer[self._at :] + piece, 0
        self._at += size
        return self._buffer[self._at - size : self._at]


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNREADABLE as error:
        raise SnapshotDamaged(f"the snapshot's session table cannot be read: {error}") from error
