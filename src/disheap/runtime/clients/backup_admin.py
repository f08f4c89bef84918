"""Answers the requests of an operator who takes a backup: begin it, read it page by page, end it.

Only a leader begins one, after a majority has confirmed that it leads. So the backup holds everything that was
confirmed before. Any node goes on with what it has begun.
"""

from __future__ import annotations

import asyncio
from typing import Any

from disheap.errors import InvalidArgument, NotLeader, Overloaded
from disheap.runtime.clients.server import Server
from disheap.runtime.replica.group import Group

CONFIRM_TIMEOUT_S = 10.0
"""A majority confirms the leader in milliseconds, or another one leads."""


async def begin_backup(group: Group, server: Server, number: int) -> bool:
    """Returns whether its snapshot has begun. Raises `NotLeader` and `Overloaded`."""
    confirmed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def answer(is_leader: bool) -> None:
        if not confirmed.done():
            confirmed.set_result(is_leader)

    group.read(answer)
    try:
        async with asyncio.timeout(CONFIRM_TIMEOUT_S):
            is_leader = await confirmed
    except TimeoutError:
        raise Overloaded("no majority of the members has answered; look at `disheap status`, then try again") from None
    if not is_leader or not group.leads:
        raise NotLeader(server.leader_address())
    return group.backups.begin(number)


async def read_page(group: Group, request: dict[str, Any]) -> dict[str, Any]:
    """The next bytes of a backup. Without `ready`, its snapshot is still being written. Raises `BackupLost`,
    `InvalidArgument` and `Overloaded`."""
    offset = request.get("offset")
    if not isinstance(offset, int):
        raise InvalidArgument("`offset` is a number of bytes")
    page = await group.backups.read(_number_of(request), offset)
    if page.taken is None:
        return {"ready": False, "begun": page.has_begun, "written_bytes": page.written_bytes}
    meta = page.taken.meta
    return {
        "ready": True,
        "index": meta.index,
        "term": meta.term,
        "time_ms": meta.time_ms,
        "machine_version": page.taken.machine_version,
        "log_version": page.taken.log_version,
        "size_bytes": page.taken.size_bytes,
        "data": page.data,
        "is_last": page.is_last,
    }


def end_backup(group: Group, request: dict[str, Any]) -> dict[str, Any]:
    """Raises `InvalidArgument`."""
    group.backups.end(_number_of(request))
    return {}


def _number_of(request: dict[str, Any]) -> int:
    number = request.get("backup")
    if not isinstance(number, int):
        raise InvalidArgument("`backup` is the number that the request `backup` has returned")
    return number
