"""When a learner is close enough to become a voter (dissertation §4.2.1).

The leader replicates to it in rounds. A round ends when the learner holds all that the log had when the round began. A
learner that ends a round within an election timeout is close: as a voter it would hold up commits for no longer. One
that is too slow never gets there, and never becomes a voter.
"""

from __future__ import annotations

from dataclasses import dataclass

from disheap.kernel.types import Index, NodeId


@dataclass(slots=True)
class _Round:
    target: Index
    began_at: float


class Rounds:
    """The rounds of all learners of one group, while this node leads it. `longest_s` is the election timeout."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._rounds: dict[NodeId, _Round] = {}

    def clear(self) -> None:
        """Leadership has changed: every learner begins anew."""
        self._rounds.clear()

    def is_close(self, learner: NodeId, match: Index, last: Index, now: float) -> bool:
        """Whether the learner has just ended a round in time. `match` is what it is known to hold, `last` the end of
        the leader's log. Called at each tick."""
        round = self._rounds.get(learner)
        if round is None:
            self._rounds[learner] = _Round(last, now)
            return False
        if not match or match < round.target:
            return False
        took_s = now - round.began_at
        self._rounds[learner] = _Round(last, now)
        return took_s <= self._longest_s
