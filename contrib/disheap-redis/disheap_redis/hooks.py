"""What `disheap_redis` brings: the storage `redis`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_redis.storage import RedisStorage


@hookimpl
def disheap_register_storage() -> type[RedisStorage]:
    """The storage `redis`. Loaded when somebody asks for a storage."""
    from disheap_redis.storage import RedisStorage

    return RedisStorage
