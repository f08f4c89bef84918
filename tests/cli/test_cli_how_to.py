"""What the how-to pages tell a reader to type is a command, and what they quote is what the product says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from disheap.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/how-to").glob("*.md"))
FENCED = re.compile(r"```(\w*)\n(.*?)```", re.S)
COMMAND = re.compile(r"^ *(?:\$ )?(?:sudo -u \w+ )?(disheap [a-z-].*)$", re.M)
QUOTED = re.compile(r"^\| `([^`]*)`(?: in the log of an old node)? \| ", re.M)
CHANGING = re.compile(r"…|\bN\b|\bA\b|\bB\b|\bX\b|'\w+'|\d+")
"""What stands for something else in a message that is quoted."""


def commands(page: Path) -> list[str]:
    """Those in its code blocks."""
    text = page.read_text()
    fenced = [block for language, block in FENCED.findall(text) if language in ("", "bash", "console")]
    indented = re.findall(r"(?:^ {4,}\S.*\n)+", FENCED.sub("", text), re.M)
    return [line.split(" #")[0] for block in fenced + indented for line in COMMAND.findall(block)]


LINES = [(page.name, line) for page in PAGES for line in dict.fromkeys(commands(page))]


def test_the_pages_with_commands_are_read() -> None:
    assert {"recover-a-cluster.md", "change-members.md", "run-a-cluster.md", "use-transactions.md"} <= {
        page for page, _ in LINES
    }


@pytest.mark.parametrize(("page", "line"), LINES)
def test_what_a_reader_types_is_a_command(page: str, line: str) -> None:
    found: click.Command = cli
    words = shlex.split(re.sub(r"\$\(.*?\)", "WORD", line.removesuffix(" &")))[1:]
    while isinstance(found, click.Group):
        command = found.get_command(click.Context(found), words.pop(0))
        assert command is not None, line
        found = command
    found.make_context(line, words)


def said_by_the_product() -> str:
    """Its source, with strings that are written in parts put together."""
    files = [file for part in ("src", "plugins") for file in sorted((ROOT / part).rglob("*.py"))]
    return re.sub(r"\"\s*\n\s*f?\"|'\s*\n\s*f?'", "", "\n".join(file.read_text() for file in files))


def test_the_messages_of_the_page_for_the_worst_night_are_those_of_the_product() -> None:
    page = (ROOT / "docs/how-to/recover-a-cluster.md").read_text()
    quoted = QUOTED.findall(page.partition("## What the commands say")[2])
    assert len(quoted) > 8
    source = said_by_the_product()
    parts = [(message, part.strip(" :,.")) for message in quoted for part in CHANGING.split(message)]
    assert [(message, part) for message, part in parts if len(part) > 3 and part not in source] == []
