"""For how long a leader has heard no majority. The kernel steps down after an election timeout without a majority, and
checks once in each (dissertation §6.2). So a leader that is cut off leads for up to two election timeouts. Code that
decides by the silence of clients must know earlier that the leader itself may be cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from disheap.kernel.types import AppendReply, HeartbeatReply, Message, NodeId

HEARTBEATS = 3
"""A leader that has heard no majority for so many heartbeats is out of touch. One may be lost, and one may be late."""


class Contact:
    """`now` is the loop's clock, in seconds."""

    def __init__(self, own: NodeId, now: Callable[[], float]) -> None:
        self._own = own
        self._now = now
        self._began_at = 0.0
        self._heard_at: dict[NodeId, float] = {}

    def begin(self) -> None:
        """This node was elected: a majority has just voted for it."""
        self._began_at = self._now()
        self._heard_at.clear()

    def heard(self, message: Message) -> None:
        """A message of a follower has arrived, in this term."""
        if isinstance(message, AppendReply | HeartbeatReply):
            self._heard_at[message.source] = self._now()

    def has_heard_all(self, members: Sequence[NodeId], within_s: float) -> bool:
        """Whether every other member has answered in this term within that time."""
        since = self._now() - within_s
        return all(self._heard_at.get(member, -inf) >= since for member in members if member != self._own)

    def silence_s(self, voters: Sequence[NodeId]) -> float:
        """Returns the seconds since a majority of the voters was heard. This node counts as heard now."""
        now = self._now()
        others = sorted(
            (self._heard_at.get(voter, self._began_at) for voter in voters if voter != self._own), reverse=True
        )
        needed = len(voters) // 2 + 1 - (self._own in voters)
        return max(0.0, now - others[needed - 1]) if needed > 0 else 0.0
