"""The lifecycle of a replica: which changes are legal, and that the docstring's table is the one that counts."""

from __future__ import annotations

import re
from itertools import product

import pytest

from disheap.errors import DiskFailed
from disheap.runtime.replica.lifecycle import TRANSITIONS, IllegalTransition, Lifecycle, State

ENDED = (State.FAILED, State.CLOSED)


def brought_to(state: State) -> Lifecycle:
    """A lifecycle that was brought into that state by changes that are allowed."""
    lifecycle = Lifecycle()
    if state is State.QUARANTINED:
        change(lifecycle, State.RUNNING)
    if state is not State.OPENING:
        change(lifecycle, state)
    return lifecycle


def change(lifecycle: Lifecycle, to: State) -> None:
    if to is State.FAILED:
        lifecycle.fail(DiskFailed("gone"))
    else:
        lifecycle.change(to, "the test says so")


def documented() -> set[tuple[State, State]]:
    """The rows of the table in the docstring."""
    rows = re.findall(r"^ *\| ([^|]+) \| `(\w+)` +\|", Lifecycle.__doc__ or "", re.MULTILINE)
    found: set[tuple[State, State]] = set()
    for sources, to in rows:
        before = re.findall(r"`(\w+)`", sources)
        states = [State(name) for name in before] if before else [one for one in State if one not in ENDED]
        found |= {(state, State(to)) for state in states}
    return found


def test_the_table_in_the_docstring_is_the_one_that_counts() -> None:
    assert documented() == {(before, to) for before, allowed in TRANSITIONS.items() for to in allowed}


@pytest.mark.parametrize(("before", "to"), tuple(product(State, State)), ids=lambda state: state.value)
def test_a_change_is_made_or_refused_as_the_table_says(before: State, to: State) -> None:
    lifecycle = brought_to(before)
    reason, error = lifecycle.reason, lifecycle.error
    if to in TRANSITIONS[before]:
        change(lifecycle, to)
        assert lifecycle.state is to
    else:
        with pytest.raises(IllegalTransition, match=f"{before.value} cannot become {to.value}"):
            change(lifecycle, to)
        assert (lifecycle.state, lifecycle.reason, lifecycle.error) == (before, reason, error)


@pytest.mark.parametrize("state", State, ids=lambda state: state.value)
def test_a_replica_takes_part_only_while_it_is_running(state: State) -> None:
    lifecycle = brought_to(state)
    assert lifecycle.is_running == (state is State.RUNNING)
    assert lifecycle.is_over == (state in ENDED)


def test_nothing_leads_out_of_a_quarantine_but_the_end() -> None:
    assert TRANSITIONS[State.QUARANTINED] == {*ENDED, State.REMOVED}
    assert TRANSITIONS[State.REMOVED] == set(ENDED)


def test_the_error_that_ended_a_replica_is_kept_and_the_first_one_counts() -> None:
    lifecycle, first = Lifecycle(), DiskFailed("first")
    lifecycle.fail(first)
    with pytest.raises(IllegalTransition):
        lifecycle.fail(DiskFailed("second"))
    assert (lifecycle.error, lifecycle.reason) == (first, "first")


def test_a_replica_does_not_fail_without_an_error() -> None:
    with pytest.raises(IllegalTransition, match="fails with an error"):
        Lifecycle().change(State.FAILED)


def test_each_change_is_told_once_with_where_it_came_from() -> None:
    told: list[tuple[State, State]] = []
    lifecycle = Lifecycle(lambda before, now: told.append((before, now)))
    lifecycle.change(State.RUNNING)
    with pytest.raises(IllegalTransition):
        lifecycle.change(State.WAITING)
    lifecycle.change(State.CLOSED)
    assert told == [(State.OPENING, State.RUNNING), (State.RUNNING, State.CLOSED)]
