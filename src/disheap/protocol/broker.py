"""The broker's vocabulary: what `heap` and its clients say to each other (docs/reference/topics-and-messages.md).

Each command, reply, push and query is a msgspec struct, encoded as a msgpack array whose first element is its tag. New
fields go to the end with a default; tags are never used again. The runtime never imports this module.

Bounds: priorities are signed 64-bit, durations are milliseconds below 2**47 (some 4,400 years), names are 1 to 255
characters, without control characters and invisible ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

from disheap.errors import TopicFull

PRIORITY_MIN, PRIORITY_MAX = -(1 << 63), (1 << 63) - 1
DURATION_MAX_MS = (1 << 47) - 1
NAME_CHARACTERS = 255
OVERFLOWS = ("reject", "drop")  # a new message is refused, or the least of the ready ones goes
EXCHANGE_KINDS = ("direct", "topic", "fanout")
CREDIT_MAX = 65_535  # unacknowledged deliveries of one consumer; AMQP's own bound, and what "prefetch 0" means here
CREDIT_BYTES_MAX = 1 << 40  # the same in bytes of payload: no bound, for whoever counts messages alone
CREDIT_GROUP_MAX = (1 << 31) - 1  # the number of a group of consumers that share their credit
CREDIT_GROUP_CONSUMERS_MAX = 256  # in one group: each delivery that uses the credit up, or frees it, looks at all
PAGE_ROWS = 1000  # topics, exchanges or bindings in one answer: at most half a megabyte of names
BATCH_MAX = 10_000  # messages in one EnqueueMany, tokens in one Ack

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)]
Duration = Annotated[int, Meta(ge=0, le=DURATION_MAX_MS)]
CreditGroup = Annotated[int, Meta(ge=0, le=CREDIT_GROUP_MAX)]
Token = tuple[int, int]
"""A lease: (message id, epoch). The epoch counts the leases granted on the message; a token of an older one is
stale."""


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What everything here is: an immutable array."""


class Exact(Record, frozen=True, forbid_unknown_fields=True):
    """What goes into the log, with no field more than this version knows. Fields read over could be nested so deep that
    one replica has the stack for it and another has not, and they would part; and a field that only some replicas
    understand parts them anyway, which is what `machine_version` is for."""


# --- commands (into the log) -----------------------------------------------------------------------------------------


class Enqueue(Exact, tag=1, frozen=True):
    """Put one message into a topic. `priority` is checked by the machine (`PriorityOutOfRange`). `delay_ms`: not to be
    delivered before. `expires_ms`: dropped when not delivered within (0: never). Reply: `Enqueued`."""

    topic: str
    payload: bytes
    priority: int = 0
    delay_ms: int = 0
    expires_ms: int = 0


class NewMessage(Exact, frozen=True):
    payload: bytes
    priority: int = 0
    delay_ms: int = 0
    expires_ms: int = 0


class EnqueueMany(Exact, tag=2, frozen=True):
    """All or none. Reply: `EnqueuedMany`."""

    topic: str
    messages: Annotated[list[NewMessage], Meta(min_length=1, max_length=BATCH_MAX)]


class Publish(Exact, tag=3, frozen=True):
    """Route one message through an exchange ("" is the default exchange: the routing key is the topic's name). Reply:
    `Published`; with `mandatory`, nothing matched is `TopicNotFound`."""

    exchange: str
    routing_key: str
    payload: bytes
    priority: int = 0
    delay_ms: int = 0
    expires_ms: int = 0
    mandatory: bool = False


class Subscribe(Exact, tag=4, frozen=True):
    """A consumer of a topic for this session. `credit`: most unacknowledged deliveries (1 to CREDIT_MAX).
    `credit_bytes`: the same in payload bytes (up to CREDIT_BYTES_MAX), 0 for the machine's bound; one message always
    passes. `no_ack`: deliveries are acknowledged inside apply. `lease_ms`: 0 for as long as the session lives.
    `exclusive`: no other consumer. `group`: consumers of this session with the same number, 1 or more, share one
    credit, which is then set to this one. Between their topics the one served longest ago goes first. Reply:
    `Subscribed`."""

    topic: str
    credit: int
    credit_bytes: int = 0
    no_ack: bool = False
    lease_ms: Duration = 0
    exclusive: bool = False
    group: CreditGroup = 0


class SetCredit(Exact, tag=5, frozen=True):
    """Of a consumer, or, where `group` is not 0, of that group; `consumer` is 0 then. Reply: `Done`."""

    consumer: int
    credit: int
    credit_bytes: int = 0
    group: CreditGroup = 0


class Cancel(Exact, tag=6, frozen=True):
    """End a consumer (or a Pop's ticket). `give_back`: what it holds goes back at once; otherwise it keeps its leases
    until each is settled (AMQP's rule). Reply: `Done`."""

    consumer: int
    give_back: bool = False


class Pop(Exact, tag=7, frozen=True):
    """Up to `count` messages: those that are there, then those that come within `wait_ms`. Reply: `Subscribed` (the
    ticket); `Deliver` pushes; `PopDone`."""

    topic: str
    count: int = 1
    wait_ms: Duration = 0
    lease_ms: Duration = 0
    no_ack: bool = False


