"""Replies to commands, and answers to queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from disheap.errors import TopicFull
from disheap.protocol.broker.commands import TopicSettings
from disheap.protocol.broker.fields import Record, Token
from disheap.protocol.broker.message import PeekedMessage
from disheap.protocol.broker.pushes import ConsumerEnded, Deliver, PopDone


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
    alternates: dict[str, str] = msgspec.field(default_factory=dict)

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

decode_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def check_routed(reply: Published) -> int:
    """Into how many topics a publish went. Raises `TopicFull` where some of them refused it."""
    if reply.refused:
        raise TopicFull(
            f"{reply.refused} of {reply.refused + reply.routed} topics are full and refused the message; the others "
            "have it, and a publish that is tried again goes to those twice"
        )
    return reply.routed
