"""How messages leave the state for good, and which ids of messages a topic still needs.

Does not decide whether a message is dropped or dead-lettered: `dead_letters` does.
"""

from __future__ import annotations

from typing import Any

from disheap_heap.state.dropped import LARGE_BYTES, free_within_bound
from disheap_heap.state.footprint import uncount_extras
from disheap_heap.state.kept import DROPPED_BYTES
from disheap_heap.state.messages import Content, Message, SharedMessage
from disheap_heap.state.ready import ReadyMessages
from disheap_heap.state.state import PurgedMessages, State, Topic
from disheap_heap.state.views import ids_of_views, keep_dropped, keep_message_bytes, keep_place, keep_purged
from disheap_heap.tables.arrivals import CHUNKS_SWEPT, IdFilter
from disheap_heap.tables.partitioned import PartitionedDict

DELIVERIES_PER_SWEEP = 256
"""Messages that leave a topic before some ids of messages that no longer exist are removed from `arrivals`."""


def drop_message(state: State, message: Message) -> None:
    """Uncounts a message that no longer exists. It is already removed from its topic or lease."""
    body = message.body
    state.message_bytes -= len(body)
    if type(message) is SharedMessage or type(body) is Content:
        uncount_extras(state, message)
    if state.views:
        body_bytes = 0 if id(body) in state.copies else len(body)
        keep_message_bytes(state, message.id, DROPPED_BYTES + body_bytes)
    if len(body) >= LARGE_BYTES:
        free_within_bound(state, (message,), len(body))


def drop_all_waiting(state: State, topic: Topic) -> int:
    """Drops all ready and delayed messages of a topic in constant time. Their memory is freed later. Returns how many
    there were."""
    count = len(topic.ready) + len(topic.delayed)
    if count:
        state.ready -= len(topic.ready)
        state.delayed -= len(topic.delayed)
        purged = PurgedMessages(topic.ready, topic.delayed, state.timers.disarm_topic(topic.number))
        if state.views and keep_purged(state, topic, purged):
            state.purged_in_views.append(purged)
        else:
            state.unfreed.append(purged)
        if topic.arrivals.chunks:
            topic.arrivals.restart()
            state.unfreed.append(topic)
        state.message_bytes -= topic.ready_bytes + topic.delayed_bytes
        state.purged_messages += count
        state.purged_bytes += topic.ready_bytes + topic.delayed_bytes
        state.dropped += count
        topic.counts.dropped += count
        topic.ready, topic.delayed = ReadyMessages(), PartitionedDict()
        topic.ready_bytes = topic.delayed_bytes = 0
    state.unserved.pop(topic.number, None)
    state.trimming.pop(topic.number, None)
    return count


def drop_ready(state: State, topic: Topic, messages: list[Message]) -> None:
    """Drops messages that were taken out of the ready ones, and whose timers are disarmed."""
    size = sweeps = 0
    for message in messages:
        _, number, _, _, _, body = message
        size += len(body)
        sweeps += number % DELIVERIES_PER_SWEEP == 0
        if type(message) is SharedMessage or type(body) is Content:
            uncount_extras(state, message)
    topic.ready_bytes -= size
    state.message_bytes -= size
    state.ready -= len(messages)
    if state.views:
        keep_dropped(state, messages)
    if size >= LARGE_BYTES:
        free_within_bound(state, messages, size)
    if topic.arrivals.chunks:
        for _ in range(sweeps):
            sweep_ids(state, topic)


def take_ready(state: State, topic: Topic, messages: list[Message]) -> None:
    """Uncounts messages that were taken out of the ready ones, and that the state keeps elsewhere. Their timers are
    disarmed."""
    sweeps = 0
    for message in messages:
        sweeps += message.id % DELIVERIES_PER_SWEEP == 0
        if state.views:
            keep_place(state, topic, message.id, message)
    topic.ready_bytes -= sum([len(message.body) for message in messages])
    state.ready -= len(messages)
    if topic.arrivals.chunks:
        for _ in range(sweeps):
            sweep_ids(state, topic)


def needed_ids(state: State, topic: Topic) -> IdFilter:
    """A filter for ids. An id is needed while the topic has the message, or while an open view has to find it."""
    holders: list[PartitionedDict[Any]] = [topic.ready.by_id(), state.leases, topic.delayed]
    if state.transactions.frozen:
        holders.append(state.transactions.frozen)
    if state.views:
        holders += ids_of_views(state, topic)

    def keep_needed(ids: list[int]) -> list[int]:
        gone = ids
        for holder in holders:  # most ids are in the first
            gone = holder.missing(gone)
        unneeded = set(gone)
        return [one for one in ids if one not in unneeded] if unneeded else list(ids)

    return keep_needed


def sweep_ids(state: State, topic: Topic) -> None:
    """Removes ids that are not needed from some chunks of the topic."""
    for _ in range(CHUNKS_SWEPT):
        topic.arrivals.sweep(needed_ids(state, topic))
