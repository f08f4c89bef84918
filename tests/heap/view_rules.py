"""Rules for property tests of a heap machine. Views stay open meanwhile, and must show the state of one moment.

The bounds are so small that every view is written in many pieces, and every topic has many chunks of ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from disheap.testing import heap_model, heap_transactions
from disheap_heap.delivery import delivery
from disheap_heap.snapshots import snapshot
from disheap_heap.state import kept, view
from disheap_heap.state.state import State
from disheap_heap.tables import arrivals, partitioned
from disheap_heap.transactions import transactions

from .driver import Driver

BOUNDS = (
    (snapshot, "BLOCK_ROWS", 1),
    (view, "IDS_PER_PAUSE", 2),
    (kept, "ORDER_SPAN", 3),
    (arrivals, "CHUNK", 4),
    (arrivals, "TAIL_MIN", 2),
    (delivery, "DELIVERIES_PER_SWEEP", 2),
    (partitioned, "PARTITION_MAX", 3),
    (partitioned, "MERGED_MAX", 1),
    (partitioned, "FEW", 2),
    (partitioned, "LOOK_MASK", 1),
    (partitioned, "LEVELS", (1, 2, 3)),
    (transactions, "INQUIRE_AFTER_MS", 15),
    (heap_model, "INQUIRE_AFTER_MS", 15),
    (heap_transactions, "INQUIRE_AFTER_MS", 15),
    (transactions, "INQUIRE_PAUSE_MAX_MS", 40),
    (heap_model, "INQUIRE_PAUSE_MAX_MS", 40),
)
OPEN_MAX = 3


def in_order_of_ids(state: State) -> list[list[int]]:
    """The ids of all tables of messages, as they are read."""
    topics = list(state.topics.values())
    tables = [table for topic in topics for table in (topic.ready.by_id(), topic.delayed)]
    return [list(table) for table in (*tables, state.leases, state.transactions.frozen)]


class ViewRules(RuleBasedStateMachine):
    driver: Driver

    def __init__(self) -> None:
        super().__init__()
        self.open_views: list[tuple[bytes, list[bytes], Iterator[bytes]]] = []  # (to be shown, shown, the rest)
        self._bounds = [patch.object(module, name, value) for module, name, value in BOUNDS]
        for one in self._bounds:
            one.start()

    def teardown(self) -> None:
        while self.open_views:
            self._read(0, None)
        assert self.driver.machine._state.views == []
        assert self.driver.machine._state.purged_in_views == []
        for one in self._bounds:
            one.stop()

    @precondition(lambda self: len(self.open_views) < OPEN_MAX)
    @rule()
    def a_view_is_taken(self) -> None:
        machine = self.driver.machine
        self.open_views.append((b"".join(machine.snapshot()), [], machine.snapshot()))

    @precondition(lambda self: self.open_views)
    @rule(pick=st.integers(0, OPEN_MAX), pieces=st.integers(1, 60))
    def a_view_is_read(self, pick: int, pieces: int) -> None:
        self._read(pick % len(self.open_views), pieces)

    @precondition(lambda self: self.open_views)
    @rule()
    def a_view_is_given_up(self) -> None:
        self.open_views.pop()

    def _read(self, place: int, pieces: int | None) -> None:
        expected, shown, rest = self.open_views[place]
        read = list(islice(rest, pieces))
        shown += read
        if pieces is None or len(read) < pieces:
            del self.open_views[place]
            assert b"".join(shown) == expected
