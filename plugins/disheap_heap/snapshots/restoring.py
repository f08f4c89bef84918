"""Builds a state from a snapshot (Raft §7). `snapshot` describes the format.

What follows from the state is computed again: heaps, timers, counts, and the ids in order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from zlib import crc32

import msgspec

from disheap.errors import SnapshotDamaged, VersionUnsupported
from disheap.protocol.broker import NewMessage, TopicSettings
from disheap.protocol.frames import UNREADABLE
from disheap_heap.commands.exchanges import add_binding
from disheap_heap.delivery import overtaking
from disheap_heap.delivery.delivery import first_event_ms
from disheap_heap.settings import HeapSettings
from disheap_heap.snapshots.discarding import discarding
from disheap_heap.snapshots.snapshot import BLOCK_BYTES_MAX, BLOCK_HEADER, FORMAT, TABLES
from disheap_heap.state.counts import SERIES_MAX
from disheap_heap.state.dying import DeathNote
from disheap_heap.state.footprint import count_extras
from disheap_heap.state.messages import Body, Content, Message, SharedMessage
from disheap_heap.state.prepared import Asking, Finished, FrozenMessage, PreparedMessage, Transaction
from disheap_heap.state.routing import Exchange
from disheap_heap.state.state import Consumer, CreditGroup, Lease, Resend, Session, State, Topic
from disheap_heap.state.values import Barrier, Value
from disheap_heap.tables import timers

READY_AT_ONCE = 512
"""Ready messages of a topic that are put into order together. To sort a million in one step holds the interpreter for
half a second, also on the disk's thread."""


def restore(settings: HeapSettings, group: int, chunks: Iterable[bytes], series_max: int = SERIES_MAX) -> State:
    """Builds the state from the pieces of a snapshot. Raises `SnapshotDamaged`, and `VersionUnsupported` for another
    format."""
    restorer = _Restorer(settings, group, series_max)
    try:
        return restorer.read(_blocks(chunks))
    except BaseException as error:
        with suppress(Exception):  # what cannot be taken apart is freed in one step
            restorer.discard()
        if isinstance(error, (*UNREADABLE, KeyError, IndexError, TypeError, ValueError)):
            raise SnapshotDamaged(f"the snapshot cannot be read: {type(error).__name__}: {error}") from error
        raise


