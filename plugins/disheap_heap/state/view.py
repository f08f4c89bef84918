"""A view: the state at one moment, which a snapshot or a hash writes later (Raft §7; pitfall 29).

A view is copy-on-write. Opening it copies no record, only lists of references: 10 to 40 ns for each topic, consumer,
session and binding. All else is read when the writer needs it. Before a record changes, `keep_...` is called, and each
open view keeps the old record, the first time only. That is constant work for a message, a lease, a consumer or a
topic. The turns of a topic, the members of a group, and the groups and topics of a session are copied, at 10 ns for
each. Over all records, there are at most as many as the settings allow consumers and topics.

Where a message was follows from `_kept`. A message that is not in it has not moved since the view was taken. One with
an id above `_last_message` came later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from disheap_heap.state.footprint import CONSUMER_BYTES, OUTBOX_BYTES, SESSION_BYTES, TOPIC_BYTES
from disheap_heap.state.kept import DROPPED_BYTES, ID_BYTES, Kept, KeptLeases, KeptQueues, order_of
from disheap_heap.state.messages import Message
from disheap_heap.state.prepared import FrozenMessage
from disheap_heap.state.state import Consumer, Lease, Topic
from disheap_heap.state.values import Barrier, Part, Value
from disheap_heap.tables.partitioned import PartitionedDict

if TYPE_CHECKING:
    from disheap_heap.state.prepared import Transaction
    from disheap_heap.state.state import CreditGroup, Delayed, PurgedMessages, Resend, Session, State

Row = tuple[Any, ...]

IDS_PER_PAUSE = 2048
"""Ids of messages that are looked at between two pauses of the writer, if few of them give a row: 1 ms."""
FREED_AT_ONCE = 1000
"""Kept records that are freed between two pauses: 0.2 ms, and more with large payloads."""
DELIVERED = 3
"""The field of a consumer's row that counts its deliveries."""


class SessionFacts(NamedTuple):
    """What a view keeps of a session. `scanned`, `tokens` and `sent` are positions in `resend`."""

    attached: bool
    groups: list[CreditGroup]
    owned: list[int]
    resend: Resend | None
    scanned: int
    tokens: int
    sent: int
    watches: list[str]


