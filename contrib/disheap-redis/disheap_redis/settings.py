"""The settings of the storage, and the bounds that nobody has to set."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SNAPSHOTS = 2
"""Generations kept; a follower may still be fetching the older."""
CHUNK_BYTES = 256 << 10
"""How much of a snapshot one field holds, before the codec."""
HELD_RETRY_S = 0.5
"""A process that was killed holds its lock until Redis has noticed."""
LOOK_EVERY_S = 1.0
"""Between two looks at what the server says of its memory and its settings."""
LOADING_S = 60.0
"""A Redis that has just started reads its file. So long it is waited for."""


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the storage `redis`, from the table `[storage.redis]`."""

    url: Annotated[
        str, Meta(min_length=1, max_length=4096, description="redis://, rediss:// or unix://, as redis-py reads it")
    ] = "redis://localhost:6379/0"
    prefix: Annotated[
        str, Meta(min_length=1, max_length=200, description="of all keys; nodes that share a Redis need one each")
    ] = "disheap"
    durability: Annotated[
        Literal["fsync", "server"],
        Meta(description="fsync: the server has to sync each write; server: whatever the server does is enough"),
    ] = "fsync"
    timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="for one command; a Redis that does not answer stops the node")
    ] = 10.0  # an fsync of a busy disk takes a second; a node that waits longer is of no use to its group
