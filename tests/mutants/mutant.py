"""What a planted bug is: a name, what it breaks, and exact snippets of the product's source with what replaces them.

A snippet is looked for in one function or method, wherever that lies, so that code can move between modules. Code
outside of functions is named by its module. A snippet has to be found once and only once; else nothing is planted.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

NO_PITFALL = 0


class Unplantable(Exception):
    """The catalogue is at fault, and not the tests: a snippet that is not there (once), a module that is not loaded."""


class Span(NamedTuple):
    """Where a function stands in the source of its module, in characters."""

    module: str
    path: Path
    start: int
    end: int


class Patch(NamedTuple):
    """In `where`, `old` becomes `new`. `where` is `package:Class.method` or `package:function`, or a module's name."""

    where: str
    old: str
    new: str

    @property
    def module(self) -> str:
        return self._span().module if ":" in self.where else self.where

    def apply(self, source: str) -> str:
        start, end = self._bounds() or (0, len(source))
        count = source.count(self.old, start, end)
        if count != 1:
            raise Unplantable(f"{self.where} holds {count} times, not once: {self.old!r}")
        return source[:start] + source[start:end].replace(self.old, self.new) + source[end:]

    @property
    def start(self) -> int:
        """The first line of the function in its module."""
        return (self._bounds() or (0, 0))[0]

    def _bounds(self) -> tuple[int, int] | None:
        return self._span()[2:] if ":" in self.where else None

    def _span(self) -> Span:
        """Two classes of one name may have the method; then the snippet says which is meant."""
        spans = spans_of(self.where)
        holding = [span for span in spans if self.old in text_of(span.path)[span.start : span.end]]
        if len(holding) != 1:
            raise Unplantable(f"{len(holding)} of {len(spans)} functions {self.where} hold, not one: {self.old!r}")
        return holding[0]


@cache
def text_of(path: Path) -> str:
    return path.read_text()


def path_of(module: str) -> Path:
    """The path of a module; for a package that of its `__init__`. Imports the packages above it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise Unplantable(f"there is no module {module}")
    return Path(spec.origin)


@cache
def spans_of(where: str) -> tuple[Span, ...]:
    """Every function of that qualified name in the package."""
    package, _, name = where.partition(":")
    root = path_of(package).parent
    begins = re.compile(rf"^\s*(?:async )?def {name.rpartition('.')[2]}\(", re.MULTILINE)
    found: list[Span] = []
    for path in sorted(root.rglob("*.py")):
        source = text_of(path)
        if begins.search(source):
            module = ".".join([package, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
            found += [Span(module, path, *span) for span in _spans(source, name)]
    if not found:
        raise Unplantable(f"there is no function {name} in {package}")
    return tuple(found)


def _spans(source: str, name: str) -> list[tuple[int, int]]:
    """Whole lines, from the first decorator on."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return [
        (starts[min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1], starts[node.end_lineno or 0])
        for qualified, node in functions_of(ast.parse(source))
        if qualified == name
    ]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(tree: ast.Module | ast.ClassDef, prefix: str = "") -> list[tuple[str, Function]]:
    """Functions and methods by qualified name; not those inside of functions."""
    found: list[tuple[str, Function]] = []
    for node in tree.body:
        if isinstance(node, Function):
            found.append((prefix + node.name, node))
        elif isinstance(node, ast.ClassDef):
            found += functions_of(node, f"{prefix}{node.name}.")
    return found


class Mutant(NamedTuple):
    """`breaks`: one line, what is wrong with it. `tests`: pytest targets that have to notice. `pitfall`: the number of
    the bug class among those other implementations had, 0 for none. `fast`: those tests take seconds. `simulated`: the
    simulator runs the code in question, and is asked too. It is not asked if `masked` says why no run of the whole
    product can show this bug. `groups`: how many the simulated clusters have."""

    name: str
    breaks: str
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]
    pitfall: int = NO_PITFALL
    fast: bool = True
    simulated: bool = True
    masked: str = ""
    groups: int = 1

    @property
    def is_asked(self) -> bool:
        return self.simulated and not self.masked

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(patch.module for patch in self.patches))

    def planted(self, module: str, source: str) -> str:
        """Later places first, so that the earlier ones stay where they were."""
        here = [patch for patch in self.patches if patch.module == module]
        for patch in sorted(here, key=lambda patch: patch.start, reverse=True):
            source = patch.apply(source)
        return source

    def check(self) -> None:
        """Raises `Unplantable`, and `SyntaxError` for what does not compile."""
        for module in self.modules:
            compile(self.planted(module, path_of(module).read_text()), module, "exec", dont_inherit=True)
