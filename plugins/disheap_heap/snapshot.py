"""Snapshots of one point in time (Raft §7; pitfall 29), and the state's hash.

`take` opens a view (`view`). What it returns is written out later while the machine goes on. What is written is the
state and nothing that follows from it: no heap, no timer, no count, no garbage. Messages come by topic in the order of
their ids, leases by consumer with the oldest first, and all other rows in the order of insertion. A restored replica
has the same order, so the bytes are canonical: the hash is a hash of them.

A snapshot is a row of blocks, and may be cut anywhere:

| bytes  | field                                                    |
|--------|----------------------------------------------------------|
| 0-3    | length of the body, little-endian                        |
| 4-7    | CRC-32 of the body                                       |
| 8-     | body: msgpack [table, [row, ...]]                        |

The tables come in the order of `TABLES`, each in as many blocks as it needs; the last block is `end`, with the number
of blocks before it. A row's fields stand in `_tables` and `view`, and are read in `_Restorer`.

The last field of a message is its body, which takes one of four forms:

| form                    | meaning                                                                             |
|-------------------------|-------------------------------------------------------------------------------------|
| bytes                   | the payload of a message without headers and key                                    |
| [payload, headers, key] | bytes, bytes, text                                                                  |
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

import msgspec

from disheap.errors import SnapshotDamaged, VersionUnsupported
from disheap.protocol.broker import TopicSettings
from disheap.protocol.frames import UNREADABLE
from disheap_heap import timers
from disheap_heap.encoding import encode
from disheap_heap.exchanges import add_binding
from disheap_heap.footprint import count_extras
from disheap_heap.messages import Body, Content, Message, SharedMessage
from disheap_heap.routing import Exchange
from disheap_heap.settings import HeapSettings
from disheap_heap.state import Consumer, CreditGroup, Lease, Resend, Session, State, Topic
from disheap_heap.view import View, open_view

FORMAT = 6
"""Of the versions that this release runs. A release that knows several formats writes the one of the `machine_version`
that the cluster runs, so that an older node can read it before the raise."""
PIECE_BYTES = 256 << 10
"""A piece; and what a block's payloads are gathered up to, so that a piece is a fraction of a millisecond."""
BLOCK_ROWS = 512
BLOCK_BYTES_MAX = 256 << 20
"""A larger length in a header is damage, not a block."""

_HEADER = Struct("<II")

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
    "unserved",
    "freed",
    "returning",
    "ending",
    "resending",
    "unsent",
    "unscanned",
    "held",
    "end",
)

Row = tuple[Any, ...]


def take(state: State) -> Iterator[bytes]:
    """The view is taken now; iterating writes it."""
    return _pieces(open_view(state))


def state_hash(state: State) -> bytes:
    digest = blake2b(digest_size=16)
    for piece in take(state):
        digest.update(piece)
    return digest.digest()


def restore(settings: HeapSettings, chunks: Iterable[bytes]) -> State:
    """Raises `SnapshotDamaged`, and `VersionUnsupported` for another format."""
    try:
        return _Restorer(settings).read(_blocks(chunks))
    except (*UNREADABLE, KeyError, IndexError, TypeError, ValueError) as error:
        raise SnapshotDamaged(f"the snapshot cannot be read: {type(error).__name__}: {error}") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def _tables(view: View) -> Iterator[tuple[str, Iterator[tuple[Row, int] | None]]]:
    rows = _MessageRows()
    yield "machine", _sized([(FORMAT, *view.machine)])
    yield "sessions", _sized(view.sessions())
    yield "topics", _sized(view.topics())
    yield "exchanges", _sized((one.name, one.kind, one.auto_delete, one.alternate) for one in view.exchanges)
    yield "bindings", _sized(view.bindings())
    yield "groups", _sized(view.groups())
    yield "consumers", _sized(view.consumers())
    yield "turns", _sized(view.turns())
    yield "rings", _sized(view.rings())
    yield "ready", (one and rows.row(one[1], one[0].number) for one in view.ready())
    yield "delayed", (one and rows.row(one[1][1], one[0].number, one[1][0]) for one in view.delayed())
    yield "leases", (one and rows.row(one[0], one[3].number, one[1], one[2]) for one in view.leases())
    yield "unserved", _sized((number,) for number in view.unserved)
    yield "freed", _sized(view.freed)
    yield "returning", _sized((number,) for number in view.returning)
    yield "ending", _sized((one.number, one.principal, view.owned(one)) for one in view.ending)
    yield "resending", _sized((one.number,) for one in view.resending)
    yield "unsent", _sized(view.unsent())
    yield "unscanned", _sized(view.unscanned())
    yield "held", _sized(view.held())


