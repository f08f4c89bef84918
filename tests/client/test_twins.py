"""`disheap` and `disheap.sync` have the same words: who knows one client knows the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import disheap
from disheap import sync

TWINS = [
    (disheap.Client, sync.Client),
    (disheap.Topic, sync.Topic),
    (disheap.Consumer, sync.Consumer),
    (disheap.Delivery, sync.Delivery),
]
METHODS = [(ours, theirs, name) for ours, theirs in TWINS for name in dir(ours) if not name.startswith("_")]


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default, each.annotation) for each in found]


@pytest.mark.parametrize(("ours", "theirs"), TWINS)
def test_both_clients_have_the_same_words(ours: type, theirs: type) -> None:
    assert public(ours) == public(theirs)


@pytest.mark.parametrize(("ours", "theirs", "name"), METHODS)
def test_a_word_is_told_the_same_and_says_what_it_does(ours: type, theirs: type, name: str) -> None:
    mine, other = getattr(ours, name), getattr(theirs, name, None)
    if callable(mine):
        assert other is not None and parameters(mine) == parameters(other)
    for each in (mine, other):
        if callable(each) or isinstance(each, property):
            assert each.__doc__, f"{name} has no docstring"


def test_both_connect_by_the_same_keywords() -> None:
    mine, other = ([each for each in parameters(f) if each[0] not in ("transport", "dial")] for f in TWIN_CONNECTS)
    assert mine == other


TWIN_CONNECTS = (disheap.connect, sync.connect)