def _blocks(chunks: Iterable[bytes]) -> Iterator[tuple[str, list[list[Any]]]]:
    """The (table, rows) of each block. Raises `SnapshotDamaged`."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) >= BLOCK_HEADER.size:
            length, checksum = BLOCK_HEADER.unpack_from(rest)
            if length > BLOCK_BYTES_MAX:
                raise SnapshotDamaged(f"a block of {length} bytes in a snapshot is over the limit of {BLOCK_BYTES_MAX}")
            end = BLOCK_HEADER.size + length
            if len(rest) < end:
                break
            body = bytes(rest[BLOCK_HEADER.size : end])
            del rest[:end]
            if crc32(body) != checksum:
                raise SnapshotDamaged("a block of the snapshot does not match its checksum")
            table, rows = msgspec.msgpack.decode(body)
            yield table, rows
    if rest:
        raise SnapshotDamaged(f"the snapshot ends within a block, {len(rest)} bytes into it")


class _Restorer:
    """Builds a state, table by table. A method reads the rows of the table of its name. Sessions and topics that have
    ended, and of which only leases remain, have no rows: the restorer creates them."""

    def __init__(self, settings: HeapSettings, group: int, series_max: int) -> None:
        self._state = State(settings, group, series_max)
        self._ended_sessions: dict[int, Session] = {}
        self._shared: list[Body] = []  # by number
        self._ready_messages: dict[Topic, list[Message]] = {}  # that are not in their topic yet
        self._open: dict[int, Transaction] = {}  # by number

    def read(self, blocks: Iterator[tuple[str, list[list[Any]]]]) -> State:
        """Reads all blocks. Raises `SnapshotDamaged` and `VersionUnsupported`."""
        count, ended = 0, False
        for table, rows in blocks:
            if ended:
                raise SnapshotDamaged("the snapshot continues after its end")
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

    def discard(self) -> None:
        """Frees what was built of a snapshot that turned out to be damaged, record by record. In one step, a million
        messages would hold the interpreter for 300 ms, also on the disk's thread."""
        _empty(self._ready_messages)
        for _ in discarding(self._state):
            pass
        for session in self._ended_sessions.values():
            _empty(session.consumers)
        for transaction in self._open.values():
            transaction.messages, transaction.frozen = [], []
        while self._shared:
            self._shared.pop()

    def _table(self, table: str, rows: list[list[Any]]) -> None:
        if table not in TABLES:
            raise SnapshotDamaged(f"the snapshot has a table {table!r}, which this version does not know")
        add = getattr(self, "_" + table)
        for row in rows:
            add(*row)

    def _machine(self, form: int, *fields: Any) -> None:
        if form != FORMAT:
            raise VersionUnsupported(
                f"the heap's snapshot has format {form}, and this release reads format {FORMAT}. Install the "
                f"{'newer' if form > FORMAT else 'older'} release that wrote it and start again; nothing was changed"
            )
        version, now_ms, message, consumer, topic, transaction, groups, value, barrier = fields
        state = self._state
        state.version, state.now_ms = version, now_ms
        state.last_message, state.last_consumer, state.last_topic = message, consumer, topic
        state.transactions.last_number, state.groups = transaction, tuple(groups)
        state.values.last_number, state.values.last_barrier = value, barrier

    def _sessions(self, number: int, attached: bool, principal: str) -> None:
        self._state.sessions[number] = Session(number, attached, principal)

    def _topics(self, number: int, name: str, settings: Any, owner: int, owned: bool, *life: Any) -> None:
        state, (expires_at_ms, revision, holds_back, is_closed) = self._state, life
        session = state.sessions.get(owner) if owned else None  # a session that is ending has its own row
        topic = Topic(number, name, msgspec.convert(settings, TopicSettings), session)
        topic.expires_at_ms, topic.revision = expires_at_ms, revision
        topic.pause(holds_back, is_closed)
        state.topics[name] = state.topics_by_number[number] = topic
        state.series.add(topic)
        if session is not None:
            session.owned[number] = topic
        if expires_at_ms:
            state.timers.arm(timers.TOPIC, number, expires_at_ms, number)

    def _exchanges(self, name: str, kind: str, auto_delete: bool, alternate: str) -> None:
        self._state.exchanges[name] = Exchange(name, kind, auto_delete, alternate)

    def _bindings(self, exchange: str, key: str, topic_number: int, arguments: bytes) -> None:
        state = self._state
        add_binding(state, state.exchanges[exchange], key, state.topics_by_number[topic_number], arguments)

    def _groups(self, session: int, number: int, credit: int, credit_bytes: int) -> None:
        self._state.sessions[session].groups[number] = CreditGroup(session, number, credit, credit_bytes)

    def _consumers(
        self, number: int, session: int, topic_number: int, delivered: int, ended: bool, group: int, *shape: Any
    ) -> None:
        state = self._state
        credit, credit_bytes, *rest = shape
        topic = state.topics_by_number[topic_number] if topic_number else _deleted_topic()
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

    def _armed(self, session: int, group: int, above: int) -> None:
        self._state.armed[session, group] = above

    def _session(self, number: int) -> Session:
        session = self._state.sessions.get(number) or self._ended_sessions.get(number)
        if session is None:
            session = self._ended_sessions[number] = Session(number, False)
        return session

    def _rings(self, topic: int, consumer: int) -> None:
        self._state.topics_by_number[topic].turns.join(self._state.consumers[consumer])

    def _ready(self, topic_number: int, *fields: Any) -> None:
        topic, message = self._state.topics_by_number[topic_number], self._message(fields)
        waiting = self._ready_messages.setdefault(topic, [])
        waiting.append(message)
        if len(waiting) >= READY_AT_ONCE:
            topic.ready.push_many(self._ready_messages.pop(topic))
        self._state.ready += 1
        topic.ready_bytes += len(message.body)
        self._state.message_bytes += len(message.body)
        if message.expires_at_ms:
            self._state.timers.arm_message(message.id, message.expires_at_ms, topic_number)

    def _delayed(self, topic_number: int, due_ms: int, *fields: Any) -> None:
        topic, message = self._state.topics_by_number[topic_number], self._message(fields)
        topic.delayed.put(message.id, (due_ms, message))
        self._state.delayed += 1
        topic.delayed_bytes += len(message.body)
        self._state.message_bytes += len(message.body)
        self._state.timers.arm_message(message.id, first_event_ms(message, due_ms), topic_number)

    def _leases(self, number: int, epoch: int, until_ms: int, *fields: Any) -> None:
        state = self._state
        consumer, message = state.consumers[number], self._message(fields)
        lease = Lease(message, epoch, until_ms, consumer, len(consumer.leases))
        state.leases.put(message.id, lease)
        consumer.leases[message.id] = lease
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
            if form < 0:
                raise SnapshotDamaged(f"the snapshot refers to a shared body {form}")
            return self._shared[form]
        number, content = form
        if number != len(self._shared):
            raise SnapshotDamaged(f"the snapshot has a shared body {number!r} after {len(self._shared)} of them")
        body = _body(content)
        self._shared.append(body)
        return body

    def _transactions(
        self,
        number: int,
        name: str,
        epoch: int,
        session: int,
        prepared_ms: int,
        deadline_ms: int,
        participants: list[int],
        coordinator: int,
    ) -> None:
        self._open[number] = Transaction(
            number, name, epoch, session, prepared_ms, deadline_ms, tuple(participants), coordinator
        )
        if deadline_ms:
            self._state.timers.arm(timers.TRANSACTION, number, deadline_ms)

    def _prepared(
        self, number: int, topics: list[int], priority: int, delay_ms: int, expires_ms: int, form: Any
    ) -> None:
        new = NewMessage(b"", priority, delay_ms, expires_ms)  # the payload is in the body
        self._open[number].hold(PreparedMessage(tuple(topics), new, _body(form)))
        for one in topics:
            self._reserve(one, delay_ms > 0)

    def _frozen(self, number: int, topic_number: int, *fields: Any) -> None:
        message = self._message(fields)
        self._open[number].frozen.append(FrozenMessage(message, topic_number))
        self._state.message_bytes += len(message.body)
        self._reserve(topic_number, False)

    def _reserve(self, topic_number: int, is_delayed: bool) -> None:
        topic = self._state.topics_by_number.get(topic_number)
        if topic is not None:
            topic.reserve(is_delayed)

    def _asking(self, number: int, at_ms: int, inquiry: int, pause_ms: int) -> None:
        self._state.transactions.asking[number] = Asking(at_ms, inquiry, pause_ms)
        self._state.timers.arm(timers.INQUIRY, number, at_ms)

    def _numbers(self, group: int, last: int, taken: int) -> None:
        self._state.outbox.restore_numbers(group, last, taken)

    def _outbox(self, group: int, number: int, message: Any) -> None:
        self._state.outbox.restore(group, number, message)

    def _finished(
        self, name: str, epoch: int, is_committed: bool, first: int, messages: int, told: list[tuple[int, int]]
    ) -> None:
        decisions = tuple((group, number) for group, number in told)
        self._state.transactions.finished[name] = Finished(epoch, is_committed, first, messages, decisions)
        self._state.transactions.told += len(decisions)

    def _dying(self, topic: str, number: int, sign: int, *fields: Any) -> None:
        exchange, routing_key, reason, died_ms, error, *others = fields
        message = self._message(tuple(others))
        note = DeathNote(message, topic, number, sign, exchange, routing_key, reason, died_ms, error)
        self._state.dying.add(note)
        self._state.message_bytes += len(message.body)

    def _unserved(self, number: int) -> None:
        self._state.unserved[number] = self._state.topics_by_number[number]

    def _returning(self, number: int, releases: bool) -> None:
        consumer = self._state.returning[number] = self._state.consumers[number]
        consumer.returning, consumer.releases = True, releases

    def _ending(self, number: int, principal: str, owned: list[int]) -> None:
        """Its consumers are those of `_ended_sessions`, without those whose end is complete."""
        session = self._state.ending[number] = self._session(number)
        session.principal = principal
        for topic_number in owned:
            topic = self._state.topics_by_number[topic_number]
            topic.owner, session.owned[topic_number] = session, topic
        for consumer in list(session.consumers.values()):
            if consumer.ended and consumer.returning:
                del session.consumers[consumer.number]

    def _trimming(self, number: int) -> None:
        self._state.trimming[number] = self._state.topics_by_number[number]

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

    def _values(self, number: int, key: str, expires_at_ms: int, stage: int, body: bytes) -> None:
        self._state.values.add(Value(number, key, expires_at_ms, stage, body))
        if expires_at_ms:
            self._state.timers.arm_value(number, expires_at_ms)

    def _watches(self, session: int, key: str) -> None:
        self._state.values.watch(self._session(session), key)

    def _barriers(self, number: int, key: str, size: int, more: int, *fields: Any) -> None:
        barrier = Barrier(number, key)
        barrier.size, barrier.more = size, more
        barrier.lifetime_ms, barrier.expires_at_ms, barrier.is_released, barrier.is_closed, barrier.message = fields
        table = self._state.values
        table.add_barrier(barrier)
        table.message_bytes += len(barrier.message)
        if barrier.expires_at_ms:
            self._state.timers.arm(timers.BARRIER, number, barrier.expires_at_ms)

    def _parts(self, number: int, key: str, order: int) -> None:
        self._state.values.barriers_by_number[number].add((key, order))
        self._state.values.parts += 1

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
        for transaction in self._open.values():
            self._state.transactions.add(transaction)
            for frozen in transaction.frozen:
                if frozen.topic in self._state.topics_by_number:
                    leased.setdefault(self._state.topics_by_number[frozen.topic], []).append(frozen.message.id)
        for topic in self._state.topics.values():
            topic.ready.push_many(self._ready_messages.pop(topic, []))
            topic.arrivals.load(sorted([*topic.ready.by_id(), *topic.delayed, *leased.get(topic, ())]))
        for (session, number), above in list(self._state.armed.items()):
            overtaking.arm(self._state, self._state.sessions[session].groups[number], above)
        return self._state


def _body(form: Any) -> Body:
    """A body that is not shared. Raises an error of msgspec if the form is none of a body."""
    return form if isinstance(form, bytes) else msgspec.convert(form, Content)


def _empty(table: dict[Any, Any]) -> None:
    while table:
        table.popitem()


def _deleted_topic() -> Topic:
    topic = Topic(0, "", TopicSettings(), None)
    topic.alive = False
    return topic
