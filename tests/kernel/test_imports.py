"""The kernel knows the standard library and `disheap.errors`, and nothing that could make two runs differ."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import disheap.kernel.raft

KERNEL = Path(disheap.kernel.raft.__file__).parent
FILES = sorted(KERNEL.glob("*.py"))
WORLD = {
    "asyncio",
    "datetime",
    "os",
    "pathlib",
    "secrets",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
}


def imported_by(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found += [
                f"{node.module}.{alias.name}" if node.module == "disheap" else str(node.module) for alias in node.names
            ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kernel_imports_the_standard_library_and_errors_alone(path: Path) -> None:
    for name in imported_by(path):
        root = name.partition(".")[0]
        is_ours = name == "disheap.errors" or name.startswith("disheap.kernel")
        assert is_ours or (root in sys.stdlib_module_names and root not in WORLD), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kernel_draws_only_from_the_generator_it_is_given(path: Path) -> None:
    """`random` is there for the type alone; of its methods `getrandbits` is the one whose sequence is promised."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{path.name}:{node.lineno} draws from the global generator"
        if isinstance(node, ast.Attribute) and node.attr in ("randint", "randrange", "choice", "shuffle", "sample"):
            raise AssertionError(f"{path.name}:{node.lineno} uses {node.attr}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kernel_never_walks_a_set(path: Path) -> None:
    """Hash order is not part of the input. Sets are looked up in, or sorted first."""
    for node in ast.walk(ast.parse(path.read_text())):
        walked = [node.iter] if isinstance(node, ast.For | ast.comprehension) else []
        for expression in walked:
            is_set = isinstance(expression, ast.Set | ast.SetComp) or (
                isinstance(expression, ast.Call)
                and isinstance(expression.func, ast.Name)
                and expression.func.id in ("set", "frozenset")
            )
            assert not is_set, f"{path.name}:{expression.lineno} walks a set"
