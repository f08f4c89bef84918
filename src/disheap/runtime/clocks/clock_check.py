"""Whether this node's wall clock may move log time (docs/explanation/architecture.md, "Time").

Log time that has jumped ahead cannot go back: it fires every delay and expiry on its way, and every later leader starts
from it. So a node whose clock is far ahead of the log does not lead, unless a majority of the members' clocks agree
with it. Then the cluster was down, or idle while it was restarted. A node that has run since the newest entry knows how
much time has passed since, and does not ask the members. A node that is alone cannot ask. It believes its clock up to
`max_downtime_ms` ahead of its log.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.interfaces import Clock
from disheap.kernel.quorum import majority
from disheap.kernel.types import NodeId
from disheap.logs import get_logger
from disheap.runtime.clocks.member_clocks import MemberClocks, span

log = get_logger(__name__)

OBJECTION_S = 5.0
"""A node that has just started may not know the others' clocks for so long. After that it logs it."""


class ClockCheck:
    """`seen` each newest entry of a group's log; then `objection` and `is_right` judge our own clock."""

    def __init__(
        self,
        clock: Clock,
        members: MemberClocks,
        own: NodeId,
        max_clock_jump_ms: int,
        max_downtime_ms: int,
    ) -> None:
        self._clock = clock
        self._own = own
        self._max_clock_jump_ms = max_clock_jump_ms
        self._max_downtime_ms = max_downtime_ms
        self._members = members
        self._seen_ms = 0
        self._seen_at = clock.monotonic()

    def seen(self, time_ms: int) -> None:
        """The time of the newest entry that is in the log here."""
        if time_ms > self._seen_ms:
            self._seen_ms, self._seen_at = time_ms, self._clock.monotonic()

    def ahead_ms(self) -> int:
        """Returns by how many milliseconds our clock is ahead of the expected log time, as far as this node can
        know."""
        passed_ms = (self._clock.monotonic() - self._seen_at) * 1000
        return self._clock.wall_ms() - self._seen_ms - int(passed_ms)

    def is_right(self, voters: Sequence[NodeId]) -> bool:
        """Whether log time should be brought closer to our clock."""
        return abs(self.ahead_ms()) <= self._max_clock_jump_ms or not self._find_objection(voters)

    def objection(self, voters: Sequence[NodeId]) -> str:
        """Why this node must not lead now; "" if it may."""
        return "" if self.ahead_ms() <= self._max_clock_jump_ms else self._find_objection(voters)

    def others_ms(self, voters: Sequence[NodeId]) -> int:
        """Returns the median of the voters' wall clocks, as far as they are known, our own among them. Of two in the
        middle it is the lower one."""
        differ_ms = [self._members.differs_ms(voter) for voter in voters if voter != self._own]
        known_ms = sorted([0.0, *(ms for ms in differ_ms if ms != float("inf"))])
        return self._clock.wall_ms() + int(known_ms[(len(known_ms) - 1) // 2])

    def _find_objection(self, voters: Sequence[NodeId]) -> str:
        if len(voters) <= 1:
            return self._find_objection_alone()
        agreeing = [voter for voter in voters if voter == self._own or self._agrees(voter)]
        if len(agreeing) >= majority(len(voters)):
            return ""
        others = [self._members.describe(voter) for voter in voters if voter not in agreeing]
        return (
            f"its clock is {self._ahead()} the log, and no majority of the members' clocks agrees with it "
            f"({', '.join(others)}). Set the wrong clocks right"
        )

    def _find_objection_alone(self) -> str:
        if not self._seen_ms or self.ahead_ms() <= self._max_downtime_ms:
            return ""
        return (
            f"its clock is {self._ahead()} the log, more than limits.max_downtime_ms allows. Set the clock right, or "
            "raise that limit if the node really was off for so long"
        )

    def _agrees(self, peer: NodeId) -> bool:
        return abs(self._members.differs_ms(peer)) <= self._max_clock_jump_ms

    def _ahead(self) -> str:
        if not self._seen_ms:
            return "to begin"
        ahead_ms = self.ahead_ms()
        return f"{span(abs(ahead_ms))} {'ahead of' if ahead_ms > 0 else 'behind'}"


class ClockWatch:
    """Logs once when our clock has not been believed for `OBJECTION_S`, and once when it is believed again."""

    def __init__(self, clock: Clock, check: ClockCheck, group: int = 0) -> None:
        self.objection = ""  # why this node does not ask to lead, once that has lasted
        self._clock = clock
        self._check = check
        self._group = group
        self._believed_at = clock.monotonic()

    def objects(self, voters: Sequence[NodeId]) -> bool:
        """Whether this node must not ask to lead now. Called on every tick."""
        objection = self._check.objection(voters)
        self._note(objection)
        return bool(objection)

    def _note(self, objection: str) -> None:
        now = self._clock.monotonic()
        if not objection:
            self._believed_at = now
        elif now - self._believed_at < OBJECTION_S:
            return
        if bool(objection) != bool(self.objection):
            if objection:
                log.error("this node does not ask to lead", group=self._group, reason=objection)
            else:
                log.warning("this node's clock is believed again", group=self._group)
        self.objection = objection
