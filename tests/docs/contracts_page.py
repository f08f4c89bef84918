"""Makes the reference page of the contracts from `disheap.interfaces`: `python -m tests.docs.contracts_page`.

The page begins with text of its own. Everything below `MARK` is made from the package; a test holds it against that.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from disheap import interfaces
from disheap.interfaces import codec, machine, metrics, plugin, service, storage, transport

PAGE = Path(__file__).parents[2] / "docs/reference/contracts.md"
MARK = "<!-- from here on made by `python -m tests.docs.contracts_page` from the package disheap.interfaces -->"

MODULES = (plugin, transport, codec, storage, machine, metrics, service)
"""One for each section of the page, in this order."""

_HIDDEN = ("Provenance",)  # of the registry, and no part of a contract


def render() -> str:
    out = ["## Every plugin", *_paragraphs(inspect.getdoc(interfaces) or "")]
    for module in MODULES:
        source = inspect.getsource(module)
        lines, tree = source.splitlines(), ast.parse(source)
        if module is not plugin:
            out += [f"## {module.__name__.rpartition('.')[2].capitalize()}"]
            out += _paragraphs(ast.get_docstring(tree) or "")
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name not in _HIDDEN:
                out += _class(node, lines)
    return "\n\n".join(out) + "\n"


def _class(node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    yield f"### {node.name}"
    yield from _paragraphs(ast.get_docstring(node) or "")
    fields = [line for field in _fields(node, lines) for line in field]
    if fields:
        yield "\n".join(fields)
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"**`{_signature(part)}`**"
            yield from _paragraphs(ast.get_docstring(part) or "")


def _fields(node: ast.ClassDef, lines: list[str]) -> Iterator[list[str]]:
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
            continue
        comment = lines[part.lineno - 1].partition("  # ")[2]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            comment = " ".join(str(after.value.value).split())
        yield [f"- `{part.target.id}: {ast.unparse(part.annotation)}`" + (f": {comment}" if comment else "")]


def _signature(part: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    names = [
        argument.arg for argument in [*part.args.posonlyargs, *part.args.args] if argument.arg not in ("self", "cls")
    ]
    first = "async " if isinstance(part, ast.AsyncFunctionDef) else ""
    gives = ast.unparse(part.returns) if part.returns is not None else "None"
    return f"{first}{part.name}({', '.join(names)})" + ("" if gives == "None" else f" -> {gives}")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def main() -> None:
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + f"{MARK}\n\n{render()}")


if __name__ == "__main__":
    main()
