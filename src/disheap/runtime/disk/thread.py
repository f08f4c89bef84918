"""The thread that storage runs on. Owns the order of blocking work. Does not know what the work is.

Jobs run one after another in the order given. Each ends in a call on the loop's thread. So the state of the node is
changed by one thread alone. A job may run on the loop's thread itself while no other is under way (`run_now`). The way
to the thread and back costs more than a short write. `loop_writes` says when. A disk that fails ends the node, whoever
asked and whether or not anybody still waits for the answer (storage-rules 6). `FailStopDisk` sees to that, in the one
place that every job goes through.

A plain queue and a thread cost half of what an executor's futures do, and this hop is in every commit.
A simulator replaces this class by one that runs the job when virtual time says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from disheap.errors import DiskFailed, StorageFull
from disheap.interfaces import Storage
from disheap.logs import get_logger

PATIENCE_S = 10.0
"""A node that stops waits so long for its disk. It is far longer than any sync, and shorter than the time after which
service managers kill."""

ROOM_RETRY_S = 0.5
"""Between two attempts on a full disk."""

log = get_logger(__name__)
T = TypeVar("T")
Job = tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]


class Disk(Protocol):
    """Runs a replica's work on its storage, one job after the other."""

    def submit(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> None:
        """Run `work` after all work submitted before, then `done(result, error)` on the loop; on an error the result is
        None."""

    def run_now(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> bool:
        """Run `work` on the loop's thread and call `done`, both before this returns. Returns False, and does neither,
        while another job is queued or under way, or its `done` has not been called yet."""

    async def close(self) -> None:
        """Finish what was submitted, then end. `done` is called for none of it afterwards."""


class FailStopDisk:
    """Reports a failure of the disk to `failed`, before the caller's `done` gets it."""

    def __init__(self, disk: Disk, failed: Callable[[DiskFailed], None]) -> None:
        self._disk = disk
        self._failed = failed

    def submit(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> None:
        """As `Disk.submit`. A failure of the disk is told to `failed` first."""
        self._disk.submit(work, self._heard(done))

    def run_now(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> bool:
        """As `Disk.run_now`. A failure of the disk is told to `failed` first."""
        return self._disk.run_now(work, self._heard(done))

    def _heard(self, done: Callable[[T, BaseException | None], None]) -> Callable[[T, BaseException | None], None]:
        def heard(result: T, error: BaseException | None) -> None:
            if isinstance(error, DiskFailed):
                self._failed(error)
            done(result, error)

        return heard

    async def close(self) -> None:
        """As `Disk.close`."""
        await self._disk.close()


class WatchedDisk:
    """A disk that reports its callers' mistakes. What `done` raises goes to `fail`, and not only to the loop's log
    while the node goes on without what should have been done. If the work runs at once, it reaches the caller."""

    def __init__(self, disk: Disk, fail: Callable[[BaseException], None]) -> None:
        self._disk = disk
        self._fail = fail

    def submit(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> None:
        """As `Disk.submit`. What `done` raises goes to `fail`."""
        self._disk.submit(work, self._watched(done))

    def run_now(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> bool:
        """As `Disk.run_now`. Raises what `done` raises."""
        return self._disk.run_now(work, done)

    def _watched(self, done: Callable[[T, BaseException | None], None]) -> Callable[[T, BaseException | None], None]:
        def watched(result: T, error: BaseException | None) -> None:
            try:
                done(result, error)
            except BaseException as failure:
                self._fail(failure)

        return watched

    async def close(self) -> None:
        """As `Disk.close`."""
        await self._disk.close()


class DiskThread:
    """A `Disk` with a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "disheap-disk") -> None:
        """What is logged on the thread has the fields of the place where this is called: `logs.log_fields`."""
        self._loop = loop
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._under_way = 0  # jobs whose `done` was not called yet
        self._closed = False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> None:
        """As `Disk.submit`. There is no bound on what waits: callers have bounds of their own."""
        self._under_way += 1
        self._jobs.put((work, done))

    def run_now(self, work: Callable[[], T], done: Callable[[T, BaseException | None], None]) -> bool:
        """As `Disk.run_now`."""
        if self._under_way or self._closed:
            return False
        self._under_way += 1
        self._finish(done, *_outcome(work))
        return True

    async def close(self) -> None:
        """As `Disk.close`."""
        self._closed = True
        self._jobs.put(None)
        await self._ended.wait()
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            outcome = _outcome(work)
            if not self._closed:
                self._tell(self._finish, done, *outcome)
        self._tell(self._ended.set)

    def _finish(
        self, done: Callable[[Any, BaseException | None], None], result: Any, error: BaseException | None
    ) -> None:
        self._under_way -= 1
        done(result, error)

    def _tell(self, callback: Callable[..., None], *outcome: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the node has stopped without waiting for us
            self._loop.call_soon_threadsafe(callback, *outcome)


def _outcome(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except BaseException as failure:
        return None, failure


async def run_on(disk: Disk, work: Callable[[], T]) -> T:
    """Runs `work` on the disk and waits for its result."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: T, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    disk.submit(work, done)
    return await future


async def retry_while_full(step: Callable[[], Awaitable[T]], group: int) -> T:
    """Await `step()`; while the disk is full, try it again until there is room."""
    is_said = False
    while True:
        try:
            return await step()
        except StorageFull as error:
            if not is_said:
                log.error("the disk is full: the log cannot be opened or repaired yet", group=group, reason=str(error))
                is_said = True
            await asyncio.sleep(ROOM_RETRY_S)


async def close_patiently(disk: Disk, storage: Storage | None, failed: Callable[[BaseException], None]) -> None:
    """Close both, but do not wait for ever: a disk that hangs must not keep the process. Errors in closing are reported
    to `failed`, because they may mean that a write was lost."""
    patience_s = PATIENCE_S
    try:
        if storage is not None:
            async with asyncio.timeout(patience_s):
                await run_on(disk, storage.close)
    except TimeoutError:
        failed(
            DiskFailed(
                f"the disk has not answered for {patience_s:g} s, and the node stops without closing its files. What "
                "was acknowledged is on it; look at the disk (the kernel's log) before the node is started again"
            )
        )
        patience_s = 0.0
    except Exception as error:
        failed(error)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await disk.close()
