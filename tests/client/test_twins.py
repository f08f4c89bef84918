"""`disheap` and `disheap.sync` have the same words: who knows one client knows the other."""

from __future__ import annotations

import ast
import inspect
import textwrap
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
    (disheap.Batch, sync.Batch),
]
METHODS = [(ours, theirs, name) for ours, theirs in TWINS for name in dir(ours) if not name.startswith("_")]

WAITS_DIFFERENTLY = {
    "Client": {"send", "topic"},
    "Topic": {"enqueue", "enqueue_nowait", "pop", "consume", "browse"},
    "Batch": set(),
    "Consumer": {"close"},
    "Delivery": {"ack", "ack_nowait", "nack", "extend"},
}
"""Methods whose code differs by more than the waiting. What pushes go through, what is
pipelined, and what yields, is not alike."""


class Unawaited(ast.NodeTransformer):
    """The code without what makes it asynchronous."""

    def visit_Await(self, node: ast.Await) -> Any:
        return self.visit(node.value)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        fields = {name: getattr(node, name) for name in ast.FunctionDef._fields if hasattr(node, name)}
        return self.generic_visit(ast.FunctionDef(**fields))


def code(function: Callable[..., Any]) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return ast.unparse(ast.fix_missing_locations(Unawaited().visit(tree)))


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


@pytest.mark.parametrize(("ours", "theirs"), TWINS)
def test_both_clients_do_the_same_but_for_the_waiting(ours: type, theirs: type) -> None:
    """What is fixed in one of them is fixed in the other. The comparison takes in types and docstrings."""
    methods = [name for name, member in vars(ours).items() if inspect.isfunction(member) and not name.startswith("_")]
    differ = {name for name in methods if code(getattr(ours, name)) != code(getattr(theirs, name))}
    assert differ == WAITS_DIFFERENTLY[ours.__name__]


def test_both_connect_by_the_same_keywords() -> None:
    mine, other = ([each for each in parameters(f) if each[0] not in ("transport", "dial")] for f in TWIN_CONNECTS)
    assert mine == other


TWIN_CONNECTS = (disheap.connect, sync.connect)
