"""The fields of an object are written by the object. Others call a method (clients, and what serves them)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import disheap.runtime.clients

MODULES = sorted(Path(disheap.runtime.clients.__file__).parent.glob("*.py"))
CHANGING = {"append", "appendleft", "add", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft"}
CHANGING |= {"remove", "setdefault", "update"}
"""Methods that change the container they are called on."""


def owner(field: ast.expr) -> str:
    """Whose field that is: the name before its first dot, "" for a local variable."""
    dots = 0
    while isinstance(field, ast.Attribute | ast.Subscript):
        dots += isinstance(field, ast.Attribute)
        field = field.value
    return field.id if dots and isinstance(field, ast.Name) else ""


def depth(field: ast.expr) -> int:
    """How many dots there are."""
    found = 0
    while isinstance(field, ast.Attribute | ast.Subscript):
        found += isinstance(field, ast.Attribute)
        field = field.value
    return found


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """What the statement or call changes."""
    match node:
        case ast.Assign(targets=changed) | ast.Delete(targets=changed):
            for target in changed:
                yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            yield target
        case ast.Call(func=ast.Attribute(value=container, attr=method)) if method in CHANGING:
            yield container


def foreign_writes(source: str) -> list[str]:
    """Fields of anything but `self` that the source changes, and fields of what `self` has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for field in targets(node):
            whose = owner(field)
            if whose and (whose != "self" or (depth(field) > 1 and not isinstance(node, ast.Call))):
                found.append(f"line {node.lineno}: {ast.unparse(field)}")  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_object_writes_the_fields_of_another(module: Path) -> None:
    assert foreign_writes(module.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "connection.heard = now",
        "connection.session, self.x = 0, 1",
        "self._port.is_local = True",
        "connection.queries += 1",
        "connection.queue.append(frame)",
        "del server.queues[7]",
        "server.queues[7] = []",
    ],
)
def test_the_check_notices_a_foreign_write(line: str) -> None:
    assert len(foreign_writes(line)) == 1


@pytest.mark.parametrize("line", ["self.heard = now", "self.queues[7] = []", "self._queue.append(1)", "rows.append(1)"])
def test_the_check_passes_over_an_objects_own_fields(line: str) -> None:
    assert foreign_writes(line) == []
