"""Every public name has a docstring, and no sentence of a docstring or a page is too long to read."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.prose import MAX_WORDS, long_sentences

ROOT = Path(__file__).parent.parent
CONTRIB = [path for path in (ROOT / "contrib").glob("*/disheap_*/**/*.py") if "_pb2" not in path.name]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "plugins").rglob("*.py"), *CONTRIB])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "contrib").rglob("*.md")])

Method = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Undocumented(NamedTuple):
    """A public name without a docstring."""

    line: int
    name: str


def undocumented(source: str, contracts: Sequence[Contract] = ()) -> list[Undocumented]:
    """Three kinds of methods are exempt, because their docstring is somewhere else. An override or an overload has that
    of the method that it stands for. A setter has that of its property. A method of a contract has the contract's, if
    its class has all methods of that contract. Those of a base class in the same module count."""
    tree = ast.parse(source)
    module = [] if ast.get_docstring(tree) else [Undocumented(1, "the module")]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return module + list(_undocumented(tree, "", [*contracts, *contracts_of(tree)], classes))


Contract = frozenset[str]
"""The names of the methods of a protocol. Each of them has a docstring there."""


def contracts_of(tree: ast.Module) -> list[Contract]:
    """The protocols of a module that document each of their methods."""
    protocols = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
    ]
    return [
        frozenset(method.name for method in _methods(protocol))
        for protocol in protocols
        if _methods(protocol) and all(ast.get_docstring(method) for method in _methods(protocol))
    ]


def _methods(node: ast.ClassDef) -> list[Method]:
    return [one for one in node.body if isinstance(one, Method) and not one.name.startswith("_")]


def _undocumented(
    parent: ast.Module | ast.ClassDef, prefix: str, contracts: list[Contract], classes: dict[str, ast.ClassDef]
) -> Iterator[Undocumented]:
    inherited = _inherited(parent, contracts, classes) if isinstance(parent, ast.ClassDef) else frozenset()
    for node in parent.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not _is_exempt(node) and node.name not in inherited:
            yield Undocumented(node.lineno, prefix + node.name)
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{prefix}{node.name}.", contracts, classes)


def _inherited(node: ast.ClassDef, contracts: list[Contract], classes: dict[str, ast.ClassDef]) -> frozenset[str]:
    bases = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    names = _names(node).union(*map(_names, bases))
    return frozenset().union(*(contract for contract in contracts if contract <= names))


def _names(node: ast.ClassDef) -> set[str]:
    return {method.name for method in _methods(node)} | {
        target.id
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _is_exempt(node: Definition) -> bool:
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(names & {"override", "overload", "setter"})


INTERFACES = [
    contract
    for path in sorted((ROOT / "src/disheap/interfaces").glob("*.py"))
    for contract in contracts_of(ast.parse(path.read_text()))
]


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each string that stands by itself: docstrings, and those below a constant."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, inspect.cleandoc(node.value.value)


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each comment. Lines that follow each other are one comment."""
    gathered: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        stands_alone = token.line.lstrip().startswith("#")
        if not (gathered and stands_alone and token.start[0] == last + 1):
            if gathered:
                yield first, " ".join(gathered)
            gathered, first = [], token.start[0]
        gathered.append(token.string.lstrip("#: "))
        last = token.start[0] if stands_alone else 0
    if gathered:
        yield first, " ".join(gathered)


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each string on one line, with `X` for each value that is put in."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in values)
            case ast.Constant(value=str(text)) if id(node) not in parts:
                pass
            case _:
                continue
        if "\n" not in text:
            yield node.lineno, text


FRAGMENT = re.compile(r"(Of|Nor|And|But|So (many|much|long)|The same|Until|Not)\b")
RIDDLE = re.compile(r"(\bNone|\b0|\"\"|\bnothing) where\b")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert undocumented(path.read_text(), INTERFACES) == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_has_a_sentence_that_is_too_long(path: Path) -> None:
    found = [(line, long_sentences(text)) for line, text in docstrings(path.read_text())]
    assert [row for row in found if row[1]] == [], f"at most {MAX_WORDS} words a sentence"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_has_a_sentence_that_is_too_long(path: Path) -> None:
    assert long_sentences(path.read_text()) == [], f"at most {MAX_WORDS} words a sentence"


COMMAND_OF_REDIS = "redis.call"
"""A program for Redis is no sentence."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_comment_and_no_message_has_a_sentence_that_is_too_long(path: Path) -> None:
    """Messages are errors, lines of the log and what the command line prints."""
    source = path.read_text()
    told = [*comments(source), *messages(source)]
    found = [(line, long_sentences(text)) for line, text in told if COMMAND_OF_REDIS not in text]
    assert [row for row in found if row[1]] == [], f"at most {MAX_WORDS} words a sentence"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_docstring_begins_with_a_subject_or_a_verb(path: Path) -> None:
    """A docstring is no end of a sentence that its name would begin."""
    told = list(docstrings(path.read_text()))
    assert [(line, text) for line, text in told if FRAGMENT.match(text)] == []
    assert [(line, text) for line, text in told if RIDDLE.search(text)] == [], "write `None if`, not `None where`"


# --- the checks themselves --------------------------------------------------------------------------------------------


def test_a_name_without_a_docstring_is_found() -> None:
    source = '"""m"""\nclass A:\n    def f(self): ...\n    def _g(self): ...\ndef h():\n    """x"""\n'
    assert [found.name for found in undocumented(source)] == ["A", "A.f"]


def test_a_setter_and_an_overload_need_no_docstring_of_their_own() -> None:
    source = '"""m"""\n@overload\ndef f(): ...\nclass A:\n    """x"""\n    @f.setter\n    def g(self): ...\n'
    assert undocumented(source) == []


def test_a_method_of_a_contract_needs_a_docstring_there_only() -> None:
    contract = (
        '"""m"""\nclass C(Protocol):\n    """x"""\n    def f(self):\n        "x"\n    def g(self):\n        "x"\n'
    )
    whole = contract + 'class A:\n    """x"""\n    def f(self): ...\n    def g(self): ...\n    def h(self): ...\n'
    assert [found.name for found in undocumented(whole)] == ["A.h"]
    part = contract + 'class A:\n    """x"""\n    def f(self): ...\n'
    assert [found.name for found in undocumented(part)] == ["A.f"]


LONG = " ".join(["word"] * 26)


@pytest.mark.parametrize(
    "text",
    [f"{LONG}.", f"Short. Then {LONG}.", f"- one\n- {LONG}", f"Words\n{LONG}", f"`a` {LONG}", f"{LONG}, e.g. Raft"],
)
def test_a_long_sentence_is_found(text: str) -> None:
    assert len(long_sentences(text)) == 1


HALF = " ".join(["word"] * 14)


@pytest.mark.parametrize(
    "text",
    [
        f"{HALF}. {HALF.capitalize()}.",
        f"- {HALF}\n- {HALF}",
        f"{HALF}\n\n{HALF}",
        f"| {LONG} | x |",
        f"# {LONG}",
        f"```\n{LONG}\n```",
        f"Text:\n\n    {LONG}",
        f"offset  size  what\n0       4     {LONG}",
        " ".join(["`name`,"] * 30),
    ],
)
def test_what_is_no_long_sentence_is_not_found(text: str) -> None:
    assert long_sentences(text) == []