def _sized(rows: Iterable[Row | None]) -> Iterator[tuple[Row, int] | None]:
    """Rows without a payload. None is a pause."""
    for row in rows:
        yield None if row is None else (row, 0)


class _MessageRows:
    """The rows of messages, in the order written. It keeps each shared body, so that no other takes its address."""

    def __init__(self) -> None:
        self._shared: dict[int, tuple[int, Body]] = {}  # by address: (number, body)

    def row(self, message: Message, *place: int) -> tuple[Row, int]:
        body = message.body
        if type(message) is not SharedMessage:
            return (*place, *message), len(body)
        known = self._shared.get(id(body))
        if known is not None:
            return (*place, *message[:-1], known[0]), 0
        number = len(self._shared)
        self._shared[id(body)] = number, body
        return (*place, *message[:-1], (number, body)), len(body)


def _pieces(view: View) -> Iterator[bytes]:
    """An empty piece is a pause: much was looked at, and little found to write."""
    count = 0
    for table, rows in _tables(view):
        for block in _gather(rows):
            if not block:
                yield b""
                continue
            count += 1
            yield from _cut(table, block)
    yield from _cut("end", [(count,)])
    yield from (b"" for _ in view.freeing())


def _gather(rows: Iterator[tuple[Row, int] | None]) -> Iterator[list[Row]]:
    """Rows in runs that are worth a block. A pause between two rows gives an empty run. Pauses do not change where rows
    are cut."""
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


def _cut(table: str, rows: list[Row]) -> Iterator[bytes]:
    body = encode((table, rows))
    block = _HEADER.pack(len(body), crc32(body)) + body
    for start in range(0, len(block), PIECE_BYTES):
        yield block[start : start + PIECE_BYTES]


# --- reading ---------------------------------------------------------------------------------------------------------


def _blocks(chunks: Iterable[bytes]) -> Iterator[tuple[str, list[list[Any]]]]:
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) >= _HEADER.size:
            length, checksum = _HEADER.unpack_from(rest)
            if length > BLOCK_BYTES_MAX:
                raise SnapshotDamaged(f"a block of {length} bytes in a snapshot is over the limit of {BLOCK_BYTES_MAX}")
            end = _HEADER.size + length
            if len(rest) < end:
                break
            body = bytes(rest[_HEADER.size : end])
            del rest[:end]
            if crc32(body) != checksum:
                raise SnapshotDamaged("a block of the snapshot does not match its checksum")
            table, rows = msgspec.msgpack.decode(body)
            yield table, rows
    if rest:
        raise SnapshotDamaged(f"the snapshot ends within a block, {len(rest)} bytes into it")


