"""The limits of the machine: the table `[machine.heap]`, and constants that bound the work of one call.

They decide what is refused, and a refusal must be the same on every replica. So all nodes of a cluster have the same
values.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker import BATCH_MAX

MAX_DELIVERIES_PER_CALL = 512
"""Deliveries in one call, over all topics. The rest is postponed. About two milliseconds."""

BYTES_PER_RECORD = 64 << 10
"""Bytes of a payload that take as long to free as one record."""

FREED_BYTES_PER_CALL = 32 << 20
"""Bytes of dropped payloads that one call frees, and one message more: 2 ms. The rest is freed as postponed work. It
decides nothing that can be seen."""

MAX_PUSH_BYTES_PER_CALL = 8 << 20
"""Payload bytes that one call pushes, and one message more. The rest is postponed. About 4 ms of copying."""

MAX_RETURNS_PER_CALL = 250
"""Leases that one call gives back, over all consumers. The rest is postponed. About half a millisecond: many sessions
may end in one entry."""

MAX_TRIMMED_PER_CALL = 250
"""Messages that the change of a topic's settings drops at once because they are too many. The rest is postponed. About
a millisecond."""

MAX_DEAD_LETTER_UNITS_PER_CALL = 250
"""Units of dead letters that one call publishes: some 50 of them. The rest is postponed. About a millisecond: many
sessions may end in one entry."""

DEAD_LETTER_UNITS = 4
"""Units of work to make a dead letter, beside those for each topic that it reaches: 15 us."""

MAX_RESENT_PER_REPLY = 5_000
"""Leases in the reply to an ATTACH. The rest is pushed in slices. Five milliseconds."""

MAX_SCANNED_PER_CALL = 20_000
"""Leases that one ATTACH compares with those that the client has, and those of one consumer more. The rest is
postponed. Three milliseconds, and up to ten more."""

LEASES_PER_UNIT = 8
"""Leases that are compared for one unit of work, which takes 1 us."""

MAX_END_UNITS_PER_CALL = 250
"""Units of ending sessions in one call: their topics, consumers and leases. The rest is postponed. About a millisecond,
and one topic more."""

STEPS_PER_UNIT = 16
"""Steps of routing for one unit of work, which takes 5 us."""

HEADERS_PER_UNIT = 16
"""Headers that are checked for one unit of work: 5 us."""

UNITS_PER_PART = 4
"""Units of work for a message or a token of a `Batch`: 15 us at worst, when a full topic drops another message."""

HEADERS_PER_BATCH_UNIT = 4
"""Headers of a message of a `Batch` for one unit: 4 us."""

MESSAGES_PER_ABORT_UNIT = 16
"""Prepared messages that an abort drops for one unit of work, 3 us."""

INQUIRE_AFTER_MS = 5_000
"""How long a participant waits for a decision before it asks for it. It has to ask only if the coordinator's group has
lost the decision, or never had it."""

INQUIRE_PAUSE_MAX_MS = 60_000
"""The pause between two questions doubles up to this. An answer that is missing is not late: the coordinator's group
sends its decision by itself, as soon as it has one."""

WORDS_PER_UNIT = 4
"""Words of a pattern for one more unit of a bind or an unbind, which takes 3 us."""

KEYS_PER_UNIT = 4
"""Keys that are looked up, watched or unwatched for one unit of work, which takes 2 us."""

PARTS_PER_UNIT = 64
"""Parts of a barrier that are freed for one unit of work, which takes 3 us."""

PUSHED_VALUE_BYTES_MAX = 64 << 10
"""A longer value is not in the push to those who watch its key. They ask for it, and so it takes room in their
connections only when they read."""

ARGUMENTS_PER_ANSWER = 512 << 10
"""Bytes of arguments in one list of bindings. The names beside them take as much at most."""

MAX_ANSWER_BYTES = 1 << 20
"""Payload bytes in one reply or answer. It is half of a client's frame, so that the reply always fits."""

POP_MAX = BATCH_MAX
"""Messages in one Pop, as many as in one EnqueueMany."""


class HeapSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the machine `heap`, from the table `[machine.heap]`."""

    payload_bytes: Annotated[int, Meta(ge=1, le=64 << 20, description="of one message, at most")] = 8 << 20
    """The largest payload. Other limits of the node follow from it. A message goes through log, network and disk in one
    piece. 8 MiB blocks the loop for about 10 ms, and a 1 Gbit/s link for 70 ms."""
    topics: Annotated[int, Meta(ge=1, le=10_000_000, description="that exist at once")] = 100_000
    """An empty topic takes about 2 KB, so the default is some 200 MB at worst."""
    session_topics: Annotated[int, Meta(ge=1, le=1_000_000, description="exclusive to one session")] = 1000
    """They are deleted with the session, in 20 ms. A Celery worker has one or two, and so has a client that waits for
    results."""
    consumers: Annotated[int, Meta(ge=1, le=10_000_000, description="and waiting pops, over all topics")] = 100_000
    """Consumers and waiting pops, over all topics; about 1 KB each."""
    topic_consumers: Annotated[int, Meta(ge=1, le=1_000_000, description="and waiting pops of one topic")] = 10_000
    """When the topic is deleted or taken over, 10,000 of them end in 11 ms."""
    session_consumers: Annotated[int, Meta(ge=1, le=100_000, description="and waiting pops of one session")] = 10_000
    """When the session attaches and when it ends, all of them are visited, in 5 ms. A Celery worker has two or
    three."""
    exchanges: Annotated[int, Meta(ge=1, le=1_000_000, description="that exist at once")] = 10_000
    """About 500 bytes each. It is far more than an application configures."""
    bindings: Annotated[int, Meta(ge=1, le=10_000_000, description="over all exchanges")] = 100_000
    """About 500 bytes each."""
    topic_bindings: Annotated[
        int, Meta(ge=1, le=1_000_000, description="of one topic, and of a session's exclusive topics")
    ] = 5_000
    """When the topic is deleted or the session ends, 5,000 of them are removed in 30 ms. A binding counts once more for
    each four words of its pattern, and for each four arguments. An exchange has no limit of its own."""
    fanout: Annotated[int, Meta(ge=1, le=1_000_000, description="that one publish may reach")] = 2_500
    """The message in each topic takes 2 us, and up to 12 us if it expires and the topic drops another one. So a publish
    takes 40 ms at most by default, and 2 MB. A publish to more topics is refused."""
    pattern_words: Annotated[int, Meta(ge=1, le=255, description="in one pattern of a topic exchange")] = 128
    """As many as fit into AMQP's 255 bytes."""
    pattern_bytes: Annotated[int, Meta(ge=1, le=1020, description="of one pattern of a topic exchange")] = 255
    """AMQP's bound on a routing key."""
    pattern_nodes: Annotated[
        int, Meta(ge=1, le=100_000_000, description="of the indexes of all topic and headers exchanges")
    ] = 500_000
    """Patterns that begin with the same words share nodes, and so do arguments that all have to match. A node takes up
    to 350 bytes, so the default is 175 MB at worst."""
    routing_steps: Annotated[
        int, Meta(ge=100, le=10_000_000, description="of matching one message in a topic or headers exchange")
    ] = 10_000
    """About 3 ms. A key of five words takes at most a few hundred steps, whatever is bound. Only long keys together
    with thousands of patterns of wildcards reach the limit. In a headers exchange, thousands of bindings that match
    the same message do. Such a publish is refused."""
    credit_bytes: Annotated[
        int,
        Meta(ge=1, le=1 << 40, description="of payload that a consumer holds, if it names no bound"),
    ] = 16 << 20
    """The bytes of payload that a consumer may hold, if it does not name a bound of its own."""
    transactions: Annotated[int, Meta(ge=1, le=100_000, description="that wait for their decision")] = 1_000
    """Prepared transactions. Each may hold as much as one batch."""
    session_transactions: Annotated[int, Meta(ge=1, le=100_000, description="that one session has prepared")] = 100
    """Prepared transactions of one session. So one client cannot use all of them up."""
    transaction_bytes: Annotated[
        int, Meta(ge=1, le=1 << 40, description="of prepared messages, over all transactions")
    ] = 64 << 20
    """The bytes of payload, headers and keys that wait for decisions."""
    outbox_messages: Annotated[
        int, Meta(ge=1, le=1_000_000, description="that wait for one other group, before PREPARE is refused")
    ] = 1_000
    """Decisions that another group has not confirmed; about 300 bytes each. They wait only while that group has no
    leader."""
    finished_transactions: Annotated[int, Meta(ge=1, le=1_000_000, description="whose outcome is remembered")] = 10_000
    """A decision that comes later than so many others is not recognized. About 300 bytes each."""
    values: Annotated[int, Meta(ge=1, le=1_000_000_000, description="that are stored at once")] = 10_000_000
    """Values under keys, such as results; some 300 bytes each beside their content. Memory is short before."""
    watches: Annotated[int, Meta(ge=1, le=100_000_000, description="of keys, over all sessions")] = 500_000
    """About 400 bytes each."""
    session_watches: Annotated[int, Meta(ge=1, le=1_000_000, description="of keys, by one session")] = 20_000
    """They end with the session, in slices. A client that waits for 10,000 results watches as many keys."""
    key_watches: Annotated[int, Meta(ge=1, le=100_000, description="of one key, over all sessions")] = 1_000
    """All of them are pushed the value in one step, in 2 ms."""
    barriers: Annotated[int, Meta(ge=1, le=10_000_000, description="that exist at once")] = 100_000
    """About 400 bytes each, without their messages and parts."""
    barrier_parts: Annotated[int, Meta(ge=1, le=1_000_000, description="that one barrier waits for")] = 100_000
    """When the barrier is closed, 100,000 parts are freed in 5 ms. About 110 bytes each."""
