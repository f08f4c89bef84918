"""Topics: create, take over, purge, delete.

A topic is deleted when its last consumer ends (`auto_delete`), when it was unused for `expires_ms`, or together with
the session that owns it (`exclusive`). If the owner of an exclusive topic has no connection, another session of the
same principal may create the topic and so take it over. So a worker that was killed can start again at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from disheap.errors import InvalidArgument, TopicInUse, TopicMismatch
from disheap.protocol.broker import (
    OVERFLOWS,
    ConsumerEnded,
    CreateTopic,
    DeleteTopic,
    Purge,
    Removed,
    TopicInfo,
    TopicSettings,
)
from disheap_heap.commands.checks import check_name, find_existing, limit_reached, require_access, require_free
from disheap_heap.commands.exchanges import check_bindings_of_owner, remove_binding
from disheap_heap.delivery.dropping import drop_all_waiting
from disheap_heap.delivery.ending import end_consumer, update_expiry
from disheap_heap.delivery.returning import requeue_all
from disheap_heap.encoding import encode
from disheap_heap.state.state import Session, State, Topic
from disheap_heap.state.views import keep_deleted, keep_record_bytes, keep_session, keep_topic
from disheap_heap.tables import timers


def create_topic(state: State, session: int, command: CreateTopic) -> bytes:
    """Creates a topic, or takes over an exclusive one whose owner has no connection. Refuses other settings for a topic
    that exists."""
    check_name("topic", command.topic)
    check_settings(command.topic, command.settings)
    topic = state.topics.get(command.topic)
    if topic is None:
        topic = _create(state, session, command)
        return encode(describe(topic, created=True))
    taken = topic.owner is not None and topic.owner.number != session
    if taken:
        require_free(state, topic, session)
    if command.settings != topic.settings:
        raise TopicMismatch(_difference(topic, command.settings))
    if taken:
        owner = _owner_with_capacity(state, session)
        check_bindings_of_owner(state, owner, topic.binding_units)
        _take_over(state, topic, owner)
    update_expiry(state, topic)
    return encode(describe(topic))


def check_settings(name: str, settings: TopicSettings) -> None:
    """Raises `InvalidArgument` if a topic of this name cannot have these settings."""
    if settings.mode not in ("max", "min"):
        raise InvalidArgument(f"mode is 'max' or 'min', not {settings.mode!r}")
    if settings.overflow not in OVERFLOWS:
        raise InvalidArgument(f"overflow is one of {', '.join(OVERFLOWS)}, not {settings.overflow!r}")
    _check_dead_letters(name, settings)


def delete_topic(state: State, session: int, command: DeleteTopic) -> bytes:
    """Deletes a topic with its messages. The reply says how many there were."""
    topic = find_existing(state, command.topic)
    require_access(topic, session)
    if command.if_unused and topic.active:
        raise TopicInUse(f"topic {topic.name!r} has {topic.active} consumers; cancel those first")
    if command.if_empty and topic.messages():
        raise TopicInUse(f"topic {topic.name!r} has {topic.messages()} messages; purge those first")
    if command.if_empty and topic.reserved:
        raise TopicInUse(
            f"topic {topic.name!r} has {topic.reserved} messages of transactions that are not decided; decide those "
            "first"
        )
    return encode(Removed(delete(state, topic, "the topic was deleted")))


def purge(state: State, session: int, command: Purge) -> bytes:
    """Drops the ready and delayed messages of a topic. The reply says how many there were."""
    topic = find_existing(state, command.topic)
    require_access(topic, session)
    return encode(Removed(drop_all_waiting(state, topic)))


def delete(state: State, topic: Topic, reason: str) -> int:
    """Deletes a topic and ends its consumers and leases; the larger part of the leases ends later. Returns how many
    messages it had."""
    state.units += 1
    count = topic.messages()
    if state.views:
        keep_deleted(state, topic)
        keep_record_bytes(state, topic)
    topic.alive = False
    del state.topics[topic.name], state.topics_by_number[topic.number]
    del state.topic_names[bisect_left(state.topic_names, topic.name)]
    state.timers.disarm(timers.TOPIC, topic.number)
    _detach_owner(state, topic)
    drop_all_waiting(state, topic)
    state.series.remove(topic)
    for exchange, key, arguments in list(topic.bindings):
        remove_binding(state, exchange, key, topic, arguments)
    _end_consumers(state, topic, reason)
    return count


def make_topic(state: State, name: str, settings: TopicSettings, owner: Session | None = None) -> Topic:
    """Creates a topic. The caller has checked everything."""
    state.last_topic += 1
    topic = Topic(state.last_topic, name, settings, owner)
    state.topics[topic.name] = state.topics_by_number[topic.number] = topic
    insort(state.topic_names, topic.name)
    state.series.add(topic)
    if owner is not None:
        owner.owned[topic.number] = topic
    update_expiry(state, topic)
    return topic


def describe(topic: Topic, created: bool = False) -> TopicInfo:
    """The settings and counts of a topic."""
    first = topic.ready.first()
    return TopicInfo(
        topic.name,
        topic.settings,
        len(topic.ready),
        len(topic.delayed),
        topic.leased,
        topic.subscribers,
        topic.ready_bytes,
        created,
        first.enqueued_ms if first else 0,
        revision=topic.revision,
        deliveries_paused=topic.holds_back,
        enqueues_paused=topic.is_closed,
    )


def _create(state: State, session: int, command: CreateTopic) -> Topic:
    if len(state.topics) >= state.settings.topics:
        raise limit_reached("topics", len(state.topics))
    owner = _owner_with_capacity(state, session) if command.settings.exclusive else None
    return make_topic(state, command.topic, command.settings, owner)


def _check_dead_letters(name: str, settings: TopicSettings) -> None:
    """Raises `InvalidArgument` if the settings for retries and dead letters contradict each other."""
    topic, exchange, key = settings.dead_letter_topic, settings.dead_letter_exchange, settings.dead_letter_key
    check_name("topic", topic)
    check_name("exchange", exchange)
    if topic and exchange:
        raise InvalidArgument(
            f"dead letters go to the topic {topic!r} or to the exchange {exchange!r}, not to both; leave one out"
        )
    if key and not exchange:
        raise InvalidArgument("dead_letter_key is for dead_letter_exchange; a topic is named by dead_letter_topic")
    if topic == name:
        raise InvalidArgument(
            f"dead letters of topic {name!r} would come back to it, and never be out of the way; name another topic"
        )
    if settings.retry_delay_max_ms and settings.retry_delay_max_ms < max(1, settings.retry_delay_ms):
        raise InvalidArgument(
            f"retry_delay_max_ms is {settings.retry_delay_max_ms}, and retry_delay_ms, where the pauses begin, is "
            f"{settings.retry_delay_ms}; the bound is at least as much"
        )
    if settings.retry_delay_max_ms and not settings.retry_delay_ms:
        raise InvalidArgument("retry_delay_max_ms bounds retry_delay_ms, which is 0; give that as well")


def _owner_with_capacity(state: State, session: int) -> Session:
    if session not in state.sessions:
        raise InvalidArgument(f"session {session} is not open; only an open session can own a topic")
    owner = state.sessions[session]
    if len(owner.owned) >= state.settings.session_topics:
        raise InvalidArgument(
            f"session {session} owns {len(owner.owned)} exclusive topics, which is the limit; delete some, or raise "
            "`session_topics` in [machine.heap] on every node"
        )
    return owner


def _take_over(state: State, topic: Topic, owner: Session) -> None:
    if state.views:
        keep_topic(state, topic)
    _detach_owner(state, topic)
    topic.owner = owner
    owner.owned[topic.number] = topic
    _end_consumers(state, topic, "another session has taken the topic over")


def _detach_owner(state: State, topic: Topic) -> None:
    """The owner of the topic, if there is one, no longer owns it."""
    if topic.owner is not None:
        if state.views:
            keep_session(state, topic.owner)
        topic.owner.owned.pop(topic.number, None)


def _end_consumers(state: State, topic: Topic, reason: str) -> None:
    for consumer in list(topic.consumers.values()):
        if not consumer.ended:
            state.push(consumer.session, encode(ConsumerEnded(consumer.number, reason)))
            end_consumer(state, consumer)
        if consumer.leases:
            requeue_all(state, consumer)


def _difference(topic: Topic, wanted: TopicSettings) -> str:
    parts = [
        f"{field} is {getattr(topic.settings, field)!r}, not {getattr(wanted, field)!r}"
        for field in TopicSettings.__struct_fields__
        if getattr(topic.settings, field) != getattr(wanted, field)
    ]
    return f"topic {topic.name!r} exists with other settings: {'; '.join(parts)}. Use those, or delete the topic first"
