"""What a group counts. The names are those of the metrics."""

from __future__ import annotations

import msgspec


class Counters(msgspec.Struct):
    """Counted since the start, shown by `disheap status`. The object that counts them adds to them."""

    raft_applied_entries_total: int = 0
    raft_failed_entries_total: int = 0  # with a command that was refused, or failed
    raft_snapshots_total: int = 0
    raft_leader_changes_total: int = 0  # to a node; not to nobody in between