class Ack(Exact, tag=8, frozen=True):
    """Settle leases of this session. Stale tokens do nothing. Reply: `Settled`."""

    tokens: Annotated[list[Token], Meta(min_length=1, max_length=BATCH_MAX)]


class Nack(Exact, tag=9, frozen=True):
    """Give leases back: to their old place, or after `delay_ms`; with `discard` the messages are dropped (later:
    dead-lettered). Reply: `Settled`."""

    tokens: Annotated[list[Token], Meta(min_length=1, max_length=BATCH_MAX)]
    delay_ms: Duration = 0
    discard: bool = False


class Extend(Exact, tag=10, frozen=True):
    """Leases end `lease_ms` from now (0: with the session). Reply: `Settled`."""

    tokens: Annotated[list[Token], Meta(min_length=1, max_length=BATCH_MAX)]
    lease_ms: Duration = 0


class TopicSettings(Exact, frozen=True):
    """`mode` "max": the largest priority first; "min": the smallest. 0 means no limit. `message_ttl_ms` is the expiry
    of messages that bring none. `expires_ms`: deleted after so long without consumers, pops or re-declaration.
    `auto_delete`: deleted when the last consumer that it had is gone. `exclusive`: owned by the creating session,
    deleted with it. `overflow`: what a full topic does, one of `OVERFLOWS`."""

    mode: str = "max"
    max_messages: Annotated[int, Meta(ge=0)] = 0
    message_ttl_ms: Duration = 0
    expires_ms: Duration = 0
    auto_delete: bool = False
    exclusive: bool = False
    overflow: str = "reject"


class CreateTopic(Exact, tag=11, frozen=True):
    """Idempotent: the same settings again are fine (and for an exclusive topic whose owner has no live connection: it
    is taken over); others are `TopicMismatch`; owned by another connected session: `TopicLocked`.
    Reply: `TopicInfo`."""

    topic: Name
    settings: TopicSettings = TopicSettings()


class DeleteTopic(Exact, tag=12, frozen=True):
    """Its consumers get `ConsumerEnded`. Reply: `Removed`."""

    topic: str
    if_unused: bool = False
    if_empty: bool = False


class Purge(Exact, tag=13, frozen=True):
    """Drop every ready and delayed message; leased ones stay. Reply: `Removed`."""

    topic: str


class CreateExchange(Exact, tag=14, frozen=True):
    """`kind`: one of `EXCHANGE_KINDS`. Idempotent; another kind is `ExchangeMismatch`. `auto_delete`: deleted
    with its last binding. `alternate`: the exchange that gets what leads nowhere here, by the same key. It need not be
    there yet. Reply: `Done`."""

    exchange: Name
    kind: str = "direct"
    auto_delete: bool = False
    alternate: str = ""


class DeleteExchange(Exact, tag=15, frozen=True):
    """Bindings go with it. No such exchange is fine. Reply: `Done`."""

    exchange: str
    if_unused: bool = False


class Bind(Exact, tag=16, frozen=True):
    """Reply: `Done`."""

    exchange: str
    topic: str
    routing_key: str = ""


class Unbind(Exact, tag=17, frozen=True):
    """Reply: `Done`."""

    exchange: str
    topic: str
    routing_key: str = ""


class Recover(Exact, tag=18, frozen=True):
    """Give back everything that these consumers hold (AMQP's basic.recover with requeue). Reply: `Done`."""

    consumers: Annotated[list[int], Meta(max_length=BATCH_MAX)]


Command = (
    Enqueue
    | EnqueueMany
    | Publish
    | Subscribe
    | SetCredit
    | Cancel
    | Pop
    | Ack
    | Nack
    | Extend
    | CreateTopic
    | DeleteTopic
    | Purge
    | CreateExchange
    | DeleteExchange
    | Bind
    | Unbind
    | Recover
)

# --- replies ---------------------------------------------------------------------------------------------------------


class Done(Record, tag=64, frozen=True):
    pass


class Enqueued(Record, tag=65, frozen=True):
    id: int


class EnqueuedMany(Record, tag=66, frozen=True):
    """Ids are consecutive: first, first + 1, ..."""

    first: int
    count: int


class Published(Record, tag=67, frozen=True):
    """Into how many topics it went; and how many refused it because they are full, while others took it."""

    routed: int
    refused: int = 0


class Subscribed(Record, tag=68, frozen=True):
    """The consumer's number; never used again."""

    consumer: int


class Settled(Record, tag=69, frozen=True):
    """`stale`: the tokens that named no live lease of this session; nothing happened to them."""

    count: int
    stale: list[Token]


class Removed(Record, tag=70, frozen=True):
    """How many messages went."""

    count: int


if TYPE_CHECKING:
    SeenSettings = TopicSettings
else:

    class SeenSettings(TopicSettings, frozen=True, forbid_unknown_fields=False):
        """The settings in a reply: a client reads over what nodes of a later version add."""


