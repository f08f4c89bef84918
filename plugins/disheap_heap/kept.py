"""What a view keeps of records that have changed since it was taken: how much memory that takes, and how it is freed.

It may be as much as the whole state, if all messages are settled while a snapshot is written. So it is freed in
portions, as everything else that is large.
"""

from __future__ import annotations

from typing import Any

PLACE_BYTES = 50
"""Of memory, for where a message was: an entry in a dict."""
ROW_BYTES = 200
"""Of memory, for what another record was: a tuple, and an entry in a dict."""
TUPLE_BYTES = 100
"""Of memory, for a message that the state has replaced by another tuple."""
DROPPED_BYTES = 150
"""Of memory, for a message that the state has no more: a tuple, its id, and the header of its payload."""
ID_BYTES = 8
"""Of memory, for an id in a list."""


class Kept:
    """The tables are the view's own: `places` by the ids of messages, `rows` of other records."""

    __slots__ = ("_more_bytes", "_tables")

    def __init__(self, places: dict[int, Any], *rows: dict[Any, Any]) -> None:
        self._tables = (places, *rows)
        self._more_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def add_bytes(self, count: int) -> None:
        """The view alone has something that takes so much memory, beside its tables."""
        self._more_bytes += count

    def memory_bytes(self) -> int:
        """An estimate."""
        places = len(self._tables[0])
        return PLACE_BYTES * places + ROW_BYTES * (len(self) - places) + self._more_bytes

    def free(self, limit: int) -> int:
        """Frees at most `limit` records of one table, with the same share of all the rest. Returns how many."""
        for table in self._tables:
            if table:
                count = min(limit, len(table))
                self._more_bytes -= self._more_bytes * count // len(self)
                for _ in range(count):
                    table.popitem()
                return count
        return 0
