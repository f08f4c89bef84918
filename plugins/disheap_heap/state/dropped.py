"""Bounds the bytes of payload that one call frees.

To free a mebibyte takes about 0.05 ms, because its pages go back to the system. One command can drop gigabytes: an Ack,
messages for a full topic, messages that expire together. So a call frees `settings.FREED_BYTES_PER_CALL`. What else it
drops is kept here, and freed as postponed work (`work.free_some`). Nobody can see such a message, so it is not state.
"""

from __future__ import annotations

from collections.abc import Iterable

from disheap_heap.settings import BYTES_PER_RECORD
from disheap_heap.state.messages import Message, SharedMessage
from disheap_heap.state.state import Dropped, State

LARGE_BYTES = 16 << 10
"""Smaller payloads are not counted. A call drops at most 10,000 of them, or 160 MiB that stay with the allocator."""


def free_within_bound(state: State, messages: Iterable[Message]) -> None:
    """Called when messages were dropped and uncounted. Keeps those that this call must not free any more."""
    for message in messages:
        size = len(message.body)
        if size < LARGE_BYTES or (type(message) is SharedMessage and id(message.body) in state.copies):
            continue
        state.units += size // BYTES_PER_RECORD
        if state.free_bytes_left > 0:
            state.free_bytes_left -= size
            continue
        if not state.unfreed or not isinstance(state.unfreed[-1], Dropped):
            state.unfreed.append(Dropped([]))
        kept = state.unfreed[-1]
        assert isinstance(kept, Dropped)
        kept.messages.append(message)
        state.purged_messages += 1
        state.purged_bytes += size


def free_one(state: State, dropped: Dropped) -> int:
    """Frees one message. Returns the units of work, and 0 when none is left."""
    if not dropped.messages:
        return 0
    return uncount_freed(state, dropped.messages.pop())


def uncount_freed(state: State, message: Message) -> int:
    """A message that was dropped before is freed now. Returns the units of work."""
    size = len(message.body)
    state.purged_messages -= 1
    state.purged_bytes -= size
    state.free_bytes_left -= size
    return units_to_free(size)


def units_to_free(size: int) -> int:
    """Units of work to free a message whose body has so many bytes."""
    return 1 + size // BYTES_PER_RECORD
