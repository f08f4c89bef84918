"""Whom a leader hears. It does not vote and counts nothing: it says which members have answered, and how long ago.

The kernel steps down after an election timeout without a majority, and checks once in each (dissertation §6.2). So a
leader that is cut off leads for up to two election timeouts. Code that decides by the silence of clients must know
earlier that the leader itself may be cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from disheap.kernel.membership import voters_of
from disheap.kernel.types import AppendReply, HeartbeatReply, Membership, Message, NodeId

HEARTBEATS = 3
"""A leader that has heard no majority for so many heartbeats is out of touch. One may be lost, and one may be late."""

_ANSWERS = (AppendReply, HeartbeatReply)


class Kernel(Protocol):
    """What is asked of the kernel of the group."""

    @property
    def id(self) -> NodeId:
        """This node."""

    @property
    def membership(self) -> Membership:
        """The membership in force."""


class Contact:
    """`now` is the loop's clock, in seconds. A member is in touch if it has answered within `touch_s`. Of use on the
    leader only."""

    def __init__(self, kernel: Kernel, now: Callable[[], float], touch_s: float) -> None:
        self._kernel = kernel
        self._now = now
        self._touch_s = touch_s
        self._began_at = 0.0
        self._heard_at: dict[NodeId, float] = {}

    def begin(self) -> None:
        """This node was elected: a majority has just voted for it."""
        self._began_at = self._now()
        self._heard_at.clear()

    def heard(self, message: Message) -> None:
        """A message of a follower has arrived, in this term."""
        if isinstance(message, _ANSWERS):
            self._heard_at[message.source] = self._now()

    def members_in_touch(self) -> set[NodeId]:
        """Returns the members that have answered lately in this term, and this node."""
        own, since = self._kernel.id, self._now() - self._touch_s
        members = [member.id for member in self._kernel.membership.members]
        return {one for one in members if one == own or self._heard_at.get(one, -inf) >= since}

    def hears_all_members(self) -> bool:
        """Whether every other member is in touch, learners included."""
        return len(self.members_in_touch()) == len(self._kernel.membership.members)

    def since_s(self, member: NodeId) -> float | None:
        """Returns the seconds since the member has answered in this term; None if it has not."""
        heard_at = self._heard_at.get(member)
        return None if heard_at is None else max(0.0, self._now() - heard_at)

    def quorum_silence_s(self) -> float:
        """Returns the seconds since a majority of the voters was heard. This node counts as heard now."""
        now, own, voters = self._now(), self._kernel.id, voters_of(self._kernel.membership)
        others = sorted((self._heard_at.get(voter, self._began_at) for voter in voters if voter != own), reverse=True)
        needed = len(voters) // 2 + 1 - (own in voters)
        return max(0.0, now - others[needed - 1]) if needed > 0 else 0.0