class _Restorer:
    """Builds a state, table by table. Sessions and topics that are over, of which only leases remain, are made up."""

    def __init__(self, settings: HeapSettings) -> None:
        self._state = State(settings)
        self._gone_sessions: dict[int, Session] = {}
        self._shared: dict[int, Body] = {}  # by number
        self._ready_messages: dict[Topic, dict[int, Message]] = {}  # by id

    def read(self, blocks: Iterator[tuple[str, list[list[Any]]]]) -> State:
        count, ended = 0, False
        for table, rows in blocks:
            if ended:
                raise SnapshotDamaged("the snapshot goes on behind its end")
            if table == "end":
                ended = rows == [[count]]
                if not ended:
                    raise SnapshotDamaged(f"the snapshot has {count} blocks and says {rows}")
                continue
            count += 1
            self._table(table, rows)
        if not ended:
            raise SnapshotDamaged("the snapshot has no end: it was cut short")
        return self._finish()

    def _table(self, table: str, rows: list[list[Any]]) -> None:
        if table not in TABLES:
            raise SnapshotDamaged(f"the snapshot has a table {table!r}, which this version does not know")
        add = getattr(self, "_" + table)
        for row in rows:
            add(*row)

    def _machine(self, form: int, *fields: int) -> None:
        if form != FORMAT:
            raise VersionUnsupported(
                f"the heap's snapshot has format {form}, and this release reads format {FORMAT}. Install the "
                f"{'newer' if form > FORMAT else 'older'} release that wrote it and start again; nothing was changed"
            )
        version, now_ms, message, consumer, topic = fields
        state = self._state
        state.version, state.now_ms = version, now_ms
        state.last_message, state.last_consumer, state.last_topic = message, consumer, topic

    def _sessions(self, number: int, attached: bool, principal: str) -> None:
        self._state.sessions[number] = Session(number, attached, principal)

    def _topics(self, number: int, name: str, settings: Any, owner: int, owned: bool, expires_at_ms: int) -> None:
        state = self._state
        session = state.sessions.get(owner) if owned else None  # one that is ending comes with its own row
        topic = Topic(number, name, msgspec.convert(settings, TopicSettings), session)
        topic.expires_at_ms = expires_at_ms
        state.topics[name] = state.topics_by_number[number] = topic
        if session is not None:
            session.owned[number] = topic
        if expires_at_ms:
            state.timers.arm(timers.TOPIC, number, expires_at_ms, number)

    def _exchanges(self, name: str, kind: str, auto_delete: bool, alternate: str) -> None:
        self._state.exchanges[name] = Exchange(name, kind, auto_delete, alternate)

    def _bindings(self, exchange: str, key: str, topic_number: int) -> None:
        state = self._state
        add_binding(state, state.exchanges[exchange], key, state.topics_by_number[topic_number])

    def _groups(self, session: int, number: int, credit: int, credit_bytes: int) -> None:
        self._state.sessions[session].groups[number] = CreditGroup(session, number, credit, credit_bytes)

    def _consumers(
        self, number: int, session: int, topic_number: int, delivered: int, ended: bool, group: int, *shape: Any
    ) -> None:
        state = self._state
        credit, credit_bytes, *rest = shape
        topic = state.topics_by_number[topic_number] if topic_number else _gone_topic()
        one = Consumer(number, self._session(session), topic, credit, credit_bytes)
        one.delivered, one.ended = delivered, ended
        one.group = one.session.groups[group] if group else None
        one.no_ack, one.lease_ms, one.exclusive, one.limit, one.until_ms = rest
        state.consumers[number] = one.session.consumers[number] = topic.consumers[number] = one
        topic.active += not ended
        topic.subscribers += not ended and not one.limit
        state.active += not ended
        state.subscribers += not ended and not one.limit
        if one.until_ms and not ended:
            state.timers.arm(timers.POP, number, one.until_ms)

    def _turns(self, session: int, group: int, consumer: int) -> None:
        self._state.sessions[session].groups[group].consumers[consumer] = self._state.consumers[consumer]

    def _freed(self, session: int, group: int) -> None:
        self._state.freed[session, group] = self._state.sessions[session].groups[group]

    def _session(self, number: int) -> Session:
        session = self._state.sessions.get(number) or self._gone_sessions.get(number)
        if session is None:
            session = self._gone_sessions[number] = Session(number, False)
        return session

    def _rings(self, topic: int, consumer: int) -> None:
        self._state.topics_by_number[topic].turns.join(self._state.consumers[consumer])

    def _ready(self, topic_number: int, *fields: Any) -> None:
        topic, message = self._state.topics_by_number[topic_number], self._message(fields)
        self._ready_messages.setdefault(topic, {})[message.id] = message
        self._state.ready += 1
        topic.ready_bytes += len(message.body)
        self._waits(topic, message)

    def _delayed(self, topic_number: int, due_ms: int, *fields: Any) -> None:
        topic, message = self._state.topics_by_number[topic_number], self._message(fields)
        topic.delayed[message.id] = (due_ms, message)
        self._state.delayed += 1
        topic.delayed_bytes += len(message.body)
        self._state.timers.arm(timers.DUE, message.id, due_ms, topic.number)
        self._waits(topic, message)

    def _waits(self, topic: Topic, message: Message) -> None:
        self._state.message_bytes += len(message.body)
        if message.expires_at_ms:
            self._state.timers.arm(timers.EXPIRY, message.id, message.expires_at_ms, topic.number)

    def _leases(self, number: int, epoch: int, until_ms: int, *fields: Any) -> None:
        state = self._state
        consumer, message = state.consumers[number], self._message(fields)
        state.leases[message.id] = consumer.leases[message.id] = Lease(message, epoch, until_ms, consumer)
        consumer.held_bytes += len(message.body)
        if consumer.group is not None:
            consumer.group.held += 1
            consumer.group.held_bytes += len(message.body)
        consumer.topic.leased += 1
        state.message_bytes += len(message.body)
        if until_ms:
            state.timers.arm(timers.LEASE, message.id, until_ms)

    def _message(self, fields: tuple[Any, ...]) -> Message:
        *others, form = fields
        if isinstance(form, bytes):
            return Message._make((*others, form))
        if isinstance(form, int) or len(form) == 2:
            message: Message = SharedMessage._make((*others, self._shared_body(form)))
        else:
            message = Message._make((*others, _body(form)))
        count_extras(self._state, message)
        return message

    def _shared_body(self, form: Any) -> Body:
        if isinstance(form, int):
            return self._shared[form]
        number, body = form
        if number != len(self._shared):
            raise SnapshotDamaged(f"the snapshot has a shared body {number!r} after {len(self._shared)} of them")
        self._shared[number] = _body(body)
        return self._shared[number]

    def _unserved(self, number: int) -> None:
        self._state.unserved[number] = self._state.topics_by_number[number]

    def _returning(self, number: int) -> None:
        consumer = self._state.returning[number] = self._state.consumers[number]
        consumer.returning = True

    def _ending(self, number: int, principal: str, owned: list[int]) -> None:
        """Its consumers are those of `_gone_sessions`, but for those that are dealt with."""
        session = self._state.ending[number] = self._session(number)
        session.principal = principal
        for topic_number in owned:
            topic = self._state.topics_by_number[topic_number]
            topic.owner, session.owned[topic_number] = session, topic
        for consumer in list(session.consumers.values()):
            if consumer.ended and consumer.returning:
                del session.consumers[consumer.number]

    def _resending(self, number: int) -> None:
        session = self._state.resending[number] = self._state.sessions[number]
        session.resend = Resend({}, [])

    def _unsent(self, session: int, message: int, epoch: int) -> None:
        self._resend(session).tokens.append((message, epoch))

    def _unscanned(self, session: int, consumer: int) -> None:
        self._state.sessions[session].is_served = False
        self._resend(session).consumers.append(consumer)

    def _held(self, session: int, message: int, epoch: int) -> None:
        self._resend(session).held[message, epoch] = None

    def _resend(self, session: int) -> Resend:
        resend = self._state.sessions[session].resend
        if resend is None:
            raise SnapshotDamaged(f"the snapshot has leases to send again to session {session}, which is not attaching")
        return resend

    def _finish(self) -> State:
        self._state.topic_names = sorted(self._state.topics)
        leased: dict[Topic, list[int]] = {}
        for number, lease in self._state.leases.items():
            leased.setdefault(lease.consumer.topic, []).append(number)
        for topic in self._state.topics.values():
            topic.ready.load(self._ready_messages.get(topic, {}))
            topic.arrivals.load(sorted([*topic.ready.by_id(), *topic.delayed, *leased.get(topic, ())]))
        return self._state


def _body(form: Any) -> Body:
    """A body that is not shared. Raises msgspec's errors for what is none."""
    return form if isinstance(form, bytes) else msgspec.convert(form, Content)


def _gone_topic() -> Topic:
    topic = Topic(0, "", TopicSettings(), None)
    topic.alive = False
    return topic
