"""Snapshots of one point in time (Raft §7; pitfall 29), and the state's hash.

`take` opens a view (`view`) and returns an iterator, which writes the view while the machine continues. A snapshot has
the state and nothing that follows from it: no order, no timer, no count. Messages come by topic in the order of
their ids, and leases by consumer with the oldest first. All other rows come in the order of insertion. A restored
replica has the same order, so the bytes are canonical, and the state hash is a hash of them. `restoring` reads a
snapshot.

A snapshot is a sequence of blocks, and may be cut anywhere:

| bytes  | field                                                    |
|--------|----------------------------------------------------------|
| 0-3    | length of the body, little-endian                        |
| 4-7    | CRC-32 of the body                                       |
| 8-     | body: msgpack [table, [row, ...]]                        |

The tables come in the order of `TABLES`, each in as many blocks as it needs. The last block is `end`, with the number
of blocks before it. The fields of a row are written in `_tables` and `view`, and read in `restoring`.

The last field of a message is its body, which takes one of four forms. A prepared message has
one of the first two:

| form                    | meaning                                                                             |
|-------------------------|-------------------------------------------------------------------------------------|
| bytes                   | the payload of a message without headers and key                                    |
| [payload, headers, key, passed] | bytes, bytes, text, and numbers of topics (`messages.Content`)              |
| [number, body]          | a body that messages share, in a form above: numbered from 0 in the order written   |
| number                  | the body that was written under that number before                                  |

So a body that went to 500 topics is written once, and shared again by the restored messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Any
from zlib import crc32

from disheap_heap.encoding import encode
from disheap_heap.state.messages import Body, Message, SharedMessage
from disheap_heap.state.prepared import Transaction
from disheap_heap.state.state import State
from disheap_heap.state.view import View
from disheap_heap.state.views import open_view
from disheap_heap.tables.partitioned import PartitionedDict

FORMAT = 13
"""The format of the versions that this release runs. A release that knows several formats writes the one of the
cluster's `machine_version`. So an older node can read it before the raise."""
PIECE_BYTES = 256 << 10
"""The size of a piece. A block ends when it has half as many bytes of payload, so a piece takes a fraction of a
millisecond."""
BLOCK_ROWS = 512
BLOCK_BYTES_MAX = 256 << 20
"""A larger length in a header is damage, not a block."""

BLOCK_HEADER = Struct("<II")
"""(length of the body, its CRC-32)"""

TABLES = (
    "machine",
    "sessions",
    "topics",
    "exchanges",
    "bindings",
    "groups",
    "consumers",
    "turns",
    "rings",
    "ready",
    "delayed",
    "leases",
    "transactions",
    "prepared",
    "frozen",
    "asking",
    "finished",
    "numbers",
    "outbox",
    "dying",
    "unserved",
    "freed",
    "armed",
    "trimming",
    "returning",
    "ending",
    "resending",
    "unsent",
    "unscanned",
    "held",
    "values",
    "watches",
    "barriers",
    "parts",
    "end",
)

Row = tuple[Any, ...]


def take(state: State) -> Iterator[bytes]:
    """Opens a view of the present state. Iterating writes it, in pieces of at most `PIECE_BYTES`. An empty piece is a
    pause."""
    return _pieces(open_view(state))


def state_hash(state: State) -> bytes:
    """A hash of the snapshot's bytes, 16 bytes long."""
    digest = blake2b(digest_size=16)
    for piece in take(state):
        digest.update(piece)
    return digest.digest()