class TopicInfo(Record, tag=71, frozen=True):
    topic: str
    settings: SeenSettings
    ready: int
    delayed: int
    leased: int
    consumers: int
    ready_bytes: int
    created: bool = False  # by this very command
    oldest_enqueued_ms: int = 0  # of the message next in turn; 0 when there is none


class TopicInfos(Record, tag=72, frozen=True):
    topics: list[TopicInfo]
    total: int


class Peeked(Record, tag=73, frozen=True):
    messages: list[PeekedMessage]


class PeekedMessage(Record, frozen=True):
    """`state`: "ready", "delayed" or "leased"; `due_ms`: when it is (delayed) due, 0 otherwise."""

    id: int
    priority: int
    attempts: int
    enqueued_ms: int
    state: str
    due_ms: int
    payload: bytes


class Stats(Record, tag=74, frozen=True):
    """Counts over the whole machine. `consumers` are subscriptions, `pops` those that wait."""

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


class ExchangeInfos(Record, tag=75, frozen=True):
    """(exchange, kind) and (exchange, topic, routing key). `total`: rows of both kinds that there are, over all pages.
    `alternates`: of the exchanges listed that have one."""

    exchanges: list[tuple[str, str]]
    bindings: list[tuple[str, str, str]]
    total: int = 0
    alternates: dict[str, str] = {}

    def joined(self, page: ExchangeInfos) -> ExchangeInfos:
        """This and the page that follows it."""
        return ExchangeInfos(
            self.exchanges + page.exchanges,
            self.bindings + page.bindings,
            page.total,
            self.alternates | page.alternates,
        )


class Resumed(Record, tag=76, frozen=True):
    """The reply to an ATTACH: every lease of the session that it did not name as held (those that do not fit the reply
    follow as pushes), and the pops and consumers of which nothing more will come (a `PopDone` says 0 here: the count is
    not kept)."""

    deliveries: list[Deliver]
    ended: list[PopDone | ConsumerEnded]


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
    | Stats
    | ExchangeInfos
    | Resumed
)

# --- pushes ----------------------------------------------------------------------------------------------------------


class Deliver(Record, tag=96, frozen=True):
    """One message for a consumer. (id, epoch) is its token, and the epoch also counts the attempts. `lease_until_ms`
    is 0 when the lease ends with the session; a no-ack delivery has epoch 0 and no lease."""

    consumer: int
    id: int
    epoch: int
    priority: int
    enqueued_ms: int
    payload: bytes
    lease_until_ms: int = 0


class PopDone(Record, tag=97, frozen=True):
    """Nothing more will come for the ticket. `delivered` says how many came."""

    consumer: int
    delivered: int


class ConsumerEnded(Record, tag=98, frozen=True):
    """The topic was deleted, or taken over; `reason` is for people."""

    consumer: int
    reason: str


Push = Deliver | PopDone | ConsumerEnded

# --- queries (not logged; linearizable) ------------------------------------------------------------------------------


class Peek(Record, tag=128, frozen=True):
    """The next `count` messages of a topic in delivery order, ready ones first; nothing changes. `delayed` and `leased`
    add those after. Answer: `Peeked`."""

    topic: str
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    delayed: bool = False
    leased: bool = False


class DescribeTopic(Record, tag=129, frozen=True):
    """Answer: `TopicInfo`. With `require_access` a topic that is exclusive to another session is `TopicLocked`."""

    topic: str
    require_access: bool = False


class ListTopics(Record, tag=130, frozen=True):
    """In name order, after `after`, with `prefix`. Answer: `TopicInfos`."""

    prefix: str = ""
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS)] = PAGE_ROWS


class GetStats(Record, tag=131, frozen=True):
    """Answer: `Stats`."""


class ListExchanges(Record, tag=132, frozen=True):
    """All exchanges, or the one named, each followed by its bindings. One row each, the oldest first: `skip` rows are
    left out, then at most `limit` are told. Pages of different moments may miss or repeat a row. Answer:
    `ExchangeInfos`."""

    exchange: str = ""
    skip: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS)] = PAGE_ROWS


Query = Peek | DescribeTopic | ListTopics | GetStats | ListExchanges


class Held(Exact, frozen=True):
    """The body of an ATTACH: the tokens that the client holds, the tickets of pops that it waits for, and its
    consumers; those of the latter two that are no more come back in `Resumed.ended`."""

    tokens: list[Token]
    tickets: list[int] = []
    consumers: list[int] = []


T = TypeVar("T")
encode = msgspec.msgpack.Encoder().encode
decode_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
decode_query: msgspec.msgpack.Decoder[Query] = msgspec.msgpack.Decoder(Query)
decode_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
decode_push: msgspec.msgpack.Decoder[Push] = msgspec.msgpack.Decoder(Push)
decode_held: msgspec.msgpack.Decoder[Held] = msgspec.msgpack.Decoder(Held)


def check_routed(reply: Published) -> int:
    """Into how many topics a publish went. Raises `TopicFull` where some of them refused it."""
    if reply.refused:
        raise TopicFull(
            f"{reply.refused} of {reply.refused + reply.routed} topics are full and refused the message; the others "
            "have it, and a publish that is tried again goes to those twice"
        )
    return reply.routed
