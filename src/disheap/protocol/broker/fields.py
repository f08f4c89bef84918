"""Bounds, field types, and the two base classes of every record.

Bounds: priorities are signed 64-bit, durations are milliseconds below 2**47 (some 4,400 years), names are 1 to 255
characters, without control characters and invisible ones.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

PRIORITY_MIN, PRIORITY_MAX = -(1 << 63), (1 << 63) - 1
DURATION_MAX_MS = (1 << 47) - 1
NAME_CHARACTERS = 255
OVERFLOWS = ("reject", "drop")  # a new message is refused, or the least of the ready ones goes
EXCHANGE_KINDS = ("direct", "topic", "fanout", "headers")
DELIVERY_LIMIT_MAX = (1 << 31) - 1  # counted deliveries of a message
ERROR_CHARACTERS = 1024  # of the error that a Nack tells: the end of a traceback
CREDIT_MAX = 65_535  # unacknowledged deliveries of one consumer; AMQP's own bound, and what "prefetch 0" means here
CREDIT_BYTES_MAX = 1 << 40  # the same in bytes of payload, headers and key: no bound, for whoever counts messages alone
CREDIT_GROUP_MAX = (1 << 31) - 1  # the number of a group of consumers that share their credit
CREDIT_GROUP_CONSUMERS_MAX = 256  # in one group: each delivery that uses the credit up, or frees it, looks at all
ID_MAX = (1 << 62) - 1  # of a message
PAGE_ROWS = 1000  # topics, exchanges or bindings in one answer: at most half a megabyte of names
HOLDERS_MAX = 100  # consumers that hold messages, in one answer: as many as a person reads
BATCH_MAX = 10_000  # messages in one EnqueueMany, consumers in one Recover
BATCH_PARTS_MAX = 1_500  # messages for a topic, and tokens, of one Batch: it takes 38 ms at worst
TOKENS_MAX = 2_500  # in one Ack, Nack or Extend: each lease may be in another topic, and has timers of its own
EPOCH_MAX = (1 << 62) - 1  # of a transaction
GROUPS_MAX = 64  # of a cluster: a group has a number below
HELD_MAX = 50_000  # leases that one ATTACH names: they are read in one step, in 15 ms
HEADERS_BYTES_MAX = 16 << 10  # of one message, encoded
HEADERS_MAX = 256  # of one message: they are checked in 0.1 ms
BATCH_HEADERS_MAX = 20_000  # of one EnqueueMany, over all its messages: they are checked in 10 ms
ARGUMENTS_MAX = 16  # of one binding: 5,000 bindings of a topic are removed in one step
ARGUMENTS_BYTES_MAX = 4 << 10  # of one binding, encoded: there may be 100,000 bindings
KEY_BYTES_MAX = 255  # in UTF-8: a name of somebody or something, of which there may be millions
KEYS_MAX = 1_000  # values that one command or query names: each is looked up, in 1 ms together
PARTS_PAGE = 1_000  # parts of a barrier in one answer
STAGE_INTERIM, STAGE_DONE, STAGE_FINAL = 0, 1, 2  # of a value: more follows; an outcome; one that is never replaced
CHANGES_MAX = 64  # settings that one UpdateTopic names
NAMED_MAX = 200_000  # pops that one ATTACH names, and likewise consumers: read in 5 ms

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)]
Duration = Annotated[int, Meta(ge=0, le=DURATION_MAX_MS)]
Epoch = Annotated[int, Meta(ge=1, le=EPOCH_MAX)]
Group = Annotated[int, Meta(ge=0, lt=GROUPS_MAX)]
Stage = Annotated[int, Meta(ge=STAGE_INTERIM, le=STAGE_FINAL)]
Keys = Annotated[list[Name], Meta(min_length=1, max_length=KEYS_MAX)]
Changes = Annotated[
    dict[
        Annotated[str, Meta(max_length=NAME_CHARACTERS)],
        bool | int | Annotated[str, Meta(max_length=NAME_CHARACTERS)],
    ],
    Meta(max_length=CHANGES_MAX),
]
"""New values of settings, by the names of their fields."""
CreditGroup = Annotated[int, Meta(ge=0, le=CREDIT_GROUP_MAX)]
Token = tuple[int, int]
"""A lease: (message id, epoch). The epoch grows with each lease granted on the message; a token of an older one is
stale."""


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What everything here is: an immutable array."""


class Exact(Record, frozen=True, forbid_unknown_fields=True):
    """What goes into the log, with no field more than this version knows. Unknown fields could be nested so deep that
    one replica has the stack for them and another has not. Then the replicas would differ. A field that only some
    replicas understand makes them differ anyway, which is what `machine_version` is for."""


encode = msgspec.msgpack.Encoder().encode