class View:
    """The methods return rows of the snapshot. A row that is None is a place where the writer may pause."""

    def __init__(self, state: State) -> None:
        table = state.transactions
        last = (state.last_message, state.last_consumer, state.last_topic)
        self.machine = (state.version, state.now_ms, *last, table.last_number, state.groups)
        self.transactions = list(table.open.values())  # neither they nor what they hold ever changes
        self.finished = list(table.finished.items())
        self.asking = list(table.asking.items())
        self.queues = state.outbox.queued()
        self.numbers = state.outbox.numbers()
        values = state.values
        self.value_numbers = (values.last_number, values.last_barrier)
        self._values = values.by_number
        self._value_starts = values.by_number.starts()
        self._barriers = list(values.barriers.values())
        self.exchanges = list(state.exchanges.values())  # what a row holds of an exchange never changes
        self.dying = state.dying.waiting()
        self.unserved = list(state.unserved)
        self.freed = list(state.freed)
        self.armed = list(state.armed.items())
        self.trimming = list(state.trimming)
        self.returning = [(number, consumer.releases) for number, consumer in state.returning.items()]
        self.ending = list(state.ending.values())
        self.resending = list(state.resending.values())
        self._bindings = [(one.name, list(one.bindings)) for one in self.exchanges if one.bindings]
        self._sessions = list(state.sessions.values())
        self._topics = list(state.topics.values())
        self._consumers = list(state.consumers.values())
        self._last_message, self._last_consumer, self._last_topic = last
        self._kept: PartitionedDict[Message | Delayed | Lease | FrozenMessage] = PartitionedDict()
        """Where a message was, by its id."""
        self._with_delayed: dict[Topic, None] = {}  # topics of which `_kept` has delayed messages
        self._leases: KeptLeases[Lease] = KeptLeases()
        self._purged: dict[Topic, PurgedMessages] = {}  # what the topic held before it was purged
        self._deleted: dict[Topic, None] = {}
        self._topic_rows: dict[Topic, Row] = {}
        self._rings: dict[Topic, list[int]] = {}
        self._consumer_rows: dict[Consumer, Row] = {}
        self._group_rows: dict[CreditGroup, tuple[Row, list[int]]] = {}
        self._session_facts: dict[Session, SessionFacts] = {}
        self._kept_values: PartitionedDict[Value] = PartitionedDict()
        self._barrier_facts: dict[Barrier, tuple[Row, list[Part], int]] = {}  # (row, parts, how many of these)
        self._looked = 0  # ids and records that were looked at since the last pause
        self.kept = Kept(
            self._kept, self._leases, self._topic_rows, self._rings, self._consumer_rows, self._group_rows,
            self._session_facts, self._kept_values, self._barrier_facts, queues=KeptQueues(self.queues),
        )  # fmt: skip
        self.end: Callable[[], None]

    # --- before a change ---

    def keep_place(self, topic: Topic, number: int, place: Message | Delayed) -> None:
        """Keeps a ready or delayed message."""
        if number <= self._last_message and number not in self._kept:
            self._kept.put(number, place)
            if not isinstance(place, Message):
                self._with_delayed[topic] = None

    def keep_dropped(self, messages: list[Message], copies: Mapping[int, int], above: int) -> int:
        """Keeps ready messages that are dropped, and counts the memory of those whose ids are above this one. Returns
        the last id of the view. `copies`: those of shared bodies, by address."""
        kept, last, memory_bytes = self._kept, self._last_message, 0
        for message in messages:
            number = message.id
            if number <= last:
                if number not in kept:
                    kept.put(number, message)
                if number > above:
                    body = message.body
                    memory_bytes += DROPPED_BYTES if id(body) in copies else DROPPED_BYTES + len(body)
        self.kept.add_bytes(memory_bytes)
        return last

    def keep_lease(self, lease: Lease) -> None:
        """Keeps a lease."""
        number = lease.message.id
        if number <= self._last_message and number not in self._kept:
            self._kept.put(number, lease)
            self._leases.add(lease)

    def keep_frozen(self, frozen: FrozenMessage) -> None:
        """Keeps that a message was frozen, and so neither in its topic nor leased."""
        number = frozen.message.id
        if number <= self._last_message and number not in self._kept:
            self._kept.put(number, frozen)

    def keep_message_bytes(self, number: int, memory_bytes: int) -> bool:
        """Counts the memory of a message that the state has no more, if the view has it. Returns whether it has."""
        is_kept = number in self._kept
        if is_kept:
            self.kept.add_bytes(memory_bytes)
        return is_kept

    def keep_confirmed(self, group: int, numbers: range) -> range:
        """Counts the memory of messages that another group has confirmed, and that the view has. Returns the others."""
        last = max((queue.last for queue in self.queues if queue.group == group), default=0)
        had = range(numbers.start, min(numbers.stop, last + 1))
        self.kept.add_bytes(OUTBOX_BYTES * len(had))
        return range(max(numbers.start, last + 1), numbers.stop)

    def keep_purged(self, topic: Topic, purged: PurgedMessages) -> bool:
        """Keeps the purged messages of a topic. Returns whether the view needs them."""
        if topic.number > self._last_topic or topic in self._purged:
            return False
        self._purged[topic] = purged
        return True

    def reads(self, purged: PurgedMessages) -> bool:
        """Whether the view needs these purged messages."""
        return any(one is purged for one in self._purged.values())

    def keep_topic(self, topic: Topic) -> None:
        """Keeps the row of a topic."""
        if topic.number <= self._last_topic and topic not in self._topic_rows:
            self._topic_rows[topic] = _topic_row(topic)

    def keep_deleted(self, topic: Topic) -> None:
        """Keeps that a topic existed."""
        self._deleted[topic] = None

    def keep_turns(self, topic: Topic) -> None:
        """Keeps the order of the consumers of a topic."""
        if topic.number <= self._last_topic and topic not in self._rings:
            self._rings[topic] = order = topic.turns.order()
            self.kept.add_bytes(ID_BYTES * len(order))

    def keep_consumer(self, consumer: Consumer) -> None:
        """Keeps the row of a consumer."""
        if consumer.number <= self._last_consumer and consumer not in self._consumer_rows:
            self._consumer_rows[consumer] = self._consumer_row(consumer)

    def keep_group(self, group: CreditGroup) -> None:
        """Keeps the row of a credit group, and the order of its consumers."""
        if group not in self._group_rows:
            self._group_rows[group] = _group_row(group), list(group.consumers)

    def keep_session(self, session: Session) -> None:
        """Keeps the facts of a session."""
        if session not in self._session_facts:
            facts = self._session_facts[session] = _session_facts(session)
            self.kept.add_bytes(ID_BYTES * len(facts.watches))

    def keep_value(self, value: Value, is_counted: bool) -> bool:
        """Keeps a value that was removed. Returns whether the view has it. `is_counted`: an older view has it as
        well."""
        if value.number > self.value_numbers[0]:
            return False
        self._kept_values.put(value.number, value)
        self.kept.add_bytes(0 if is_counted else value.size())
        return True

    def keep_barrier(self, barrier: Barrier) -> None:
        """Keeps the facts of a barrier."""
        if barrier.number <= self.value_numbers[1] and barrier not in self._barrier_facts:
            self._barrier_facts[barrier] = _barrier_facts(barrier)

    def keep_record_bytes(self, record: Topic | Consumer | Session) -> None:
        """Counts the memory of a record that leaves the state, if the view has it."""
        if isinstance(record, Consumer):
            self.kept.add_bytes(CONSUMER_BYTES if record.number <= self._last_consumer else 0)
        elif isinstance(record, Topic):
            self.kept.add_bytes(TOPIC_BYTES if record.number <= self._last_topic else 0)
        else:
            self.kept.add_bytes(SESSION_BYTES)

    def needed_ids(self, topic: Topic) -> list[PartitionedDict[Any]]:
        """What holds the ids that the view needs to find messages of the topic."""
        purged = self._purged.get(topic)
        return [self._kept] if purged is None else [self._kept, purged.ready.by_id(), purged.delayed]

    def freeing(self) -> Iterator[None]:
        """Ends the view after it is written. Frees the kept records, with a pause after each portion."""
        self.end()
        while self.kept.free(FREED_AT_ONCE):
            yield

    # --- rows ---

    def sessions(self) -> Iterator[Row]:
        """(number, attached, principal) of each session."""
        for one in self._sessions:
            facts = self._session_facts.get(one)
            yield one.number, one.attached if facts is None else facts.attached, one.principal

    def topics(self) -> Iterator[Row]:
        """The row of each topic."""
        for one in self._topics:
            yield self._topic_rows.get(one) or _topic_row(one)

    def bindings(self) -> Iterator[tuple[Row, int]]:
        """(exchange, routing key, topic, arguments) of each binding, by exchange, and the size of its arguments."""
        for name, keys in self._bindings:
            for key in keys:
                yield (name, *key), len(key[2])

    def groups(self) -> Iterator[Row | None]:
        """The row of each credit group."""
        for group in self._groups():
            yield None if group is None else self._of_group(group)[0]

    def consumers(self) -> Iterator[Row]:
        """The row of each consumer."""
        for one in self._consumers:
            yield self._consumer_rows.get(one) or self._consumer_row(one)

    def turns(self) -> Iterator[Row | None]:
        """(session, group, consumer): the order of the consumers of each credit group."""
        for group in self._groups():
            if group is None:
                yield None
                continue
            for number in self._of_group(group)[1]:
                yield *group.key, number

    def rings(self) -> Iterator[Row | None]:
        """(topic, consumer): the order of the consumers of each topic that can receive."""
        for topic in self._topics:
            kept = self._rings.get(topic)
            if kept is None and topic.turns:
                kept = topic.turns.order()
            for number in kept or ():
                yield topic.number, number
            if self._is_pause_due(1):
                yield None

    def ready(self) -> Iterator[tuple[Topic, Message] | None]:
        """The ready messages, by topic in the order of their ids."""
        for topic in self._topics:
            for place in self._waiting(topic):
                if place is None or isinstance(place, Message):
                    yield place and (topic, place)

    def delayed(self) -> Iterator[tuple[Topic, Delayed] | None]:
        """The delayed messages, by topic in the order of their ids."""
        for topic in self._topics:
            if self._is_pause_due(1):
                yield None
            purged = self._purged.get(topic)
            if not (topic.delayed or topic in self._with_delayed or (purged is not None and purged.delayed)):
                continue
            for place in self._waiting(topic):
                if place is None or not isinstance(place, Message):
                    yield place and (topic, place)

    def leases(self) -> Iterator[Lease | None]:
        """The leases, by consumer with the oldest first."""
        for consumer in self._consumers:
            order = -1
            for lease in self._leases_of(consumer):
                if lease.order != order:
                    place = self._kept.get(lease.message.id, lease)  # it may have ended, or been extended, meanwhile
                    assert isinstance(place, Lease)
                    yield place
                order = lease.order
            if self._is_pause_due(1 + len(consumer.leases)):
                yield None

    def _leases_of(self, consumer: Consumer) -> Iterator[Lease]:
        """The leases that the consumer had, the oldest first. Some come twice, one after the other."""
        present = list(consumer.leases.values())
        row = self._consumer_rows.get(consumer)
        if row is not None:  # perhaps it was given messages since then
            del present[bisect_left(present, row[DELIVERED], key=order_of) :]
        return self._leases.merged(consumer, present)

    def prepared(self) -> Iterator[tuple[Row, int]]:
        """(transaction, topics, priority, delay_ms, expires_ms, body) of each prepared message, with its size."""
        for one in self.transactions:
            for topics, new, body in one.messages:
                yield (one.number, topics, new.priority, new.delay_ms, new.expires_ms, body), len(body)

    def frozen(self) -> Iterator[tuple[Transaction, FrozenMessage]]:
        """The frozen messages, by transaction."""
        for one in self.transactions:
            for frozen in one.frozen:
                yield one, frozen

    def owned(self, session: Session) -> list[int]:
        """The numbers of the exclusive topics of a session that is ending."""
        return self._facts(session).owned

    def unsent(self) -> Iterator[Row]:
        """(session, message, epoch) of each lease that is still to be sent again."""
        for session in self.resending:
            facts = self._facts(session)
            if facts.resend is not None:
                for at in range(facts.sent, facts.tokens):
                    yield session.number, *facts.resend.tokens[at]

    def unscanned(self) -> Iterator[Row]:
        """(session, consumer) of each consumer whose leases are still to be compared."""
        for session in self.resending:
            facts = self._facts(session)
            if facts.resend is not None:
                for at in range(facts.scanned, len(facts.resend.consumers)):
                    yield session.number, facts.resend.consumers[at]

    def held(self) -> Iterator[Row]:
        """(session, message, epoch) of each lease that an attaching client has named."""
        for session in self.resending:
            facts = self._facts(session)
            if facts.resend is not None and facts.scanned < len(facts.resend.consumers):
                for token in facts.resend.held:
                    yield session.number, *token

    def values(self) -> Iterator[tuple[Row, int] | None]:
        """(number, key, expires_at_ms, stage, body) of each value in the order of their numbers, with its size. Values
        leave partitions and come only to the last one, so what is between two starts never grows."""
        last = self.value_numbers[0]
        for start, end in zip(self._value_starts, [*self._value_starts[1:], last + 1], strict=True):
            found = self._values.in_range(start, end) | self._kept_values.in_range(start, end)
            for number in sorted(found):
                yield found[number], len(found[number].body)
            if self._is_pause_due(1 + len(found)):
                yield None

    def watches(self) -> Iterator[Row | None]:
        """(session, key) of each watch, also of sessions that are ending."""
        for session in (*self._sessions, *self.ending):
            keys = self._facts(session).watches
            for key in keys:
                yield session.number, key
            if self._is_pause_due(1 + len(keys)):
                yield None

    def barriers(self) -> Iterator[tuple[Row, int]]:
        """The row of each barrier, with the size of its message."""
        for barrier in self._barriers:
            row = (self._barrier_facts.get(barrier) or _barrier_facts(barrier))[0]
            yield row, len(row[-1])

    def parts(self) -> Iterator[Row | None]:
        """(barrier, key, order) of each part, by barrier in the order of arrival."""
        for barrier in self._barriers:
            _, parts, count = self._barrier_facts.get(barrier) or _barrier_facts(barrier)
            for at in range(count):
                yield barrier.number, *parts[at]
            if self._is_pause_due(1 + count):
                yield None

    def _waiting(self, topic: Topic) -> Iterator[Message | Delayed | None]:
        """The topic's messages that were ready or delayed, in the order of their ids."""
        kept, last = self._kept, self._last_message
        for chunk in [*topic.arrivals.chunks, topic.arrivals.tail]:
            places = kept.found(chunk)
            source = self._purged.get(topic) or topic
            unmoved = [number for number in chunk if number <= last and number not in places]
            places |= source.ready.by_id().found(unmoved)
            if source.delayed:
                places |= source.delayed.found(unmoved)
            for number in chunk:
                place = places.get(number)
                if place is not None and not isinstance(place, Lease | FrozenMessage):
                    yield place
            if self._is_pause_due(1 + len(chunk)):
                yield None

    def _is_pause_due(self, looked_at: int) -> bool:
        """Counts ids or records that were looked at, over all topics, consumers and sessions."""
        self._looked += looked_at
        if self._looked < IDS_PER_PAUSE:
            return False
        self._looked = 0
        return True

    def _groups(self) -> Iterator[CreditGroup | None]:
        for session in self._sessions:
            facts = self._session_facts.get(session)
            yield from list(session.groups.values()) if facts is None else facts.groups
            if self._is_pause_due(1):
                yield None

    def _of_group(self, group: CreditGroup) -> tuple[Row, list[int]]:
        return self._group_rows.get(group) or (_group_row(group), list(group.consumers))

    def _facts(self, session: Session) -> SessionFacts:
        return self._session_facts.get(session) or _session_facts(session)

    def _consumer_row(self, one: Consumer) -> Row:
        topic = one.topic.number if one.topic.alive or one.topic in self._deleted else 0
        shape = (one.credit, one.credit_bytes, one.no_ack, one.lease_ms, one.exclusive, one.limit, one.until_ms)
        group = one.group.key[1] if one.group is not None else 0
        return (one.number, one.session.number, topic, one.delivered, one.ended, group, *shape)


def _topic_row(topic: Topic) -> Row:
    owner = topic.owner.number if topic.owner is not None else 0
    owned = topic.owner is not None
    pauses = (topic.holds_back, topic.is_closed)
    return (topic.number, topic.name, topic.settings, owner, owned, topic.expires_at_ms, topic.revision, *pauses)


def _group_row(group: CreditGroup) -> Row:
    return (*group.key, group.credit, group.credit_bytes)


def _session_facts(session: Session) -> SessionFacts:
    resend = session.resend
    at = (resend.scanned, len(resend.tokens), resend.sent) if resend is not None else (0, 0, 0)
    groups, owned = list(session.groups.values()), list(session.owned)
    return SessionFacts(session.attached, groups, owned, resend, *at, list(session.watches))


def _barrier_facts(barrier: Barrier) -> tuple[Row, list[Part], int]:
    times = (barrier.lifetime_ms, barrier.expires_at_ms)
    is_over = (barrier.is_released, barrier.is_closed)
    row = (barrier.number, barrier.key, barrier.size, barrier.more, *times, *is_over, barrier.message)
    return row, barrier.parts, len(barrier.parts)
