"""What the source cites is there: the numbered rules, the pages, and in the pages the modules and planted bugs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mutants.catalogue import CATALOGUE

from disheap_heap.settings import MAX_DELIVERIES_PER_CALL, MAX_PUSH_BYTES_PER_CALL, MAX_RETURNS_PER_CALL

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for top in ("src", "plugins", "tests") for path in (ROOT / top).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)])
RULES = {"raft-pitfalls": 30, "storage-rules": 18}
MODULES_OF = (ROOT / "src/disheap", ROOT / "plugins", ROOT)
"""What a path in a page of rules may be below."""

NUMBERS = r"((?:\d+(?:, | and | to )?)+)"
CITED = {
    "raft-pitfalls": re.compile(rf"(?:[Pp]itfalls?|\bclass(?:es)?) {NUMBERS}"),
    "storage-rules": re.compile(rf"storage-rules {NUMBERS}"),
}
ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)
PAGE = re.compile(r"[\w/.-]*\w\.md\b")
DANGEROUS = {"pickle", "marshal", "shelve", "yaml", "eval", "exec"}


def rows(page: str) -> dict[int, str]:
    return {int(number): row for number, row in ROW.findall((ROOT / f"docs/explanation/{page}.md").read_text())}


def flowing(path: Path) -> str:
    """Without the ends of lines, and without what begins a comment."""
    return re.sub(r"\s*\n\s*(?:# )?", " ", path.read_text())


def cited(page: str, path: Path) -> Iterator[int]:
    for found in CITED[page].findall(flowing(path)):
        for part in re.split(r", | and ", found.rstrip(", adnto")):
            first, _, last = part.partition(" to ")
            yield from range(int(first), int(last or first) + 1)


@pytest.mark.parametrize("page", RULES)
def test_the_rows_are_numbered_without_a_gap(page: str) -> None:
    assert list(rows(page)) == list(range(1, RULES[page] + 1))


@pytest.mark.parametrize("page", RULES)
def test_every_number_that_the_source_cites_is_a_row(page: str) -> None:
    used = {(str(path.relative_to(ROOT)), number) for path in SOURCES for number in cited(page, path)}
    assert len(used) > 10, "the pattern finds nothing"
    assert {one for one in used if one[1] not in rows(page)} == set()


@pytest.mark.parametrize("page", RULES)
def test_what_a_row_names_is_there(page: str) -> None:
    """Modules and tests by path, planted bugs by name; a pitfall's bugs are of its class."""
    classes = {bug.name: bug.pitfall for bug in CATALOGUE}
    for number, row in rows(page).items():
        where = row.rsplit("|", 2)[-2:]
        for name in re.findall(r"`([^`]+)`", " ".join(where)):
            if name.endswith(".py"):
                assert any((top / name).is_file() for top in MODULES_OF), f"{page} {number}: {name}"
            else:
                assert name in classes, f"{page} {number}: {name}"
                assert page != "raft-pitfalls" or classes[name] == number, f"{page} {number}: {name}"


def test_every_page_that_is_cited_is_there() -> None:
    there = [str(page.relative_to(ROOT)) for page in [*PAGES, *(ROOT / "contrib").rglob("*.md")]]
    missing = {
        (str(path.relative_to(ROOT)), name)
        for path in [*SOURCES, *PAGES]
        for name in PAGE.findall(path.read_text())
        if not any(page == name or page.endswith("/" + name.removeprefix("../").removeprefix("../")) for page in there)
    }
    assert missing == set()


def test_nobody_is_told_to_install_disheap_from_the_index() -> None:
    """It is not there. A clone is installed by its path: `pip install '.[celery]'`."""
    by_name = re.compile(r"pip install (?:[^\n`]* )?['\"]?disheap\b[^\n]*")
    shipped = [path for path in SOURCES if "tests" not in path.parts]
    others = [path for path in (ROOT / "contrib").rglob("*") if path.suffix in (".md", ".py", ".service", ".yaml")]
    texts = [*shipped, *PAGES, *others, ROOT / "contrib/deploy/Dockerfile"]
    assert {(path.name, told) for path in texts for told in by_name.findall(path.read_text())} == set()


def test_the_page_on_topics_says_how_much_one_command_does_at_once() -> None:
    page = flowing(ROOT / "docs/reference/topics-and-messages.md")
    megabytes = MAX_PUSH_BYTES_PER_CALL >> 20
    bound = f"{MAX_DELIVERIES_PER_CALL} for one command, over all topics, and {megabytes} MiB of payload"
    assert f"deliveries ({bound})" in page
    assert f"leases that go back ({MAX_RETURNS_PER_CALL})" in page


@pytest.mark.parametrize(
    ("title", "package"),
    [
        ("The runtime", "src/disheap/runtime"),
        ("The client", "src/disheap/client"),
        ("The heap machine", "plugins/disheap_heap"),
    ],
)
def test_the_architecture_names_every_module_in_its_folder(title: str, package: str) -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    section = page.partition(f"### {title}\n")[2].partition("\n##")[0]
    named, folder = [], ""
    for row in section.splitlines():
        if not row.startswith("| "):
            continue
        first, modules = row.split("|")[1:3]
        folder = first.strip(" `") or folder
        named += [folder + module for module in re.findall(r"`(\w+\.py)`", modules)]
    source = ROOT / package
    modules = [path for path in source.rglob("*.py") if path.name != "__init__.py"]
    there = [str(path.relative_to(source.parent)) for path in modules]
    assert sorted(named) == sorted(there)


def test_the_architecture_names_every_part_and_no_other() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    section = page.partition("## The parts\n")[2].partition("\n##")[0]
    named = {row.split("|")[1].strip(" `") for row in section.splitlines() if row.startswith("| `")}
    folders = {f"{path.parent.name}/" for path in (ROOT / "src/disheap").glob("*/__init__.py")}
    plugins = {f"plugins/{path.parent.name}/" for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert named == folders | plugins | {f"contrib/{path.name}/" for path in (ROOT / "contrib").iterdir()}


def test_every_folder_says_what_it_owns_and_where_to_start() -> None:
    packages = [path for top in ("src", "plugins", "contrib") for path in (ROOT / top).rglob("__init__.py")]
    for path in packages:
        folder = path.parent
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert text.count("\n") >= 2, f"{folder} does not say in its docstring what it owns and who calls it"
        assert "tart reading at" in " ".join(text.split()), f"{folder} does not say where to start reading"


def dangerous(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name.partition(".")[0] for alias in node.names]
            case ast.ImportFrom():
                names = [(node.module or "").partition(".")[0]]
            case ast.Call(func=ast.Name(id=name)):
                names = [name]
        yield from (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}" for name in names if name in DANGEROUS)


def test_nothing_that_comes_in_can_be_run() -> None:
    """storage-rules 16."""
    assert [place for path in SOURCES if "tests" not in path.parts for place in dangerous(path)] == []
