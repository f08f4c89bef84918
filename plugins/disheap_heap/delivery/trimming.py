"""Drops what is too much in topics whose limit was lowered, in slices.

A topic that drops when it is full has too many ready messages only after its settings have changed. It waits in
`State.trimming` until they fit. Meanwhile a new message drops at most two.
"""

from __future__ import annotations

from disheap_heap.delivery.dead_letters import drop_excess
from disheap_heap.settings import MAX_TRIMMED_PER_CALL
from disheap_heap.state.state import State, Topic


def trim_later(state: State, topic: Topic) -> None:
    """Drops a slice of what is too much in a topic. Postpones the rest."""
    if topic.drops and len(topic.ready) > topic.settings.max_messages:
        state.trimming[topic.number] = topic
        trim_some(state, MAX_TRIMMED_PER_CALL)


def trim_some(state: State, limit: int) -> int:
    """Drops at most `limit` messages of the topics that have too many. Returns how many, and one for each topic."""
    done = 0
    while state.trimming and done < limit:
        number, topic = next(iter(state.trimming.items()))
        done += 1
        if topic.drops:
            done += drop_excess(state, topic, max(1, limit - done))
        if not topic.drops or len(topic.ready) <= topic.settings.max_messages:
            del state.trimming[number]
    return done
