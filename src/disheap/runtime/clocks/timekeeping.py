"""The log time of one group (docs/explanation/architecture.md, "Time").

Owns the time of the newest entry, and whether our wall clock may move log time (`clock_check` judges it). Lets log time
pass on the leader. Entries carry time with them. When nothing else is proposed, the leader proposes a Continue: at once
while the machine has postponed work, and when its earliest timer is due. One is under way at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from disheap.interfaces import Clock, StateMachine
from disheap.kernel.types import NodeId
from disheap.runtime.clocks.clock_check import ClockCheck, ClockWatch
from disheap.runtime.clocks.log_clock import LogClock


class Timekeeper:
    """The log of `group` ends at `newest_ms`. `propose_continue` puts a Continue into it."""

    def __init__(
        self,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        check: ClockCheck,
        newest_ms: int,
        propose_continue: Callable[[], None],
        group: int = 0,
    ) -> None:
        self._log_clock = LogClock(clock)
        self.now_ms = self._log_clock.now_ms
        """Returns log time in milliseconds. Of use on the leader only."""
        self._check = check
        self._watch = ClockWatch(clock, check, group)
        self._newest_ms = newest_ms
        check.seen(newest_ms)
        self._loop = loop
        self._propose_continue = propose_continue
        self._leads = False
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_ms: int | None = None

    def appended(self, time_ms: int) -> None:
        """An entry of that time is in the log, or in the snapshot that replaces it."""
        self._newest_ms = max(self._newest_ms, time_ms)
        self._check.seen(self._newest_ms)

    def begin(self, voters: Sequence[NodeId]) -> int:
        """This node leads from now on. Returns by how many milliseconds log time jumps. It jumps to a wall clock only
        if that is believed. It was when this node asked for votes, but may have been set since."""
        self._leads, self._under_way = True, False
        is_believed = not self._check.objection(voters)
        return self._log_clock.begin_term(self._newest_ms, is_believed, self._check.others_ms(voters))

    def judge_clock(self, voters: Sequence[NodeId]) -> bool:
        """Returns whether our clock is believed, so that this node may ask to lead. On the leader, log time follows a
        clock that is right. Called on every tick."""
        is_believed = not self._watch.objects(voters)
        if self._leads:
            self._log_clock.follows_wall = self._check.is_right(voters)
        return is_believed

    @property
    def objection(self) -> str:
        """Why our clock is not believed, once that has lasted; "" otherwise."""
        return self._watch.objection

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
