"""Whether repairs get on: a repair that changes nothing is not tried for ever.

Owns the count. Does not repair, and does not know what is missing.
"""

from __future__ import annotations

from disheap.errors import RepairIneffective
from disheap.interfaces import Holding

MAX_INEFFECTIVE_REPAIRS = 3
"""The node stops after so many repairs in a row that changed nothing in the storage. One may find the storage busy.
More mean that the repair and the storage do not agree on what is missing. No further repair changes that."""


class Progress:
    """`begin` before the first repair, then `repair_began` and `repair_ended` for each."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._held: Holding | None = None  # when the last repair began
        self._held_before: Holding | None = None  # when the one before it did
        self._ineffective = 0  # repairs in a row that changed nothing

    def begin(self) -> None:
        """The log was read, and lacks something."""
        self._held = self._held_before = None
        self._ineffective = 0

    def repair_began(self, held: Holding) -> None:
        """The storage holds `held`. May be called again before the repair ends, if it is begun anew."""
        self._held = held

    def repair_ended(self) -> None:
        """Raises `RepairIneffective` if each of the last repairs began with what the one before it had begun with."""
        self._ineffective = self._ineffective + 1 if self._held == self._held_before else 0
        self._held_before = self._held
        if self._ineffective >= MAX_INEFFECTIVE_REPAIRS:
            raise RepairIneffective(
                f"{self._ineffective} repairs of group {self._group} in a row have changed nothing, and its storage "
                "still lacks something. Keep a copy of the data directory, and please report it"
            )
