"""The indexes of exchanges against the definition: a slow matcher that looks at each binding."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disheap_heap.state.routing import INDEXES
from disheap_heap.tables.patterns import PatternIndex, TooManySteps, canonical, split
from tests.support.calls import CallCounter

PLENTY = 1 << 30
parts = st.sampled_from(["a", "b", "", "*", "#"])
patterns = st.lists(parts, max_size=7).map(".".join)
keys = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=7).map(".".join)
bindings = st.lists(st.tuples(patterns, st.integers(0, 4), st.booleans()), max_size=20)


def matches(pattern: list[str], words: list[str]) -> bool:
    """The definition: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return matches(pattern[1:], words) or (bool(words) and matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


def topic(number: int) -> Any:
    return SimpleNamespace(number=number, alive=True)


def leads(kind: str, pattern: str, key: str) -> bool:
    if kind == "topic":
        return matches(split(pattern), split(key))
    return kind == "fanout" or pattern == key


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
@given(changes=bindings, wanted=st.lists(keys, min_size=1, max_size=5))
def test_an_index_finds_what_the_definition_finds(
    kind: str, changes: list[tuple[str, int, bool]], wanted: list[str]
) -> None:
    """After each added or removed binding the keys lead to the same topics, in the same order."""
    index, topics, bound = INDEXES[kind](), [topic(number) for number in range(5)], {}
    for order, (pattern, number, stays) in enumerate(changes):
        if (pattern, number) not in bound:
            index.add(pattern, topics[number], order)
            bound[pattern, number] = topics[number]
        if not stays:
            index.remove(pattern, topics[number])
            del bound[pattern, number]
        for key in wanted:
            expected = dict.fromkeys(number for pattern, number in bound if leads(kind, pattern, key))
            assert [one.number for one in index.find(key, PLENTY)] == list(expected)
    for pattern, number in bound:
        index.remove(pattern, topics[number])
    assert index.nodes == 0


@given(st.lists(parts, max_size=7), keys)
def test_the_canonical_form_matches_the_same_keys(pattern: list[str], key: str) -> None:
    short = canonical(pattern)
    assert matches(short, split(key)) == matches(pattern, split(key))
    assert canonical(short) == short
    assert all(after not in ("*", "#") for part, after in pairwise(short) if part == "#")


@given(bindings, keys)
def test_the_steps_follow_from_the_bindings_alone(changes: list[tuple[str, int, bool]], key: str) -> None:
    """A restored replica has never had the removed bindings, and must refuse the same keys."""
    lived, fresh, left = PatternIndex(), PatternIndex(), {}
    for order, (pattern, number, _) in enumerate(changes):
        lived.add(pattern, topic(number), order)
        left[pattern, number] = order
    for pattern, number, stays in changes:
        if not stays and left.pop((pattern, number), None) is not None:
            lived.remove(pattern, topic(number))
    for (pattern, number), order in left.items():
        fresh.add(pattern, topic(number), order)
    assert lived.nodes == fresh.nodes
    assert steps(lived, key) == steps(fresh, key) <= (len(split(key)) + 1) * (fresh.nodes + 1)


def steps(index: PatternIndex, key: str) -> int:
    """The smallest bound under which the key can be routed."""
    for bound in range(10_000):
        try:
            index.walk(split(key), bound)
        except TooManySteps:
            continue
        return bound
    raise AssertionError("no bound is enough")


def test_patterns_of_many_wildcards_share_their_nodes() -> None:
    """2,000 such patterns and 20 publishes once stopped a node for a minute."""
    index = PatternIndex()
    for number in range(2000):
        index.add(".".join(["#", "*"] * 60) + f".{number:05d}", topic(number), number)
    assert index.nodes == 61 + 2000
    assert steps(index, ".".join(["a"] * 126) + ".7") < 500
    assert [one.number for one in index.find(".".join(["a"] * 60) + ".00007", 10_000)] == [7]


def test_short_keys_stay_far_below_the_bound_whatever_is_bound() -> None:
    index = PatternIndex()
    for number in range(3**9):
        digits = [number // 3**place % 3 for place in range(9)]
        index.add(".".join("a*#"[digit] for digit in digits), topic(number), number)
    assert steps(index, "a.a.a.a.a") < 1000


@pytest.mark.parametrize("pattern", [["#", "a"] * 12, ["a", "#"] * 12, ["#", "*", "a"] * 8])
@pytest.mark.parametrize("key", ["a" * 40, "a" * 39 + "b", "ab" * 20])
def test_a_walk_takes_no_more_steps_than_words_times_nodes(pattern: list[str], key: str) -> None:
    """It makes no more function calls either, which the interpreter counts. A matcher that backtracks takes millions of
    both."""
    index, words = PatternIndex(), list(key)
    for number in range(3):
        index.add(".".join([*pattern, str(number)[: number % 2]]), topic(number), number)
    bound = (len(words) + 1) * (index.nodes + 1)
    with CallCounter(max_calls=4 * bound):
        index.find(".".join(words), PLENTY)
    assert index.steps <= bound
