"""The order of messages and of consumers is kept in one module each, so that another policy has one place to go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import disheap_heap

FILES = sorted(Path(disheap_heap.__file__).parent.glob("*.py"))
OWNERS = {
    "_ring": "turns.py",
    "ring": "turns.py",
    "_records": "ordered.py",
    "records": "ordered.py",
}


def attributes(path: Path) -> list[ast.Attribute]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_its_owner_touches_the_order(path: Path) -> None:
    strangers = [
        f"{node.attr} in line {node.lineno}"
        for node in attributes(path)
        if OWNERS.get(node.attr, path.name) != path.name
    ]
    assert strangers == []


@pytest.mark.parametrize("name", ["_ring", "_records"])
def test_the_owner_has_what_it_owns(name: str) -> None:
    """Without this, a renamed attribute would leave the test above with nothing to find."""
    owner = next(path for path in FILES if path.name == OWNERS[name])
    assert name in {node.attr for node in attributes(owner)}
