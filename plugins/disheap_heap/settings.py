"""The machine's bounds: the table `[machine.heap]`.

They decide what is refused, and a refusal is the same on every replica: all nodes of a cluster have the same values.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker import BATCH_MAX

SERVE_AT_ONCE = 512
"""Deliveries that one call may set off, over all topics; the rest is postponed. About two milliseconds."""

RETURN_AT_ONCE = 250
"""Leases that one call may give back, over all consumers; the rest is postponed. About half a millisecond, for many
sessions may end in one entry."""

ANSWER_BYTES = 1 << 20
"""Payload bytes in one reply or answer: half a client's frame, so that it always fits."""

POP_MAX = BATCH_MAX
"""Messages in one Pop: as many as may come in with one EnqueueMany."""


class HeapSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload_bytes: Annotated[int, Meta(ge=1, le=64 << 20, description="of one message, at most")] = 1 << 20
    """The largest payload. A message is copied through log, network and disk as one piece; 1 MiB is some 8 ms of it."""
    topics: Annotated[int, Meta(ge=1, le=10_000_000, description="that exist at once")] = 100_000
    """An empty topic takes about 2 KB, so the default is some 200 MB at worst."""
    consumers: Annotated[int, Meta(ge=1, le=10_000_000, description="and waiting pops, over all topics")] = 100_000
    """Consumers and waiting pops, over all topics; about 1 KB each."""
    exchanges: Annotated[int, Meta(ge=1, le=1_000_000, description="that exist at once")] = 10_000
    """Far beyond any routing that people draw up by hand."""
    bindings: Annotated[int, Meta(ge=1, le=10_000_000, description="over all exchanges")] = 100_000
    """A publish to a topic exchange whose key was not seen lately looks at each of its bindings."""
    credit_bytes: Annotated[
        int,
        Meta(ge=1, le=1 << 40, description="of payload that a consumer holds, where it names no bound"),
    ] = 16 << 20
    """Payload bytes that a consumer may hold where it names no bound of its own."""
