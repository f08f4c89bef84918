"""Commands of the `heap` machine. They go into the log, and each has one reply."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker.fields import (
    BATCH_MAX,
    HELD_MAX,
    NAMED_MAX,
    CreditGroup,
    Duration,
    Exact,
    Name,
    Token,
)
from disheap.protocol.broker.message import NewMessage


class Enqueue(Exact, tag=1, frozen=True):
    """Put one message into a topic. `priority` is checked by the machine (`PriorityOutOfRange`). `delay_ms`: not to be
    delivered before. `expires_ms`: dropped when not delivered within (0: never). Reply: `Enqueued`."""

    topic: str
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


class Held(Exact, frozen=True):
    """The body of an ATTACH: the tokens that the client holds, the tickets of pops that it waits for, and its
    consumers; those of the latter two that are no more come back in `Resumed.ended`. A lease that is not named is
    delivered again, and a client that holds it passes over that. So one that holds more than `HELD_MAX` names some."""

    tokens: Annotated[list[Token], Meta(max_length=HELD_MAX)]
    tickets: Annotated[list[int], Meta(max_length=NAMED_MAX)] = msgspec.field(default_factory=list)
    consumers: Annotated[list[int], Meta(max_length=NAMED_MAX)] = msgspec.field(default_factory=list)


decode_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
decode_held: msgspec.msgpack.Decoder[Held] = msgspec.msgpack.Decoder(Held)
