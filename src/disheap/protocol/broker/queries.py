"""Queries: linearizable reads that are not logged. Their answers are in `replies`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker.fields import HOLDERS_MAX, ID_MAX, PAGE_ROWS, PARTS_PAGE, Keys, Name, Record


class Peek(Record, tag=128, frozen=True):
    """The next `count` messages of a topic, 1 to 1000. First come the ready ones, in the order of delivery. Then come
    the delayed and the leased ones. Each kind comes if it is asked for. Nothing changes. Answer: `Peeked`."""

    topic: str
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    delayed: bool = False
    leased: bool = False
    ready: bool = True


class Browse(Record, tag=136, frozen=True):
    """The messages of a topic in the order of their ids, from the first id after `after` on, at most `limit`. Each kind
    comes if it is asked for. A message keeps its id for life. So a message that stays comes on exactly one page,
    whatever else happens between two pages. Answer: `Browsed`."""

    topic: str
    after: Annotated[int, Meta(ge=0, le=ID_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS)] = PAGE_ROWS
    ready: bool = True
    delayed: bool = True
    leased: bool = True


class Explain(Record, tag=137, frozen=True):
    """Where one message of a topic is, and what is between it and a consumer. Answer: `Explained`."""

    topic: str
    id: Annotated[int, Meta(ge=1, le=ID_MAX)]


class DescribeTopic(Record, tag=129, frozen=True):
    """One topic. With `require_access` a topic that is exclusive to another session is `TopicLocked`. Answer:
    `TopicInfo`, with at most so many `holders`."""

    topic: str
    require_access: bool = False
    holders: Annotated[int, Meta(ge=0, le=HOLDERS_MAX)] = 0


class ListTopics(Record, tag=130, frozen=True):
    """Topics whose names begin with `prefix`, in the order of their names, from the first name after `after` on.
    Answer: `TopicInfos`."""

    prefix: str = ""
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS)] = PAGE_ROWS


class GetStats(Record, tag=131, frozen=True):
    """Counts over the whole machine. Answer: `Stats`."""


class ListExchanges(Record, tag=132, frozen=True):
    """All exchanges, or the one named, each followed by its bindings. Each is a row, the oldest first. `skip` rows are
    left out, and at most `limit` rows follow, fewer if the arguments of bindings are long. Pages of different moments
    may miss or repeat a row. Answer: `ExchangeInfos`."""

    exchange: str = ""
    skip: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS)] = PAGE_ROWS


class ListTransactions(Record, tag=133, frozen=True):
    """Open transactions, the oldest first, or the one named. `skip` of them are left out, and at most `limit` follow.
    Answer: `TransactionInfos`."""

    transaction: str = ""
    skip: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS)] = PAGE_ROWS


class GetValues(Record, tag=134, frozen=True):
    """The values under these keys. Answer: `Values`."""

    keys: Keys


class GetParts(Record, tag=135, frozen=True):
    """The parts of a barrier with their values, in the order of their arrival. `skip` of them are left out, and at most
    `limit` follow, fewer if their values are long. Answer: `Parts`."""

    barrier: Name
    skip: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    limit: Annotated[int, Meta(ge=1, le=PARTS_PAGE)] = PARTS_PAGE


Query = (
    Peek
    | Browse
    | Explain
    | DescribeTopic
    | ListTopics
    | GetStats
    | ListExchanges
    | ListTransactions
    | GetValues
    | GetParts
)

decode_query: msgspec.msgpack.Decoder[Query] = msgspec.msgpack.Decoder(Query)
