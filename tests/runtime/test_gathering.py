"""Commands that wait for the log."""

from __future__ import annotations

from disheap.runtime.replica.gathering import Gathering


def gathering(*runs: bytes) -> Gathering:
    found = Gathering(entry_bytes=10, gather_bytes=20)
    for run in runs:
        found.add(run)
    return found


def test_an_entry_has_as_many_runs_as_fit_in_their_order() -> None:
    found = gathering(b"aaaa", b"bbbbbb", b"c", b"dd")
    assert [found.take(), found.take()] == [b"aaaabbbbbb", b"cdd"]
    assert not found and found.size_bytes == 0


def test_a_run_that_is_larger_than_an_entry_goes_alone() -> None:
    found = gathering(b"a" * 15, b"b")
    assert [found.take(), found.take()] == [b"a" * 15, b"b"]


def test_what_is_put_back_keeps_its_place_and_counts_again() -> None:
    found = gathering(b"aaaaaaaaa", b"bb")
    found.put_back(found.take())
    assert found.size_bytes == 11
    assert found.take() == b"aaaaaaaaa"


def test_it_is_full_beyond_its_bound_and_not_at_it() -> None:
    found = gathering(b"a" * 20)
    assert not found.is_full
    found.add(b"b")
    assert found.is_full
    found.clear()
    assert not (found or found.is_full or found.size_bytes)
