"""Makes dead letters of the messages that wait in `State.dying`, and publishes them.

A dead letter is a new message. It has the payload, the key, the headers and the priority of the old one, and headers
that say why it died. It has no expiry of its own, and takes that of its new topic. A full topic takes it nevertheless:
nobody is there to be refused to. A dead letter that leads nowhere is dropped, as AMQP drops it.

A message could circle through topics in which it expires, or that are full, without any consumer. So it does not enter
a topic again that it left in this way, before a consumer has had it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from disheap.errors import CommandRefused
from disheap.protocol.broker import (
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    HISTORY_MAX,
    HeaderValue,
    NewMessage,
    PastDeath,
    TopicSettings,
    count_headers,
    death_of,
    deaths,
    decode_headers,
    encode_headers,
    encode_history,
    without_death,
)
from disheap_heap.commands.exchanges import find_topics
from disheap_heap.commands.topics import make_topic
from disheap_heap.delivery.delivery import add
from disheap_heap.delivery.dropping import drop_message
from disheap_heap.encoding import encode
from disheap_heap.settings import DEAD_LETTER_UNITS, HEADERS_PER_BATCH_UNIT
from disheap_heap.state.dying import DeathNote
from disheap_heap.state.footprint import uncount_extras
from disheap_heap.state.kept import DROPPED_BYTES
from disheap_heap.state.messages import Content, Message, SharedMessage
from disheap_heap.state.routing import RouteCache
from disheap_heap.state.state import State, Topic
from disheap_heap.state.views import keep_message_bytes

MAX_PASSED = 16
"""Topics that a message may leave one after the other without a consumer. It is dropped after that."""

_PREFIX = deaths.PREFIX.encode()
_ENCODED_NAMES = {name: encode(name) for name in deaths.DEATH_HEADERS}
_FIXMAP, _FIXMAP_MAX, _MAP16, _MAP32 = 0x80, 15, 0xDE, 0xDF
_MAP_BYTES = {_MAP16: 3, _MAP32: 5}


def publish_dead_letters(state: State, serve: Callable[[State, Topic], None]) -> None:
    """Publishes what waits, as much as this call may still do. A message that takes more than that waits, and so does
    all that comes after it. `serve` is called for each topic that got something."""
    _publish_waiting(state, state.dead_letters_left, serve, False)


def publish_some(state: State, limit: int, serve: Callable[[State, Topic], None]) -> int:
    """Publishes what waits, about `limit` units of work. One message may take more. Returns the units, at most
    `limit`."""
    return min(limit, _publish_waiting(state, limit, serve, True))


def _publish_waiting(state: State, limit: int, serve: Callable[[State, Topic], None], is_postponed: bool) -> int:
    """Publishes what waits, about `limit` units. The count is the same on every replica: the cache of routes starts
    empty, and what is freed does not count."""
    done = 0
    touched: dict[int, Topic] = {}
    routes, state.routes = state.routes, RouteCache()
    try:
        while state.dying and done < limit:
            note, before = state.dying.first(), state.units
            body = _dead_body(note)
            topics = _find_topics(state, note, body)
            units = DEAD_LETTER_UNITS + _header_units(note) + len(topics) + state.units - before
            if done + units > limit and not is_postponed:
                break
            done += units
            state.dying.pop()
            _publish(state, note, body, topics)
            touched.update([(topic.number, topic) for topic in topics])
    finally:
        state.routes = routes
    for topic in touched.values():
        serve(state, topic)
    return done


def _find_topics(state: State, note: DeathNote, body: Content) -> tuple[Topic, ...]:
    """The topics for a dead letter. Creates the one that it names, if that does not exist. A headers exchange sees the
    headers of the death as well."""
    if not note.exchange:
        topic = state.topics.get(note.routing_key)
        if topic is None:
            topic = make_topic(state, note.routing_key, TopicSettings("max" if note.sign < 0 else "min"))
        found: tuple[Topic, ...] = (topic,)
    else:
        try:
            found = find_topics(state, note.exchange, note.routing_key, body.encoded_headers)
        except CommandRefused:
            return ()
    passed = _passed(note)
    if len(passed) > MAX_PASSED or len(found) > state.settings.fanout:
        return ()
    return tuple(topic for topic in found if topic.number not in passed) if passed else found


def _passed(note: DeathNote) -> tuple[int, ...]:
    """The topics that the message must not enter."""
    if note.reason in (deaths.REJECTED, deaths.DELIVERY_LIMIT):
        return ()
    body = note.message.body
    return (*(body.passed if type(body) is Content else ()), note.topic_number)


def _publish(state: State, note: DeathNote, body: Content, topics: tuple[Topic, ...]) -> None:
    """Puts the dead letter into these topics. Drops the message if there is none."""
    message = note.message
    origin = state.topics_by_number.get(note.topic_number)
    counts = state.series.rest if origin is None else origin.counts
    state.units += DEAD_LETTER_UNITS
    if not topics:
        drop_message(state, message)
        state.dropped += 1
        counts.dropped += 1
        return
    counts.dead_lettered[note.reason] = counts.dead_lettered.get(note.reason, 0) + 1
    state.dead_lettered += 1
    state.message_bytes -= len(message.body)
    if type(message) is SharedMessage or type(message.body) is Content:
        uncount_extras(state, message)
    if state.views:
        keep_message_bytes(state, message.id, DROPPED_BYTES)
    new = NewMessage(b"", message.rank * note.sign)  # the payload is in the body
    kind = SharedMessage if len(topics) > 1 else Message
    for topic in topics:
        add(state, topic, new, body, kind)


def _header_units(note: DeathNote) -> int:
    """Units for headers that have to be decoded, because they may tell of an earlier death."""
    body = note.message.body
    if type(body) is not Content or _PREFIX not in body.encoded_headers:
        return 0
    return count_headers(body.encoded_headers) // HEADERS_PER_BATCH_UNIT


def _dead_body(note: DeathNote) -> Content:
    body = note.message.body
    content = body if type(body) is Content else Content(body, b"", "")  # type: ignore[arg-type]
    own, before = content.encoded_headers, None
    if _PREFIX in own:
        headers = decode_headers(own)
        own, before = encode_headers(without_death(headers)), headers
    encoded = _joined(own, _death_headers(note, before or {}))
    return Content(content.payload, encoded, content.key, _passed(note))


def _death_headers(note: DeathNote, before: dict[str, HeaderValue]) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the encoded value of each header of a death, the most needed first. `before`: the headers of
    an earlier death. Yields the history several times, each time a shorter one."""
    earlier = death_of(before)
    first: tuple[HeaderValue, ...] = (note.topic, note.reason, note.died_ms)
    count = 1
    history: tuple[PastDeath, ...] = ()
    if earlier is not None:
        count, history = max(1, earlier.count) + 1, earlier.history
        if earlier.first_reason:
            first = (earlier.first_topic, earlier.first_reason, earlier.first_time_ms)
    values: list[HeaderValue] = [note.reason, note.topic, note.died_ms, note.message.attempts, count]
    for name, value in zip(deaths.DEATH_HEADERS, values, strict=False):
        yield name, encode(value)
    if note.error:
        yield deaths.ERROR, encode(note.error)
    for name, value in zip((deaths.FIRST_TOPIC, deaths.FIRST_REASON, deaths.FIRST_TIME_MS), first, strict=True):
        yield name, encode(value)
    told = _told(note, history)
    for length in range(len(told), 0, -1):
        yield deaths.HISTORY, encode(encode_history(told[:length]))


