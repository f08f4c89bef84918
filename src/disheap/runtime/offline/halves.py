"""Finds what is done in one group and missing in another, when the states of all groups are put together.

The snapshots of a backup are not of one moment. A transaction that was committed meanwhile may be in a later snapshot,
and its PREPARE not in an earlier one. The states come one at a time, so only what they tell each other is kept.
"""

from __future__ import annotations

import msgspec

from disheap.interfaces import CrossChecking, StateMachine


class Half(msgspec.Struct, frozen=True):
    """A transaction that is carried out in the group `done`, and not in the group `missing`."""

    transaction: str
    done: int
    missing: int


class HalfSearch:
    """Is given the states of all groups, in ascending order. A group is told things by groups with lower numbers."""

    def __init__(self) -> None:
        self._told: dict[int, list[tuple[int, bytes]]] = {}  # by the group that was told: (by whom, what)
        self.found: list[Half] = []

    def add(self, group: int, machine: StateMachine) -> None:
        """Looks at the state of a group."""
        if not isinstance(machine, CrossChecking):
            return
        for source, message in self._told.pop(group, ()):
            name = machine.lacks(message)
            if name:
                self.found.append(Half(name, source, group))
        for target, message in machine.told():
            self._told.setdefault(target, []).append((group, message))
