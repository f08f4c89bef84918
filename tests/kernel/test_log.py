"""The log's marks, terms and tail (Raft §5.3, §7)."""

from __future__ import annotations

import pytest

from disheap.kernel.log import ENTRY_MEMORY_BYTES, Log, memory_of
from disheap.kernel.types import Index, SnapshotMeta, Term

from .harness import EMPTY, Disk, blank, group, log_of


def stored(*terms: int, snapshot: SnapshotMeta = EMPTY, first: int = 1, cache_bytes: int = 1 << 20) -> Log:
    disk = Disk(group([1]))
    disk.snapshot = snapshot
    disk.first_index = Index(first)
    disk.entries = list(log_of(*terms, first=first))
    return Log(disk.restored(tail_entries=100), cache_bytes)


def snapshot_at(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), 0, group([1]))


@pytest.mark.parametrize(
    ("terms", "index", "term", "found"),
    [
        ((1, 1, 4, 4, 5, 5, 6, 6, 6), 9, 6, (9, 6)),
        ((1, 1, 4, 4, 5, 5, 6, 6, 6), 9, 5, (6, 5)),
        ((1, 1, 4, 4, 5, 5, 6, 6, 6), 9, 3, (2, 1)),
        ((1, 1, 4, 4, 5, 5, 6, 6, 6), 3, 3, (2, 1)),
        ((1, 1, 4, 4), 9, 9, (4, 4)),
        ((2, 2), 2, 1, (0, 0)),
        ((), 5, 5, (0, 0)),
    ],
)
def test_backtracking_skips_whole_terms(terms: tuple[int, ...], index: int, term: int, found: tuple[int, int]) -> None:
    assert stored(*terms).backtrack(index, Term(term)) == found


def test_the_table_of_terms_answers_where_the_log_reaches_and_nowhere_else() -> None:
    log = stored(3, 3, 5, snapshot=snapshot_at(10, 2), first=11)
    assert [log.term_at(index) for index in range(9, 15)] == [None, 2, 3, 3, 5, None]


def test_a_log_that_reaches_back_before_its_snapshot_keeps_those_terms() -> None:
    log = stored(1, 1, 2, 2, snapshot=snapshot_at(7, 2), first=5)
    assert [log.term_at(index) for index in range(4, 9)] == [None, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("last", "last_term", "expected"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (9, 1, False), (1, 3, True)],
)
def test_a_later_term_beats_a_longer_log(last: int, last_term: int, expected: bool) -> None:
    """§5.4.1."""
    assert stored(1, 2, 2).is_not_ahead_of(Index(last), Term(last_term)) is expected


def test_what_is_there_already_is_not_new() -> None:
    log = stored(1, 1, 2)
    assert log.new_in(log_of(1, 1)) == ()
    assert log.new_in(log_of(1, 1, 2, 2)) == log_of(2, first=4)
    assert log.new_in(log_of(1, 3, 3)) == log_of(3, 3, first=2)


def test_a_log_left_behind_by_an_interrupted_installation_means_nothing() -> None:
    """A crash between the snapshot's rename and the log's removal."""
    for log in (stored(1, 1, snapshot=snapshot_at(5, 3)), stored(1, 1, 1, snapshot=snapshot_at(2, 3))):
        assert log.last_index == log.snapshot.index
        assert log.last_term == 3


def test_the_tail_stays_within_its_bound_and_keeps_what_is_not_durable() -> None:
    bound = 3 * (ENTRY_MEMORY_BYTES + 3)
    log = stored(cache_bytes=bound)
    log.append(log_of(*[1] * 9))
    assert log.is_cached(1), "nothing is durable yet"
    log.unwritten()
    log.persisted()
    cached = log.cached(log.cache_first, log.last_index, 1 << 20)
    assert sum(map(memory_of, cached)) == log.cache_bytes <= bound
    assert [entry.index for entry in cached] == [7, 8, 9]


def test_a_restored_tail_stays_within_its_bound() -> None:
    """Storage counts data alone, and may give more small entries than memory should hold."""
    log = stored(*[1] * 9, cache_bytes=3 * (ENTRY_MEMORY_BYTES + 3))
    assert (log.cache_first, log.is_cached(6)) == (7, False)


def test_an_entry_over_the_bound_is_still_handed_on_alone() -> None:
    log = stored(1, 1, 1)
    assert len(log.cached(1, 3, 0)) == 1


def test_a_compacted_log_knows_the_term_before_its_first_entry() -> None:
    log = stored(1, 1, 2, 2)
    log.commit_to(4)
    log.handed = log.applied = Index(4)
    log.snapshot_taken(snapshot_at(4, 2), Index(3))
    assert (log.first_index, log.term_at(2), log.term_at(1), log.cache_first) == (3, 1, None, 3)


def test_a_committed_entry_cannot_be_overwritten() -> None:
    log = stored(1, 1)
    log.commit_to(2)
    with pytest.raises(AssertionError):
        log.append(log_of(2, first=2))


def test_the_time_of_the_last_entry_is_known_after_a_restart_and_a_snapshot() -> None:
    log = Log(
        blank(
            group([1]),
            snapshot=SnapshotMeta(Index(4), Term(1), 77, group([1])),
            first_index=Index(5),
            last_index=Index(4),
        ),
        1 << 20,
    )
    assert log.last_time_ms == 77
    log.append((log_of(2, first=5)[0]._replace(time_ms=99),))
    assert log.last_time_ms == 99
