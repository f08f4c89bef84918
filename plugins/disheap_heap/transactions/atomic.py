"""Several enqueues, publishes, settlements and closed barriers, all or nothing (`Batch`, and what a `Prepare` holds
back).

`check_items` checks every item and changes nothing. Its steps hold what was found: topics, bodies, leases, barriers. So
carrying them out cannot fail. An item sees what the items before it do to the limits of topics: an ack makes room for a
message of a later item. The topics are served when all items have taken effect, so a message of the batch cannot be
delivered before another one has its place.

The work of a batch is bounded by parts. A part is a message for one topic, or a token, and takes `UNITS_PER_PART`
units. Routing and headers are counted in the same units. The routes come from a cache that starts empty with the batch.
So the count is the same on every replica, whatever its own cache holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from disheap.errors import BarrierClosed, BatchTooLarge, CommandRefused, InvalidArgument, LeaseLost
from disheap.protocol.broker import (
    BATCH_PARTS_MAX,
    Ack,
    Batch,
    Batched,
    BatchItem,
    CloseBarrier,
    Enqueue,
    Nack,
    NewMessage,
    Publish,
    Token,
    count_headers,
)
from disheap_heap.commands.barriers import close, find_open
from disheap_heap.commands.checks import check_capacity, check_delayed_capacity, check_message, find_topic
from disheap_heap.commands.enqueue import check_found
from disheap_heap.commands.exchanges import find_topics
from disheap_heap.delivery.delivery import add, serve_all
from disheap_heap.delivery.leases import check_nack, settle
from disheap_heap.encoding import encode
from disheap_heap.settings import HEADERS_PER_BATCH_UNIT, PARTS_PER_UNIT, UNITS_PER_PART
from disheap_heap.state.messages import Body, Message, SharedMessage
from disheap_heap.state.routing import RouteCache
from disheap_heap.state.state import Lease, State, Topic
from disheap_heap.state.values import Barrier


class Addition(NamedTuple):
    """A message for these topics. `is_enqueue`: its result is the id of the message."""

    topics: Sequence[Topic]
    message: NewMessage
    body: Body
    is_enqueue: bool


class Settlement(NamedTuple):
    """Leases that are settled: acknowledged if `nack` is None."""

    leases: list[Lease]
    nack: Nack | None


class Closing(NamedTuple):
    """A barrier that is closed."""

    barrier: Barrier


Step = Addition | Settlement | Closing


def batch(state: State, session: int, command: Batch) -> bytes:
    """Carries out all items, or refuses. The reply has a number for each item."""
    steps = check_items(state, session, command.items)
    touched: dict[int, Topic] = {}
    results = [_carry_out(state, step, touched) for step in steps]
    serve_all(state, touched.values())
    return encode(Batched(results))


def check_items(state: State, session: int, items: Iterable[BatchItem]) -> list[Step]:
    """What each item does. Raises the `CommandRefused` of the first item that is refused. Its text names the item, and
    nothing was changed."""
    checks = _Checks(state, session)
    steps: list[Step] = []
    routes, state.routes = state.routes, RouteCache()
    try:
        for number, item in enumerate(items, 1):
            try:
                steps.append(checks.check(item))
            except CommandRefused as refusal:
                kind, place = type(item).__name__, f"item {number} of the batch"
                raise type(refusal)(f"{place}, {kind}: {refusal}. Nothing of the batch was done") from None
    finally:
        state.routes = routes
    return steps


class _Checks:
    """The checks of one batch, and what the items so far would do to the limits of topics. All counts are by number of
    the topic."""

    def __init__(self, state: State, session: int) -> None:
        self._state = state
        self._session = session
        self._parts = 0
        self._header_units = 0
        self._units_before = state.units
        self._messages: dict[int, int] = {}  # more than now
        self._delayed: dict[int, int] = {}  # more than now
        self._settled: dict[int, None] = {}  # ids of messages whose leases an item settles
        self._closed: dict[str, None] = {}  # barriers that an item closes

    def check(self, item: BatchItem) -> Step:
        """What the item does. Raises `CommandRefused`."""
        if isinstance(item, CloseBarrier):
            return self._closing(item)
        if isinstance(item, Ack | Nack):
            return self._settlement(item)
        return self._addition(item)

    def _addition(self, item: Enqueue | Publish) -> Addition:
        state, message = self._state, item.message
        topics = (find_topic(state, item.topic),) if isinstance(item, Enqueue) else self._routed(item)
        self._count(max(1, len(topics)))
        body = check_message(state, message)
        if message.encoded_headers:
            self._count_headers(message)
        for topic in topics:
            if topic.limits:
                self._check_capacity(topic, message)
        return Addition(topics, message, body, isinstance(item, Enqueue))

    def _routed(self, item: Publish) -> Sequence[Topic]:
        topics = find_topics(self._state, item.exchange, item.routing_key, item.message.encoded_headers)
        if len(topics) != 1:
            check_found(self._state, item, len(topics))
        return topics

    def _check_capacity(self, topic: Topic, message: NewMessage) -> None:
        number = topic.number
        messages, delayed = self._messages.get(number, 0), self._delayed.get(number, 0)
        is_delayed = message.delay_ms > 0
        check_capacity(topic, messages + 1)
        check_delayed_capacity(topic, delayed + 1 if is_delayed else 0)
        self._messages[number] = messages + 1
        self._delayed[number] = delayed + is_delayed

    def _settlement(self, item: Ack | Nack) -> Settlement:
        self._count(len(item.tokens))
        nack = item if isinstance(item, Nack) else None
        if nack is not None:
            check_nack(nack)
        leases = [self._held(token) for token in item.tokens]
        for lease in leases:
            number = lease.consumer.topic.number
            if nack is None or nack.discard:
                self._messages[number] = self._messages.get(number, 0) - 1
            elif nack.delay_ms:
                self._delayed[number] = self._delayed.get(number, 0) + 1
        return Settlement(leases, nack)

    def _closing(self, item: CloseBarrier) -> Closing:
        barrier = find_open(self._state, item.barrier)
        if item.barrier in self._closed:
            raise BarrierClosed(f"barrier {item.barrier!r} is closed by another part of the batch")
        self._closed[item.barrier] = None
        self._count(1 + len(barrier.parts) // (PARTS_PER_UNIT * UNITS_PER_PART))
        return Closing(barrier)

    def _held(self, token: Token) -> Lease:
        number, epoch = token
        lease = self._state.leases.get(number)
        if lease is None or lease.epoch != epoch or lease.consumer.session.number != self._session:
            raise LeaseLost(f"the lease [{number}, {epoch}] is no longer held by this session")
        if number in self._settled:
            raise InvalidArgument(f"the lease [{number}, {epoch}] is settled by another part of the batch")
        self._settled[number] = None
        return lease

    def _count(self, parts: int) -> None:
        self._parts += parts
        self._check_work()

    def _count_headers(self, message: NewMessage) -> None:
        self._header_units += count_headers(message.encoded_headers) // HEADERS_PER_BATCH_UNIT
        self._check_work()

    def _check_work(self) -> None:
        """Routing has counted its own units."""
        units = UNITS_PER_PART * self._parts + self._header_units + self._state.units - self._units_before
        if units > UNITS_PER_PART * BATCH_PARTS_MAX:
            raise BatchTooLarge(
                f"up to here the batch has {self._parts} parts, and its headers and routes take as much as "
                f"{units // UNITS_PER_PART - self._parts} more, over the limit of {BATCH_PARTS_MAX}. A part is a "
                "message for one topic, or a token. Send several batches"
            )


def _carry_out(state: State, step: Step, touched: dict[int, Topic]) -> int:
    """Carries out one step, and adds the topics to be served. Returns the result."""
    if isinstance(step, Settlement):
        touched.update(settle(state, step.leases, step.nack))
        return len(step.leases)
    if isinstance(step, Closing):
        return close(state, step.barrier)
    number, kind = 0, SharedMessage if len(step.topics) > 1 else Message
    for topic in step.topics:
        number = add(state, topic, step.message, step.body, kind)
        touched[topic.number] = topic
    return number if step.is_enqueue else len(step.topics)
