"""The members' wall clocks, as this node heard them. Does not judge them (`clock_check` does).

Members tell each other their clocks when they connect and once a second. A clock belongs to a node, so all groups of
the node share what is known.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from disheap.interfaces import Clock
from disheap.kernel.types import NodeId

BELIEVED_S = 5.0
"""How long another node's clock is known after it was heard. Members report once a second. Longer would be wrong: a
clock that was set right meanwhile would agree with another one that is wrong now."""


class Heard(NamedTuple):
    """A member's clock, and when it was heard by our monotonic clock."""

    ahead_ms: float  # of our own monotonic clock: so a jump of our wall clock shows
    at_s: float


class MemberClocks:
    """How far the members' clocks differ from this node's."""

    def __init__(self, clock: Clock, member_name: Callable[[NodeId], str]) -> None:
        self._clock = clock
        self._member_name = member_name
        self._others: dict[NodeId, Heard] = {}

    def heard(self, peer: NodeId, wall_ms: int) -> None:
        """The member's clock shows `wall_ms` now. 0 comes from a release that does not report it."""
        if wall_ms:
            now = self._clock.monotonic()
            self._others[peer] = Heard(wall_ms - now * 1000, now)

    def lost(self, peer: NodeId) -> None:
        """The connection to the member is lost. Its clock is not known until it reports again."""
        self._others.pop(peer, None)

    def differs_ms(self, peer: NodeId) -> float:
        """Returns by how many milliseconds the member's clock is ahead of ours. Infinite if it is not known."""
        known, now = self._others.get(peer), self._clock.monotonic()
        if known is None or now - known.at_s > BELIEVED_S:
            return float("inf")
        return known.ahead_ms + now * 1000 - self._clock.wall_ms()

    def describe(self, peer: NodeId) -> str:
        """Returns in words how the member's clock differs from ours."""
        differs_ms = self.differs_ms(peer)
        if differs_ms == float("inf"):
            return f"that of {self._member_name(peer)} is not known"
        way = "ahead of" if differs_ms > 0 else "behind"
        return f"that of {self._member_name(peer)} is {span(abs(differs_ms))} {way} ours"


def span(ms: float) -> str:
    """Such as "0:01:30"."""
    return str(timedelta(seconds=round(ms / 1000)))
