"""Replies to commands, and answers to queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from disheap.errors import TopicFull
from disheap.protocol.broker.commands import TopicSettings
from disheap.protocol.broker.fields import Record, Token
from disheap.protocol.broker.message import PeekedMessage
from disheap.protocol.broker.pushes import ConsumerEnded, Deliver, PopDone, ValueSet


class Done(Record, tag=64, frozen=True):
    """The command was carried out."""


class Enqueued(Record, tag=65, frozen=True):
    """The number of the message."""

    id: int


class EnqueuedMany(Record, tag=66, frozen=True):
    """The numbers of the messages: first, first + 1, and so on."""

    first: int
    count: int


class Published(Record, tag=67, frozen=True):
    """How many topics took the message, and how many refused it because they are full or paused."""

    routed: int
    refused: int = 0


class Subscribed(Record, tag=68, frozen=True):
    """The number of the consumer or the pop. It is never used again."""

    consumer: int


class Settled(Record, tag=69, frozen=True):
    """How many leases were settled. `stale`: the tokens that named no lease of this session. Nothing happened to
    them."""

    count: int
    stale: list[Token]


class Removed(Record, tag=70, frozen=True):
    """How many messages were dropped."""

    count: int


if TYPE_CHECKING:
    SeenSettings = TopicSettings
else:

    class SeenSettings(TopicSettings, frozen=True, forbid_unknown_fields=False):
        """The settings in a reply: a client reads over what nodes of a later version add."""


class Holder(Record, frozen=True):
    """A consumer or a pop that holds `leased` messages of a topic, and the session it belongs to."""

    session: int
    consumer: int
    leased: int


class TopicInfo(Record, tag=71, frozen=True):
    """One topic: its settings, its messages by state, its consumers, and the bytes of the ready ones. `created`:
    this very command created it. `oldest_enqueued_ms`: of the message that is next; 0 if there is none.
    `holders`: who holds the leased messages, the oldest consumer first, as far as the query asked for them. `revision`:
    it grows with each change of the settings. `deliveries_paused`, `enqueues_paused`: see `PauseTopic`."""

    topic: str
    settings: SeenSettings
    ready: int
    delayed: int
    leased: int
    consumers: int
    ready_bytes: int
    created: bool = False
    oldest_enqueued_ms: int = 0
    holders: list[Holder] = msgspec.field(default_factory=list)
    revision: int = 1
    deliveries_paused: bool = False
    enqueues_paused: bool = False


class TopicInfos(Record, tag=72, frozen=True):
    """One page of topics. `total`: how many there are with the prefix after `after`, on this page and on later ones."""

    topics: list[TopicInfo]
    total: int


class Peeked(Record, tag=73, frozen=True):
    """The messages, in the order of delivery."""

    messages: list[PeekedMessage]


class Browsed(Record, tag=86, frozen=True):
    """The messages, in the order of their ids. `after`: where the next page goes on; 0 if this was the last one. A page
    may have few messages, or none, although more follow."""

    messages: list[PeekedMessage]
    after: int = 0


class Explained(Record, tag=87, frozen=True):
    """One message and its surroundings. `state`: "ready", "delayed", "leased" or "frozen" (a transaction has prepared
    its ack). It is "" if the topic has no message of that id. `ahead`: the ready messages that come before it; 0
    unless it is ready. `consumers`: those of the topic, pops included. `receiving`: those of them that can receive a
    message now. `lease_until_ms`: when its lease ends; 0 if it lasts as long as the session. `connected`: whether the
    session that holds it has a connection. `message` is None for "frozen" and for "". `deliveries_paused`: of the
    topic."""

    state: str
    time_ms: int
    ready: int
    consumers: int
    receiving: int
    ahead: int = 0
    expires_at_ms: int = 0
    lease_until_ms: int = 0
    connected: bool = False
    message: PeekedMessage | None = None
    deliveries_paused: bool = False


class Stats(Record, tag=74, frozen=True):
    """Counts over the whole machine. `pops` are those that wait. `time_ms` is the cluster's time. `prepared` messages
    and `frozen` ones wait for the decision on `transactions`. `forwarding`: decisions, and questions for them, that
    other groups have not confirmed. `value_bytes`: of all values with their keys."""

    topics: int
    exchanges: int
    bindings: int
    consumers: int
    ready: int
    delayed: int
    leased: int
    message_bytes: int
    time_ms: int
    pops: int = 0
    transactions: int = 0
    prepared: int = 0
    frozen: int = 0
    forwarding: int = 0
    values: int = 0
    value_bytes: int = 0
    watches: int = 0
    barriers: int = 0


class ExchangeInfos(Record, tag=75, frozen=True):
    """Exchanges as [exchange, kind], bindings as [exchange, topic, routing key, arguments] with the arguments as in
    `Bind`. `total`: the rows of both kinds, over all pages. `alternates`: from each listed exchange that has an
    alternate to that alternate."""

    exchanges: list[tuple[str, str]]
    bindings: list[tuple[str, str, str, bytes]]
    total: int = 0
    alternates: dict[str, str] = msgspec.field(default_factory=dict)

    def joined(self, page: ExchangeInfos) -> ExchangeInfos:
        """Returns this page and the next one as one."""
        return ExchangeInfos(
            self.exchanges + page.exchanges,
            self.bindings + page.bindings,
            page.total,
            self.alternates | page.alternates,
        )


class Resumed(Record, tag=76, frozen=True):
    """The reply to an ATTACH: every lease of the session that the client did not name. Those that do not fit follow as
    pushes. `ended`: the pops and consumers that have ended. A `PopDone` says 0 here, because the count is not kept."""

    deliveries: list[Deliver]
    ended: list[PopDone | ConsumerEnded]


class Batched(Record, tag=77, frozen=True):
    """All items of a `Batch` took effect. Each has a number here. Of an `Enqueue` it is the id of the message, and of a
    `Publish` how many topics took it. Of an `Ack` or a `Nack` it is how many leases were settled."""

    results: list[int]


class Committed(Record, tag=78, frozen=True):
    """A transaction is committed. The numbers of its messages: first, first + 1, and so on."""

    first: int
    count: int


class TransactionInfo(Record, frozen=True):
    """A transaction that waits for its decision. `session` prepared it. `deadline_ms`: when it is aborted, in the
    cluster's time; 0 for never. `messages` and `bytes` are prepared, and `frozen` leased messages wait with them.
    `participants` and `coordinator` are those of its `Prepare`."""

    transaction: str
    epoch: int
    session: int
    prepared_ms: int
    deadline_ms: int
    messages: int
    bytes: int
    frozen: int
    participants: list[int] = msgspec.field(default_factory=list)
    coordinator: int = -1


class TransactionInfos(Record, tag=79, frozen=True):
    """One page of open transactions, the oldest first. `total`: how many there are. `outcome`: of a transaction that
    was asked for by its name and is not open, "committed" or "aborted", or "" if it is not known. `first` and `count`:
    the numbers of the messages of a committed one, as in `Committed`."""

    transactions: list[TransactionInfo]
    total: int
    outcome: str = ""
    first: int = 0
    count: int = 0


class Stored(Record, tag=82, frozen=True):
    """Whether the value was stored; False if the one that is there is never replaced. `arrived` and `size` are those of
    the barrier, as in `BarrierInfo`; 0 without a barrier, or if it is closed or unknown."""

    is_stored: bool
    arrived: int = 0
    size: int = 0


class Values(Record, tag=83, frozen=True):
    """The values that are there, in the order of the keys that were named, as many as fit. `left`: the keys of those
    that did not fit. A key without a value is in neither."""

    values: list[ValueSet]
    left: list[str]


class BarrierInfo(Record, tag=84, frozen=True):
    """`arrived` of `size` parts are there; a size of 0 is not known yet. A barrier is complete when all have arrived.
    Then its message, if it has one, was published."""

    arrived: int
    size: int
    is_complete: bool
    is_closed: bool


class Part(Record, frozen=True):
    """One part of a barrier: its key, its order, and its value; None if the value was dropped since."""

    key: str
    order: int
    value: bytes | None


class Parts(Record, tag=85, frozen=True):
    """One page of the parts of a barrier, in the order of their arrival. A barrier that is closed or unknown has no
    parts. `left`: how many follow this page."""

    parts: list[Part]
    left: int
    info: BarrierInfo


Reply = (
    Done
    | Enqueued
    | EnqueuedMany
    | Published
    | Subscribed
    | Settled
    | Removed
    | TopicInfo
    | TopicInfos
    | Peeked
    | Browsed
    | Explained
    | Stats
    | ExchangeInfos
    | Resumed
    | Batched
    | Committed
    | TransactionInfos
    | Stored
    | Values
    | BarrierInfo
    | Parts
)

decode_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def check_routed(reply: Published) -> int:
    """Returns how many topics took the message of a `Publish`. Raises `TopicFull` if some of them refused it."""
    if reply.refused:
        raise TopicFull(
            f"{reply.refused} of {reply.refused + reply.routed} topics are full or paused and refused the message. "
            "The others have it, and a publish that is tried again goes to those twice"
        )
    return reply.routed
