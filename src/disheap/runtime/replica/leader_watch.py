"""Waiting for a leader: until one is known, until another node leads, and until a transfer has ended. Does not decide
who leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from disheap.errors import DisheapError, RequestTimeout
from disheap.kernel.types import NOBODY, NodeId
from disheap.logs import get_logger
from disheap.runtime.replica.group import Group

log = get_logger(__name__)


class LeaderWatch:
    """`group` returns the replica's present group, `label` a member's name."""

    def __init__(self, number: int, group: Callable[[], Group], label: Callable[[NodeId], str]) -> None:
        self._number = number
        self._group = group
        self._label = label
        self._changed = asyncio.Event()
        self._ticks = 0

    def note_change(self) -> None:
        """Another node leads, or nobody is known to: all who wait look again."""
        self._changed.set()

    def tick(self) -> None:
        """Every `tick_ms`, after the kernel's tick: that one may have given up a transfer."""
        self._ticks += 1
        self._changed.set()

    async def wait_for_leader(self, timeout_s: float) -> str:
        """See `Node.wait_for_leader`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._can_be_asked():
                    await self._wait_change()
        except TimeoutError:
            raise RequestTimeout(f"no leader within {timeout_s} s; is a majority of the members running?") from None
        return self._label(self._group().leader)

    async def wait_for_another_leader(self) -> None:
        """Returns when another node leads the group, however long that takes."""
        while not self._has_another_leader():
            await self._wait_change()

    async def wait_for_transfer(self, election_ticks: int) -> bool:
        """Returns True when another node leads. Returns False when this one goes on to lead, or when nobody is known to
        lead so many ticks after it stepped down. Time is counted in ticks, as the kernel counts it. After a stall of
        the loop the clock says that it is late, though the transfer is still under way and may succeed."""
        began = self._ticks
        while not self._has_another_leader():
            group = self._group()
            if not group.is_running:
                return False
            if group.raft.is_leader:
                if group.raft.transferee == NOBODY:
                    return False
                began = self._ticks
            elif self._ticks - began >= election_ticks:
                return False
            await self._wait_change()
        return True

    async def hand_over(self, timeout_s: float) -> None:
        """Hand leadership to the member that is best up to date, and wait for it to lead. Raises nothing: what goes
        wrong is logged, and the others elect a leader."""
        try:
            self._group().transfer(NOBODY)
            async with asyncio.timeout(timeout_s):
                await self.wait_for_another_leader()
        except TimeoutError:
            log.warning("leadership was not taken over in time; the others will elect", group=self._number)
        except DisheapError as error:
            log.warning(
                "leadership cannot be handed over; the others will elect", group=self._number, reason=str(error)
            )

    def _has_another_leader(self) -> bool:
        return not self._group().leads and self._group().leader != NOBODY

    def _can_be_asked(self) -> bool:
        """Whether a leader is known. If it is this node, its server knows that, too, and takes commands."""
        group = self._group()
        return group.leader != NOBODY and group.leads == group.raft.is_leader

    async def _wait_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
