"""The order of messages and of consumers is kept in one module each, so that another policy has one place to go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import disheap_heap

ROOT = Path(disheap_heap.__file__).parent
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))
OWNERS = {
    "_ring": "state/turns.py",
    "ring": "state/turns.py",
    "_records": "tables/ordered.py",
    "records": "tables/ordered.py",
}


def attributes(file: str) -> list[ast.Attribute]:
    return [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Attribute)]


@pytest.mark.parametrize("file", FILES)
def test_only_its_owner_touches_the_order(file: str) -> None:
    strangers = [
        f"{node.attr} in line {node.lineno}" for node in attributes(file) if OWNERS.get(node.attr, file) != file
    ]
    assert strangers == []


@pytest.mark.parametrize("name", ["_ring", "_records"])
def test_the_owner_has_what_it_owns(name: str) -> None:
    """Without this, a renamed attribute would leave the test above with nothing to find."""
    assert name in {node.attr for node in attributes(OWNERS[name])}
