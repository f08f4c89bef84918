"""What shows a promise is there: the page names tests, and a test that is renamed or removed is missed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "promises.md"
CITED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def cited() -> list[tuple[str, str]]:
    return CITED.findall(PAGE.read_text())


def test_the_page_cites_tests() -> None:
    assert len(cited()) >= 8


@pytest.mark.parametrize(("file", "name"), cited())
def test_each_test_that_is_cited_is_there(file: str, name: str) -> None:
    source = (ROOT / file).read_text()
    assert not name or re.search(rf"^(async )?def {name}\(", source, re.MULTILINE)


def test_every_promise_has_something_that_shows_it() -> None:
    table = PAGE.read_text().split("## Each promise")[1].split("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 8
    assert all(CITED.search(row) for row in rows)
