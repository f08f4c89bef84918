"""The page about the Python clients: its examples do what they say, and no word is missing."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import disheap
from disheap import errors
from tests.cli.command_line import running

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
SHOWN_URL = "disheap://host1,host2,host3"
KINDS = [disheap.Client, disheap.Topic, disheap.Consumer, disheap.Delivery, disheap.Batch, disheap.Node]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running("dev", "--port", "0", "--json") as node:
        yield json.loads(node.out.next())["broker_url"]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_it_says(example: str, url: str) -> None:
    printed = StringIO()
    with redirect_stdout(printed):
        exec(example.replace(SHOWN_URL, url), {})
    assert printed.getvalue().splitlines() == re.findall(r"^# prints (.*)$", example, re.M)


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_the_clients_is_there(kind: type) -> None:
    assert [name for name in dir(kind) if not name.startswith("_") and not named(name)] == []


def test_the_table_of_a_node_lists_its_public_names_and_no_others() -> None:
    section = PAGE.partition("## A node as a library\n")[2].partition("\n## ")[0]
    table = section.partition("| word | gives |\n|---|---|\n")[2].partition("\n\n")[0]
    words = [word for row in table.splitlines() for word in re.findall(r"`(\w+)", row.split(" | ")[0])]
    assert sorted(words) == [name for name in dir(disheap.Node) if not name.startswith("_")]


def test_every_keyword_is_there() -> None:
    methods = [getattr(kind, name) for kind in KINDS for name in dir(kind) if not name.startswith("_")]
    told = [disheap.connect, *filter(inspect.isfunction, methods)]
    keywords = {name for each in told for name in inspect.signature(each).parameters} - {"self"}
    assert [name for name in sorted(keywords) if not re.search(rf"\b{name}\b", PAGE)] == []


def test_every_error_of_a_request_is_there() -> None:
    assert [kind.__name__ for kind in below(errors.RequestError) if not named(kind.__name__)] == []


def below(root: type[errors.DisheapError]) -> Iterator[type[errors.DisheapError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from below(kind)


def named(word: str) -> bool:
    return re.search(rf"`[^`]*\b{word}\b[^`]*`", PAGE) is not None
