"""Pushes: what a node sends about a consumer or a pop, unasked."""

from __future__ import annotations

import msgspec

from disheap.protocol.broker.fields import Record


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

decode_push: msgspec.msgpack.Decoder[Push] = msgspec.msgpack.Decoder(Push)
