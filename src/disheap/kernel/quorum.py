"""Quorum arithmetic (Raft §5.2, §5.3; dissertation §4.3).

Counts over a list of voter sets, each of which must agree by itself: one set in ordinary operation, two would be joint
consensus. Knows nothing of votes' terms or of logs. An empty list, or an empty set in it, never agrees to anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from disheap.kernel.types import NodeId

VoterSets = tuple[tuple[NodeId, ...], ...]


class Outcome(Enum):
    """What the votes that have arrived decide."""

    WON = "won"
    LOST = "lost"
    PENDING = "pending"


def majority(size: int) -> int:
    """How many of `size` voters are a majority: more than half, for even sizes too."""
    return size // 2 + 1


def agreed(sets: VoterSets, value: Callable[[NodeId], int]) -> int:
    """The largest number that a majority of every set has reached, 0 if there is none."""
    if len(sets) == 1:
        return _agreed_in(sets[0], value)
    return min((_agreed_in(voters, value) for voters in sets), default=0)


def has_quorum(sets: VoterSets, holds: Callable[[NodeId], bool]) -> bool:
    """Whether `holds` is true for a majority of every set."""
    return agreed(sets, lambda voter: int(holds(voter))) == 1


def outcome(sets: VoterSets, votes: Mapping[NodeId, bool]) -> Outcome:
    """Won when a majority of every set said yes, lost when in some set it no longer can."""
    if has_quorum(sets, lambda voter: votes.get(voter, False)):
        return Outcome.WON
    if not has_quorum(sets, lambda voter: votes.get(voter, True)):
        return Outcome.LOST
    return Outcome.PENDING


def _agreed_in(voters: tuple[NodeId, ...], value: Callable[[NodeId], int]) -> int:
    if not voters:
        return 0
    values = sorted(map(value, voters), reverse=True)
    return values[majority(len(voters)) - 1]
