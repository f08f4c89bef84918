"""The constants of modules, read from their source, so that none is overlooked."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType


def int_constants(*modules: ModuleType) -> dict[str, int]:
    """Whole numbers that the modules assign to names in capitals at their top level, private ones left out."""
    found: dict[str, int] = {}
    for module in modules:
        for statement in ast.parse(inspect.getsource(module)).body:
            for name in _assigned(statement):
                value = getattr(module, name)
                if name.isupper() and not name.startswith("_") and type(value) is int:
                    found[name] = value
    return found


def _assigned(statement: ast.stmt) -> list[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    names = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [name.id for name in names if isinstance(name, ast.Name)]
