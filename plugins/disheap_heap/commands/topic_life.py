"""What happens to a topic between its creation and its end: its settings change, and it is paused.

A change takes constant time. What is too much for a topic that drops is dropped in slices (`delivery.trimming`). So is
the delivery of what waits when a topic goes on (`State.unserved`).
"""

from __future__ import annotations

from disheap.errors import TopicMismatch
from disheap.protocol.broker import PauseTopic, TopicSettings, UpdateTopic, changed_settings
from disheap_heap.commands.checks import find_existing, require_access
from disheap_heap.commands.topics import check_settings, describe
from disheap_heap.delivery.delivery import serve
from disheap_heap.delivery.ending import update_expiry
from disheap_heap.delivery.trimming import trim_later
from disheap_heap.encoding import encode
from disheap_heap.state.state import State, Topic
from disheap_heap.state.views import keep_topic
from disheap_heap.tables import timers


def update_topic(state: State, session: int, command: UpdateTopic) -> bytes:
    """Changes settings of a topic. The reply describes it."""
    topic = find_existing(state, command.topic)
    require_access(topic, session)
    if command.revision and command.revision != topic.revision:
        raise TopicMismatch(
            f"topic {topic.name!r} has revision {topic.revision}, and the change is of revision {command.revision}: "
            "somebody has changed it meanwhile. Look at its settings, and change them again"
        )
    settings = changed_settings(topic.settings, command.changes)
    check_settings(topic.name, settings)
    if settings != topic.settings:
        _use(state, topic, settings)
    return encode(describe(topic))


def pause_topic(state: State, session: int, command: PauseTopic) -> bytes:
    """Pauses deliveries or enqueues of a topic, or lets them go on. The reply describes it."""
    topic = find_existing(state, command.topic)
    require_access(topic, session)
    deliveries = topic.holds_back if command.deliveries is None else command.deliveries
    enqueues = topic.is_closed if command.enqueues is None else command.enqueues
    if state.views:
        keep_topic(state, topic)
    was_held_back = topic.holds_back
    topic.pause(deliveries, enqueues)
    if was_held_back and not deliveries:
        serve(state, topic)
    return encode(describe(topic))


def _use(state: State, topic: Topic, settings: TopicSettings) -> None:
    if state.views:
        keep_topic(state, topic)
    old = topic.settings
    topic.use(settings)
    topic.revision += 1
    if settings.expires_ms != old.expires_ms:
        if not settings.expires_ms:
            topic.expires_at_ms = 0
            state.timers.disarm(timers.TOPIC, topic.number)
        update_expiry(state, topic)
    trim_later(state, topic)
