"""Writes to the log, one write at a time. A write that finds the disk full is repeated.

Owns the `Write` that the kernel has handed out. A full disk is waited for (storage-rules 9). Storage has left nothing
of the attempt, so the same write is repeated until there is space. Any other error ends the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from disheap.errors import StorageFull
from disheap.interfaces import Clock, LoopAppending, Storage
from disheap.kernel.types import Message, Write
from disheap.logs import get_logger
from disheap.runtime.disk.loop_writes import LoopWrites
from disheap.runtime.disk.thread import ROOM_RETRY_S, Disk
from disheap.runtime.replica.recovery import save_new_voters

log = get_logger(__name__)


class Writer:
    """`written(write, held)` is called when a write is durable, `failed(error)` when it cannot be. `took` is told the
    seconds of each write of entries."""

    def __init__(
        self,
        storage: Storage,
        disk: Disk,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        written: Callable[[Write, tuple[Message, ...]], None],
        failed: Callable[[BaseException], None],
        group: int = 0,
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._storage = storage
        self._disk = disk
        self._loop = loop
        self._clock = clock
        self._loop_writes = LoopWrites(clock)
        self._append_on_loop = storage.append_on_loop if isinstance(storage, LoopAppending) else None
        self._done = written
        self._failed = failed
        self._group = group
        self._took = took
        self._write: Write | None = None
        self._held: tuple[Message, ...] = ()
        self._since = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a write is under way."""
        return self._write is not None

    def busy_s(self) -> float:
        """For how long the present write has been under way; 0 without one."""
        return self._clock.monotonic() - self._since if self._write is not None else 0.0

    def start(self, write: Write, held: tuple[Message, ...], may_block: bool = False) -> None:
        """`held` are the messages that wait for it. The write may be made on this thread if the loop `may_block`."""
        assert self._write is None, "one write at a time"
        self._write, self._held, self._since = write, held, self._clock.monotonic()
        if not (may_block and self._write_on_loop(write)):
            self._submit(write)

    def close(self) -> None:
        """Ignore the write that is under way, and do not repeat it."""
        self._is_closed = True
        if self._again is not None:
            self._again.cancel()

    def _submit(self, write: Write) -> None:
        storage, clock = self._storage, self._clock

        def work() -> float:
            began = clock.monotonic()
            if write.hard_state is not None:
                storage.save_hard_state(write.hard_state)
            save_new_voters(storage, write.entries)
            if write.entries:
                storage.append(write.entries)
            return clock.monotonic() - began

        self._disk.submit(work, self._finished)

    def _write_on_loop(self, write: Write) -> bool:
        append, clock, began = self._append_on_loop, self._clock, self._since
        if append is None or write.hard_state is not None or not self._loop_writes.allows(write.entries):
            return False  # a membership is not allowed: the voters are written, too

        def work() -> float:
            append(write.entries)
            return clock.monotonic() - began

        return self._disk.run_now(work, self._finished)

    def _finished(self, took_s: float | None, error: BaseException | None) -> None:
        write, held = self._write, self._held
        assert write is not None
        if self._is_closed:
            return
        if isinstance(error, StorageFull):
            self._wait_for_room(write, error)
        elif error is not None:
            self._failed(error)
        else:
            if self._again is not None:
                self._again = None
                log.warning("there is room on the disk again; the node goes on", group=self._group)
            self._write, self._held = None, ()
            self._loop_writes.took(took_s or 0.0)
            if write.entries:
                self._took(took_s or 0.0)
            self._done(write, held)

    def _wait_for_room(self, write: Write, error: StorageFull) -> None:
        if self._again is None:
            log.error("the node waits for room on its disk", group=self._group, reason=str(error))
        self._again = self._loop.call_later(ROOM_RETRY_S, lambda: self._submit(write))