def _told(note: DeathNote, history: tuple[PastDeath, ...]) -> tuple[PastDeath, ...]:
    """The history with this death, which comes first."""
    same = next((one for one in history if (one.topic, one.reason) == (note.topic, note.reason)), None)
    others = tuple(one for one in history if one is not same)
    count, first_ms = (same.count, same.first_ms) if same is not None else (0, note.died_ms)
    return (PastDeath(note.topic, note.reason, count + 1, first_ms, note.died_ms), *others)[:HISTORY_MAX]


def _joined(own: bytes, more: Iterator[tuple[str, bytes]]) -> bytes:
    """Headers and those of a death behind them, as many as there is room for. The own headers are not decoded."""
    count = count_headers(own) if own else 0
    pairs = [own[_MAP_BYTES.get(own[0], 1) :]] if own else []
    room = HEADERS_BYTES_MAX - sum(map(len, pairs)) - _MAP_BYTES[_MAP16]
    added: dict[str, None] = {}
    for name, value in more:
        pair = _ENCODED_NAMES[name] + value
        if name not in added and len(pair) <= room and count < HEADERS_MAX:
            pairs.append(pair)
            added[name] = None
            room -= len(pair)
            count += 1
    if not added:
        return own
    start = bytes([_FIXMAP | count]) if count <= _FIXMAP_MAX else bytes([_MAP16]) + count.to_bytes(2, "big")
    return start + b"".join(pairs)
