"""The machine's bounds: the table `[machine.heap]`.

They decide what is refused, and a refusal is the same on every replica: all nodes of a cluster have the same values.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker import BATCH_MAX

MAX_DELIVERIES_PER_CALL = 512
"""Deliveries that one call may set off, over all topics; the rest is postponed. About two milliseconds."""

MAX_PUSH_BYTES_PER_CALL = 8 << 20
"""Payload that one call may push, and one message more; the rest is postponed. Some 4 ms of copying."""

MAX_RETURNS_PER_CALL = 250
"""Leases that one call may give back, over all consumers; the rest is postponed. About half a millisecond, for many
sessions may end in one entry."""

MAX_RESENT_PER_REPLY = 5_000
"""Leases in the reply to an ATTACH; the rest is pushed in slices. Five milliseconds."""

MAX_SCANNED_PER_CALL = 20_000
"""Leases that one ATTACH compares with what the client has, and those of one consumer more; the rest is postponed.
Three milliseconds, and ten more."""

LEASES_PER_UNIT = 8
"""Leases that are compared for one unit of work: 1 us."""

MAX_END_UNITS_PER_CALL = 250
"""Units of ending a session that one call may do, over all sessions: consumers, their leases, the topics that go. The
rest is postponed. About a millisecond, and one topic more."""

STEPS_PER_UNIT = 16
"""Steps of routing that count as one unit of work: 5 us."""

WORDS_PER_UNIT = 4
"""Words of a pattern that count as one unit more of a bind or an unbind: 3 us."""

MAX_ANSWER_BYTES = 1 << 20
"""Payload bytes in one reply or answer: half a client's frame, so that it always fits."""

POP_MAX = BATCH_MAX
"""Messages in one Pop: as many as may come in with one EnqueueMany."""


class HeapSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the machine `heap`, from the table `[machine.heap]`."""

    payload_bytes: Annotated[int, Meta(ge=1, le=64 << 20, description="of one message, at most")] = 8 << 20
    """The largest payload, which the node's other limits follow. A message goes through log, network and disk as one
    piece: 8 MiB holds up the loop for some 10 ms, and a 1 Gbit/s link for 70."""
    topics: Annotated[int, Meta(ge=1, le=10_000_000, description="that exist at once")] = 100_000
    """An empty topic takes about 2 KB, so the default is some 200 MB at worst."""
    session_topics: Annotated[int, Meta(ge=1, le=1_000_000, description="exclusive to one session")] = 1000
    """They are deleted with it, in 20 ms. A Celery worker and a client that waits for results have one or two."""
    consumers: Annotated[int, Meta(ge=1, le=10_000_000, description="and waiting pops, over all topics")] = 100_000
    """Consumers and waiting pops, over all topics; about 1 KB each."""
    topic_consumers: Annotated[int, Meta(ge=1, le=1_000_000, description="and waiting pops of one topic")] = 10_000
    """Ending 10,000 takes 11 ms, when the topic is deleted or taken over. A topic that more share is better split."""
    session_consumers: Annotated[int, Meta(ge=1, le=100_000, description="and waiting pops of one session")] = 10_000
    """All are looked at when the session attaches and when it ends: 5 ms. A Celery worker has two or three."""
    exchanges: Annotated[int, Meta(ge=1, le=1_000_000, description="that exist at once")] = 10_000
    """Far beyond any routing that people draw up by hand."""
    bindings: Annotated[int, Meta(ge=1, le=10_000_000, description="over all exchanges")] = 100_000
    """About 500 bytes each."""
    topic_bindings: Annotated[
        int, Meta(ge=1, le=1_000_000, description="of one topic, and of a session's exclusive topics")
    ] = 5_000
    """Removing 5,000 takes 20 ms, when the topic is deleted or the session ends. An exchange may have as many as there
    are."""
    fanout: Annotated[int, Meta(ge=1, le=1_000_000, description="that one publish may reach")] = 10_000
    """A message of its own in each takes 1 to 3 us and 500 bytes: up to 30 ms and 5 MB by default. A publish that leads
    to more is refused."""
    pattern_words: Annotated[int, Meta(ge=1, le=255, description="in one pattern of a topic exchange")] = 128
    """As many as fit into AMQP's 255 bytes."""
    pattern_bytes: Annotated[int, Meta(ge=1, le=1020, description="of one pattern of a topic exchange")] = 255
    """AMQP's bound on a routing key."""
    pattern_nodes: Annotated[
        int, Meta(ge=1, le=100_000_000, description="of the tries that hold the patterns of all topic exchanges")
    ] = 500_000
    """Patterns that begin with the same words share those. A node takes up to 350 bytes, so the default is 175 MB at
    worst."""
    routing_steps: Annotated[
        int, Meta(ge=100, le=10_000_000, description="of matching one key against the patterns of a topic exchange")
    ] = 10_000
    """About 3 ms. A key of five words takes at most a few hundred, whatever is bound; only long keys and thousands of
    patterns made of wildcards reach the bound. Such a publish is refused."""
    credit_bytes: Annotated[
        int,
        Meta(ge=1, le=1 << 40, description="of payload that a consumer holds, where it names no bound"),
    ] = 16 << 20
    """Payload bytes that a consumer may hold where it names no bound of its own."""
