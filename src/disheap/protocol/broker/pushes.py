"""Pushes: what a node sends about a consumer or a pop without a request."""

from __future__ import annotations

import msgspec

from disheap.protocol.broker.fields import Record


class Deliver(Record, tag=96, frozen=True):
    """One message for a consumer or a pop, under one lease. Its token is [id, epoch]. `lease_until_ms` is 0 if the
    lease ends with the session. With no_ack the epoch is 0 and there is no lease. The id is 0 as well if the message
    passed by the leader without the log (a transient one). `enqueued_ms`: when the message was
    first put into its topic. Times are those of the cluster. `attempts`: how often the message was delivered, this time
    included, without deliveries that were released; above 1 it is redelivered. Headers and key are those of
    `NewMessage`."""

    consumer: int
    id: int
    epoch: int
    priority: int
    enqueued_ms: int
    payload: bytes
    lease_until_ms: int = 0
    attempts: int = 1
    encoded_headers: bytes = b""
    key: str = ""


class PopDone(Record, tag=97, frozen=True):
    """A pop has ended, after so many deliveries. `consumer` is the number of the pop."""

    consumer: int
    delivered: int


class ConsumerEnded(Record, tag=98, frozen=True):
    """A consumer has ended, because its topic was deleted or taken over. `reason` is for people."""

    consumer: int
    reason: str


ConsumerPush = Deliver | PopDone | ConsumerEnded
"""The pushes that concern a consumer or a pop, and say its number."""


class ValueSet(Record, tag=99, frozen=True):
    """A watched key has a value. A value that is too long for a push is None here: `GetValues` has it. `stage` is that
    of the `SetValue`. Above 0 the watch has ended."""

    key: str
    value: bytes | None
    stage: int


Push = ConsumerPush | ValueSet

decode_push: msgspec.msgpack.Decoder[Push] = msgspec.msgpack.Decoder(Push)
