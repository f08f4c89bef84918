"""Lets log time pass on the leader (docs/explanation/architecture.md, "Time").

Entries carry time with them. When nothing else is proposed, the leader proposes a Continue: at once while the machine
has postponed work, and when its earliest timer is due. One is under way at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from disheap.interfaces import Clock, StateMachine
from disheap.runtime.clocks.log_clock import LogClock


class Timekeeper:
    """The log time of one group. Does nothing before `begin`. `propose_continue` puts a Continue into the log."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop, propose_continue: Callable[[], None]) -> None:
        self._log_clock = LogClock(clock)
        self.now_ms = self._log_clock.now_ms
        """Returns log time in milliseconds. Of use on the leader only."""
        self._loop = loop
        self._propose_continue = propose_continue
        self._leads = False
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_ms: int | None = None

    def begin(self, last_time_ms: int, follows_wall: bool) -> int:
        """This node leads from now on. Returns by how many milliseconds log time jumps."""
        self._leads, self._under_way = True, False
        return self._log_clock.begin_term(last_time_ms, follows_wall)

    def follow_wall(self, follows_wall: bool) -> None:
        """Whether log time is slewed towards the wall clock from now on."""
        self._log_clock.follows_wall = follows_wall

    def end(self) -> None:
        """This node leads no more, or stops."""
        self._leads = False
        self._cancel()

    def applied(self, machine: StateMachine) -> None:
        """Entries were applied, and log time has passed with them. Plan the next Continue by what the machine waits
        for."""
        self._under_way = False
        if not self._leads:
            return
        if machine.backlog():
            self._go_on()
        else:
            self._wait_for(machine.next_deadline())

    def _wait_for(self, deadline_ms: int | None) -> None:
        if deadline_ms == self._deadline_ms:
            return
        self._cancel()
        if deadline_ms is not None:
            self._deadline_ms = deadline_ms
            wait_s = max(0.0, (deadline_ms - self._log_clock.now_ms()) / 1000)
            self._timer = self._loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        deadline_ms, self._timer, self._deadline_ms = self._deadline_ms, None, None
        if deadline_ms is not None and self._log_clock.now_ms() < deadline_ms:
            self._wait_for(deadline_ms)  # log time is slewed and may run a little behind the loop's
        else:
            self._go_on()

    def _go_on(self) -> None:
        if not self._under_way:
            self._under_way = True
            self._propose_continue()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._deadline_ms = None, None
