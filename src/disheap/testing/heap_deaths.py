"""Retries and dead letters in the model of the heap machine (`heap_model`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from disheap.protocol import broker
from disheap.protocol.broker import deaths
from disheap.testing.heap_records import ModelMessage, ModelTopic

MAX_PASSED = 16
LEASE_OVER = "its lease ended at its deadline"
HOLDER_OVER = "its consumer or the session of it ended"
ABORTED = "its transaction was aborted"


class ModelDeath(NamedTuple):
    """A message that waits to be dead-lettered."""

    message: ModelMessage
    reason: str
    error: str
    died_ms: int


class Model(Protocol):
    """What is asked of `heap_model.Model`."""

    now: int
    messages: list[ModelMessage]
    acked: list[ModelMessage]
    dying: list[ModelDeath]
    letters: list[tuple[int, str, broker.NewMessage]]
    route: Callable[[str, str, dict[str, Any]], list[ModelTopic]]

    def topic(self, name: str) -> ModelTopic | None:
        """The topic with this name."""

    def create(self, name: str, settings: broker.TopicSettings, session: int) -> ModelTopic:
        """Creates a topic."""

    def put(self, topic: ModelTopic, new: broker.NewMessage, passed: tuple[int, ...] = ()) -> int:
        """Puts a message into a topic."""


def die(model: Model, message: ModelMessage, reason: str, error: str = "") -> None:
    """Removes a message. It waits to be dead-lettered if its topic names a place."""
    model.messages.remove(message)
    settings = message.topic.settings
    if message.topic.alive and (settings.dead_letter_topic or settings.dead_letter_exchange):
        model.dying.append(ModelDeath(message, reason, error, model.now))
    elif reason == deaths.REJECTED:
        model.acked.append(message)


def retry_delay_ms(message: ModelMessage) -> int:
    """The pause before the next attempt."""
    settings = message.topic.settings
    if not settings.retry_delay_ms:
        return 0
    bound = settings.retry_delay_max_ms or broker.DURATION_MAX_MS
    delay = min(settings.retry_delay_ms << (message.attempts - 1), bound)
    return delay - _draw(message.id, message.attempts) % (delay // 2 + 1)


def publish(model: Model) -> list[ModelTopic]:
    """Dead-letters what waits. Returns the topics to serve."""
    touched: list[ModelTopic] = []
    while model.dying:
        note = model.dying.pop(0)
        message, name = note.message, note.message.topic.settings.dead_letter_topic
        passed: tuple[int, ...] = ()
        if note.reason in (deaths.EXPIRED, deaths.OVERFLOW):
            passed = (*message.passed, message.topic.number)
        headers = _headers(note)
        topics = _routed(model, message, name, headers) if len(passed) <= MAX_PASSED else []
        encoded = broker.encode_headers(headers)
        new = broker.NewMessage(message.new.payload, message.priority, 0, 0, encoded, message.new.key)
        for topic in topics:
            if topic.number not in passed:
                number = model.put(topic, new, passed)
                model.letters.append((number, topic.name, new))
                touched.append(topic)
    return list(dict.fromkeys(touched))


def _routed(model: Model, message: ModelMessage, name: str, headers: dict[str, Any]) -> list[ModelTopic]:
    """The topics for a dead letter. One that the topic names is created if it does not exist."""
    settings = message.topic.settings
    if settings.dead_letter_exchange:
        key = settings.dead_letter_key or message.topic.name
        return model.route(settings.dead_letter_exchange, key, headers)
    return [model.topic(name) or model.create(name, broker.TopicSettings(mode=settings.mode), 0)]


def _headers(note: ModelDeath) -> dict[str, Any]:
    """The headers of a dead letter. There is room for all of them."""
    message, name = note.message, note.message.topic.name
    before = message.new.headers
    own: dict[str, Any] = broker.without_death(before)
    earlier = broker.death_of(before)
    own |= {
        deaths.REASON: note.reason,
        deaths.TOPIC: name,
        deaths.TIME_MS: note.died_ms,
        deaths.ATTEMPTS: message.attempts,
        deaths.COUNT: earlier.count + 1 if earlier else 1,
    }
    if note.error:
        own[deaths.ERROR] = note.error
    own[deaths.FIRST_TOPIC] = earlier.first_topic if earlier else name
    own[deaths.FIRST_REASON] = earlier.first_reason if earlier else note.reason
    own[deaths.FIRST_TIME_MS] = earlier.first_time_ms if earlier else note.died_ms
    history = list(earlier.history) if earlier else []
    same = [one for one in history if (one.topic, one.reason) == (name, note.reason)]
    others = [one for one in history if one not in same]
    count, first_ms = (same[0].count, same[0].first_ms) if same else (0, note.died_ms)
    told = [broker.PastDeath(name, note.reason, count + 1, first_ms, note.died_ms), *others]
    own[deaths.HISTORY] = broker.encode_history(tuple(told[: broker.HISTORY_MAX]))
    return own


def _draw(number: int, attempts: int) -> int:
    """The finalizer of splitmix64."""
    mixed = (number * 0x9E3779B97F4A7C15 + attempts) % 2**64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
    return mixed ^ (mixed >> 31)
