"""Queries: linearizable reads that are not logged. Their answers are in `replies`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker.fields import PAGE_ROWS, Record


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

decode_query: msgspec.msgpack.Decoder[Query] = msgspec.msgpack.Decoder(Query)
