"""How much memory the state takes, as an estimate (`interfaces.MemoryEstimating`).

Owns two counts of the state, `held_messages` and `held_bytes`, and what each kind of record weighs. Both counts include
purged messages until they are freed, and a payload that several messages share counts once. Not state: a replica that
was restored has no purged messages.

The weights are what CPython 3.11 allocates (`tracemalloc`). `tests/heap/test_memory_estimate.py` compares each with it.
As growth of the resident size, an empty message took 180 to 210 bytes, one of 100 bytes 360, one of 1024 bytes 1270.
The node compares the estimate with its real size.
"""

from __future__ import annotations

from disheap_heap.messages import Message, SharedMessage
from disheap_heap.state import State

MESSAGE_BYTES = 220
"""A tuple, its id, its entry in a dict and in a heap, the header of its payload."""
LEASE_BYTES = 220
"""A tuple and its entries in two dicts."""
TIMER_BYTES = 200
"""A tuple, its key, its deadline, its entry in a dict and in a heap."""
TOPIC_BYTES = 1300
"""An object, four dicts, a heap, its name and its settings."""
EXCHANGE_BYTES = 500
CONSUMER_BYTES = 500
"""Of a subscription or of a pop: an object, a dict, and its entries in three others."""
SESSION_BYTES = 500
BINDING_BYTES = 500
"""Its entries in the exchange and in the topic, and the key."""
PATTERN_NODE_BYTES = 200
"""A node of a trie, with its dict."""


def memory_bytes(state: State) -> int:
    """In constant time."""
    return (
        state.held_bytes
        + MESSAGE_BYTES * state.held_messages
        + LEASE_BYTES * len(state.leases)
        + TIMER_BYTES * len(state.timers)
        + TOPIC_BYTES * len(state.topics)
        + EXCHANGE_BYTES * len(state.exchanges)
        + CONSUMER_BYTES * len(state.consumers)
        + SESSION_BYTES * len(state.sessions)
        + BINDING_BYTES * state.bindings
        + PATTERN_NODE_BYTES * state.pattern_nodes
    )


def take_in(state: State, message: Message) -> None:
    """A new message is held from now on."""
    state.held_messages += 1
    payload = message.payload
    if type(message) is SharedMessage:
        copies = state.copies.get(id(payload), 0)
        state.copies[id(payload)] = copies + 1
        if copies:
            return
    state.held_bytes += len(payload)


def let_go(state: State, message: Message) -> None:
    """A message is gone for good."""
    state.held_messages -= 1
    payload = message.payload
    if type(message) is SharedMessage:
        copies = state.copies[id(payload)] - 1
        if copies:
            state.copies[id(payload)] = copies
            return
        del state.copies[id(payload)]
    state.held_bytes -= len(payload)
