"""Frees a state that another replaced, in slices (`interfaces.Discarding`).

Every record is removed from its tables one by one. The records refer to each other, and no garbage collector runs, so
these references are removed as well. What is freed is uncounted, so the estimate of the memory falls with it.
`State.__del__` does the same in one step, for a state that was not discarded.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from itertools import repeat
from typing import Any

from disheap_heap.commands.exchanges import binding_units
from disheap_heap.settings import PARTS_PER_UNIT
from disheap_heap.state.dropped import units_to_free
from disheap_heap.state.footprint import uncount_extras
from disheap_heap.state.messages import Content, Message, SharedMessage
from disheap_heap.state.state import Consumer, Session, State, Topic
from disheap_heap.state.values import Values
from disheap_heap.tables.arrivals import CHUNK
from disheap_heap.work import free_some

RECORDS_AT_ONCE = 1000
"""Records that one slice frees, which takes 1 ms."""
IDS_PER_RECORD = 32
UNITS_AT_ONCE = 250


def discarding(state: State) -> Iterator[None]:
    """Frees the state. Each step is a slice. While a view is open, nothing is freed, because the view reads the
    records."""
    while state.views:
        yield
    for count, _ in enumerate(_records(state), 1):
        if count % RECORDS_AT_ONCE == 0:
            yield


def _records(state: State) -> Iterator[None]:
    """Yields after each record that was freed, and several times after one that takes longer."""
    while state.unfreed:
        state.begin_call()
        free_some(state, UNITS_AT_ONCE)
        yield from repeat(None, UNITS_AT_ONCE)
    yield from map(_nothing, _taken(state.leases))
    for consumer in _taken(state.consumers):
        yield from _consumer(state, consumer)
    for tables in (state.sessions, state.ending):
        for session in _taken(tables):
            yield from _session(session)
    for transaction in _taken(state.transactions.open):
        while transaction.messages:
            body = transaction.messages.pop().body
            yield from repeat(None, units_to_free(len(body)))
        while transaction.frozen:
            yield from _message(state, transaction.frozen.pop().message)
    while state.dying:
        yield from _message(state, state.dying.pop().message)
    table = state.transactions
    table.prepared = table.prepared_bytes = table.told = 0
    for records in (table.by_number, table.asking, table.frozen, table.finished):
        yield from map(_nothing, _taken(records))
    yield from state.outbox.discarding()
    yield from _values(state.values)
    for exchange in _taken(state.exchanges):
        while exchange.bindings:
            (key, _, arguments), topic = exchange.bindings.popitem()
            exchange.index.remove(key, topic, arguments)
            state.bindings -= 1
            yield from repeat(None, binding_units(key, arguments))
    state.pattern_nodes = state.argument_bytes = 0
    for topic in _taken(state.topics):
        yield from _topic(state, topic)
    while state.timers.drain():
        yield
    yield from map(_nothing, _taken(state.copies))
    yield from map(_nothing, _taken(state.armed))
    state.routes.clear()
    state.topics_by_number.clear()


def _consumer(state: State, consumer: Consumer) -> Iterator[None]:
    consumer.group = None
    yield
    for lease in _taken(consumer.leases):
        yield from _message(state, lease.message)


def _session(session: Session) -> Iterator[None]:
    yield
    for table in (session.consumers, session.owned, session.groups, session.watches):
        yield from map(_nothing, _taken(table))
    if session.resend is not None:
        while session.resend.free(1):
            yield
        session.resend = None


def _topic(state: State, topic: Topic) -> Iterator[None]:
    topic.owner = None
    topic.turns.clear()
    yield
    while topic.overtaking:
        topic.overtaking.pop()
        yield
    while (message := topic.ready.drain()) is not None:
        state.ready -= 1
        yield from _message(state, message)
    for _, message in _taken(topic.delayed):
        state.delayed -= 1
        yield from _message(state, message)
    for table in (topic.consumers, topic.bindings):
        yield from map(_nothing, _taken(table))
    while topic.arrivals.chunks:
        topic.arrivals.chunks.pop()
        yield from repeat(None, CHUNK // IDS_PER_RECORD)


def _values(values: Values[Session]) -> Iterator[None]:
    while values.by_number:
        value = values.by_number.popitem()[1]
        values.by_key.take(value.key)
        values.size -= value.size()
        yield from repeat(None, units_to_free(len(value.body)))
    while (watchers := values.watchers.drain()) is not None:
        values.watches -= len(watchers)
        yield
    for table in (values.barriers_by_number, values.barriers):
        for barrier in _taken(table):
            yield from repeat(None, 1 + len(barrier.close()) // PARTS_PER_UNIT)


def _message(state: State, message: Message) -> Iterator[None]:
    """The caller holds the message until it takes the next one."""
    state.message_bytes -= len(message.body)
    if type(message) is SharedMessage or type(message.body) is Content:
        uncount_extras(state, message)
    return repeat(None, units_to_free(len(message.body)))


def _taken(table: MutableMapping[Any, Any]) -> Iterator[Any]:
    while table:
        yield table.popitem()[1]


def _nothing(_: Any) -> None:
    """For a record that is freed as soon as it is removed."""