def _tables(view: View) -> Iterator[tuple[str, Iterator[tuple[Row, int] | None]]]:
    rows = _MessageRows()
    yield "machine", _sized([(FORMAT, *view.machine, *view.value_numbers)])
    yield "sessions", _sized(view.sessions())
    yield "topics", _sized(view.topics())
    yield "exchanges", _sized((one.name, one.kind, one.auto_delete, one.alternate) for one in view.exchanges)
    yield "bindings", view.bindings()
    yield "groups", _sized(view.groups())
    yield "consumers", _sized(view.consumers())
    yield "turns", _sized(view.turns())
    yield "rings", _sized(view.rings())
    yield "ready", (one and rows.row(one[1], one[0].number) for one in view.ready())
    yield "delayed", (one and rows.row(one[1][1], one[0].number, one[1][0]) for one in view.delayed())
    yield "leases", (one and rows.row(one[0], one[3].number, one[1], one[2]) for one in view.leases())
    yield "transactions", _sized(_transaction_row(one) for one in view.transactions)
    yield "prepared", view.prepared()
    yield "frozen", (rows.row(one.message, transaction.number, one.topic) for transaction, one in view.frozen())
    yield "asking", _sized((number, *asking) for number, asking in view.asking)
    yield "finished", _sized((name, *outcome) for name, outcome in view.finished)
    yield "numbers", _sized(view.numbers)
    yield "outbox", _sized(row for queue in view.queues for row in queue.rows())
    yield "dying", (rows.row(note.message, *note[1:]) for note in view.dying.notes())
    yield "unserved", _sized((number,) for number in view.unserved)
    yield "freed", _sized(view.freed)
    yield "armed", _sized((*key, above) for key, above in view.armed)
    yield "trimming", _sized((number,) for number in view.trimming)
    yield "returning", _sized(view.returning)
    yield "ending", _sized((one.number, one.principal, view.owned(one)) for one in view.ending)
    yield "resending", _sized((one.number,) for one in view.resending)
    yield "unsent", _sized(view.unsent())
    yield "unscanned", _sized(view.unscanned())
    yield "held", _sized(view.held())
    yield "values", view.values()
    yield "watches", _sized(view.watches())
    yield "barriers", view.barriers()
    yield "parts", _sized(view.parts())


def _transaction_row(one: Transaction) -> Row:
    times = (one.prepared_ms, one.deadline_ms)
    return (one.number, one.name, one.epoch, one.session, *times, one.participants, one.coordinator)


def _sized(rows: Iterable[Row | None]) -> Iterator[tuple[Row, int] | None]:
    """Rows without a payload, with their size. None is a pause."""
    for row in rows:
        yield None if row is None else (row, 0)


class _MessageRows:
    """Makes the rows of messages. Keeps each shared body, so that no other body gets the same address meanwhile."""

    def __init__(self) -> None:
        self._shared: PartitionedDict[tuple[int, Body]] = PartitionedDict()  # by address: (number, body)

    def row(self, message: Message, *place: int | str) -> tuple[Row, int]:
        body = message.body
        if type(message) is not SharedMessage:
            return (*place, *message), len(body)
        known = self._shared.get(id(body))
        if known is not None:
            return (*place, *message[:-1], known[0]), 0
        number = len(self._shared)
        self._shared.put(id(body), (number, body))
        return (*place, *message[:-1], (number, body)), len(body)


def _pieces(view: View) -> Iterator[bytes]:
    """An empty piece is a pause: many ids were looked at, and few rows were found."""
    count = 0
    for table, rows in _tables(view):
        for block in _grouped(rows):
            if not block:
                yield b""
                continue
            count += 1
            yield from _encoded(table, block)
    yield from _encoded("end", [(count,)])
    yield from (b"" for _ in view.freeing())


def _grouped(rows: Iterator[tuple[Row, int] | None]) -> Iterator[list[Row]]:
    """Groups rows into blocks. A pause between two rows gives an empty block. Pauses do not change where blocks end."""
    run: list[Row] = []
    size = 0
    for one in rows:
        if one is None:
            yield []
            continue
        row, payload = one
        run.append(row)
        size += payload
        if len(run) >= BLOCK_ROWS or size >= PIECE_BYTES // 2:
            yield run
            run, size = [], 0
    if run:
        yield run


def _encoded(table: str, rows: list[Row]) -> Iterator[bytes]:
    body = encode((table, rows))
    block = BLOCK_HEADER.pack(len(body), crc32(body)) + body
    for start in range(0, len(block), PIECE_BYTES):
        yield block[start : start + PIECE_BYTES]
