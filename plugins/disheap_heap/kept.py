"""The records that a view keeps because they have changed: how much memory they take, and how they are freed.

They may take as much as the whole state, if all messages are settled while a snapshot is written. So they are freed in
portions.
"""

from __future__ import annotations

from typing import Any

PLACE_BYTES = 50
"""The memory for the old place of a message: an entry in a dict."""
ROW_BYTES = 200
"""The memory for another old record: a tuple, and an entry in a dict."""
TUPLE_BYTES = 100
"""The memory for a message that the state has replaced by another tuple."""
DROPPED_BYTES = 150
"""The memory for a message that the state has no more: a tuple, its id, and the header of its payload."""
ID_BYTES = 8
"""The memory for an id in a list."""


class Kept:
    """The tables are the view's own: `places` by the ids of messages, `rows` of other records."""

    __slots__ = ("_more_bytes", "_tables")

    def __init__(self, places: dict[int, Any], *rows: dict[Any, Any]) -> None:
        self._tables = (places, *rows)
        self._more_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def add_bytes(self, count: int) -> None:
        """Counts memory that only the view needs, beside its tables."""
        self._more_bytes += count

    def memory_bytes(self) -> int:
        """An estimate of the memory of all kept records."""
        places = len(self._tables[0])
        return PLACE_BYTES * places + ROW_BYTES * (len(self) - places) + self._more_bytes

    def free(self, limit: int) -> int:
        """Frees at most `limit` records of one table, and the same share of the other memory. Returns how many."""
        for table in self._tables:
            if table:
                count = min(limit, len(table))
                self._more_bytes -= self._more_bytes * count // len(self)
                for _ in range(count):
                    table.popitem()
                return count
        return 0
