"""Bounds the bytes of payload that one call frees.

To free a mebibyte takes about 0.05 ms, because its pages go back to the system. One command can drop gigabytes: an Ack,
messages for a full topic, messages that expire together. So a call frees `settings.FREED_BYTES_PER_CALL`. What else it
drops is kept here, and freed as postponed work (`work.free_some`). Nobody can see such a message, so it is not state.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap_heap.settings import BYTES_PER_RECORD
from disheap_heap.state.messages import Message, SharedMessage
from disheap_heap.state.state import Dropped, State
from disheap_heap.state.values import Value

LARGE_BYTES = 4 << 10
"""Smaller payloads are not counted. A call drops at most 10,000 of them, or 40 MiB that stay with the allocator."""


def free_within_bound(state: State, messages: Sequence[Message | Value], size: int) -> None:
    """Called when messages, or values, were dropped and uncounted. `size`: the bytes of their bodies. Keeps those that
    this call must not free any more, in one step if it can."""
    for place, message in enumerate(messages):  # noqa: B007 - used behind the loop
        if state.free_bytes_left <= 0:
            break
        one_size = len(message.body)
        size -= one_size
        if one_size >= LARGE_BYTES and not _is_shared(state, message):
            state.units += one_size // BYTES_PER_RECORD
            state.free_bytes_left -= one_size
    else:
        return
    rest = messages[place:]
    if not any(type(message) is SharedMessage for message in rest):
        _keep(state, rest, size)
        return
    for message in rest:
        if not _is_shared(state, message):
            _keep(state, (message,), len(message.body))


def _is_shared(state: State, message: Message | Value) -> bool:
    """Whether other messages still have its body."""
    return type(message) is SharedMessage and id(message.body) in state.copies


def _keep(state: State, messages: Sequence[Message | Value], size: int) -> None:
    """Keeps messages of so many bytes together, to be freed as postponed work."""
    if not state.unfreed or not isinstance(state.unfreed[-1], Dropped):
        state.unfreed.append(Dropped([]))
    kept = state.unfreed[-1]
    assert isinstance(kept, Dropped)
    kept.messages.extend(messages)
    state.units += size // BYTES_PER_RECORD
    state.purged_messages += len(messages)
    state.purged_bytes += size


def free_one(state: State, dropped: Dropped) -> int:
    """Frees one message. Returns the units of work, and 0 when none is left."""
    if not dropped.messages:
        return 0
    return uncount_freed(state, dropped.messages.pop())


def uncount_freed(state: State, message: Message | Value) -> int:
    """A message that was dropped before is freed now. Returns the units of work."""
    size = len(message.body)
    state.purged_messages -= 1
    state.purged_bytes -= size
    state.free_bytes_left -= size
    return units_to_free(size)


def units_to_free(size: int) -> int:
    """Units of work to free a message whose body has so many bytes."""
    return 1 + size // BYTES_PER_RECORD
