"""An estimate of the memory that the state takes (`interfaces.MemoryEstimating`).

Owns the size of each kind of record, and the count of copies of bodies that several messages share. Such a body counts
once. All other counts are kept where the records are. Purged messages count until they are freed, and `view` counts
what open views keep. The estimate is not state: a restored replica has neither.

The sizes are what CPython 3.11 allocates (`tracemalloc`). `tests/heap/test_memory_estimate.py` compares each of them.
The resident size grew by 180 to 210 bytes for an empty message. It grew by 360 bytes for one of 100 bytes, and by 1270
for one of 1024. The node compares the estimate with its real size.
"""

from __future__ import annotations

from disheap_heap.state.messages import Body, Content, Message, SharedMessage
from disheap_heap.state.state import Session, State
from disheap_heap.state.values import Values

MESSAGE_BYTES = 220
"""A tuple, its id, its entry in a dict and in a heap, the header of its payload."""
CONTENT_BYTES = 150
"""The memory of a message with headers or a key: a struct, and what two more objects take beside their bytes."""
LEASE_BYTES = 220
"""A tuple and its entries in two dicts."""
TIMER_BYTES = 200
"""A tuple, its key, its deadline, its entry in a dict and in a heap."""
DYING_BYTES = 250
"""A message that waits to be dead-lettered beside the message itself: a tuple, its numbers, an entry in a list."""
TOPIC_BYTES = 1450
"""An object, two dicts, two partitioned ones, the chunks of its messages, its name and its settings."""
EXCHANGE_BYTES = 500
CONSUMER_BYTES = 500
"""The memory of a subscription or a pop: an object, a dict, and its entries in three others."""
SESSION_BYTES = 500
ARMED_BYTES = 250
"""A credit group that waits for something more urgent: its entry in a dict, its bound, and an entry of a consumer."""
BINDING_BYTES = 500
"""Its entries in the exchange and in the topic, and the key."""
ARGUMENT_COPIES = 2
"""The arguments of a binding are kept as bytes, and as conditions in the index."""
PATTERN_NODE_BYTES = 200
"""A node of a trie with its dict, or the place of a binding in a list of conditions."""
TRANSACTION_BYTES = 700
"""An open transaction: an object, two lists, and its entries in three dicts."""
PREPARED_BYTES = 400
"""A prepared message: a tuple, its topics, its struct, the header of its payload."""
FROZEN_BYTES = 250
"""A frozen message beside the message itself: a tuple, and entries in a dict and in a list."""
OUTBOX_BYTES = 450
"""A message for another group: a struct, its name, its numbers, entries in two dicts."""
FINISHED_BYTES = 300
"""The outcome of a transaction: a tuple, its numbers, its name, an entry in a dict."""
TOLD_BYTES = 100
"""A decision that is remembered with the outcome: a tuple and a number."""
RESEND_BYTES = 150
"""A token that an ATTACH named, or that is sent again: a tuple, its numbers, an entry in a dict or list."""

VALUE_BYTES = 270
"""A value: a tuple, its number, its key without the characters, entries in a partitioned dict and in another, the
header of its content."""
WATCH_BYTES = 380
"""Its key, and its entries in a dict of the session, in one of all keys, and in one of its own."""
BARRIER_BYTES = 400
"""An object, a list, a dict, its key, its entries in two more."""
PART_BYTES = 110
"""A tuple, and its entries in a list and a dict. The key is that of the value."""


def memory_bytes(state: State) -> int:
    """The estimate in bytes, without what open views keep. Takes constant time, for each session that is sent its
    leases again."""
    return (
        held_bytes(state)
        + MESSAGE_BYTES * held_messages(state)
        + CONTENT_BYTES * state.contents
        + LEASE_BYTES * len(state.leases)
        + DYING_BYTES * len(state.dying)
        + TIMER_BYTES * len(state.timers)
        + TOPIC_BYTES * len(state.topics)
        + EXCHANGE_BYTES * len(state.exchanges)
        + CONSUMER_BYTES * len(state.consumers)
        + SESSION_BYTES * len(state.sessions)
        + ARMED_BYTES * len(state.armed)
        + BINDING_BYTES * state.bindings
        + ARGUMENT_COPIES * state.argument_bytes
        + PATTERN_NODE_BYTES * state.pattern_nodes
        + TRANSACTION_BYTES * len(state.transactions.open)
        + PREPARED_BYTES * state.transactions.prepared
        + state.transactions.prepared_bytes
        + FROZEN_BYTES * len(state.transactions.frozen)
        + OUTBOX_BYTES * len(state.outbox)
        + FINISHED_BYTES * len(state.transactions.finished)
        + TOLD_BYTES * state.transactions.told
        + RESEND_BYTES * sum(map(_tokens, state.resending.values()))
        + _values_bytes(state.values)
    )


def _values_bytes(values: Values[Session]) -> int:
    return (
        values.size
        + VALUE_BYTES * len(values.by_number)
        + WATCH_BYTES * values.watches
        + BARRIER_BYTES * len(values.barriers)
        + PART_BYTES * values.parts
        + values.message_bytes
    )


def _tokens(session: Session) -> int:
    return session.resend.memory_records() if session.resend is not None else 0


def held_messages(state: State) -> int:
    """The number of messages in memory: ready, delayed, leased, frozen, dying, and purged but not freed."""
    waiting = state.ready + state.delayed + len(state.leases) + len(state.dying)
    return waiting + len(state.transactions.frozen) + state.purged_messages


def held_bytes(state: State) -> int:
    """The bytes of payload, headers and key of these messages. A shared body counts once."""
    return state.message_bytes + state.purged_bytes - state.repeated_bytes


def count_extras(state: State, message: Message) -> None:
    """Counts one more message whose body is shared, or has headers or a key."""
    if type(message) is SharedMessage:
        _share(state, message.body)
    else:
        state.contents += 1


def uncount_extras(state: State, message: Message) -> None:
    """Counts one such message less."""
    if type(message) is SharedMessage:
        _unshare(state, message.body)
    else:
        state.contents -= 1


def _share(state: State, body: Body) -> None:
    copies = state.copies.get(id(body), 0)
    state.copies.put(id(body), copies + 1)
    if copies:
        state.repeated_bytes += len(body)
    elif type(body) is Content:
        state.contents += 1


def _unshare(state: State, body: Body) -> None:
    copies = state.copies[id(body)] - 1
    if copies:
        state.copies.put(id(body), copies)
        state.repeated_bytes -= len(body)
    else:
        state.copies.take(id(body))
        if type(body) is Content:
            state.contents -= 1
