"""What a node's log shows of an error, and what it does not show."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from disheap.cli.terminal import logs
from disheap.logs import get_logger

SECRET = "the payload of somebody's message"


@pytest.fixture(params=[False, True], ids=["lines", "json"])
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What goes to standard error, with the log configured as `serve` does it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    with mock.patch.object(sys, "stderr", stream):
        logs.configure("info", request.param)
    yield stream
    root.handlers, root.level = handlers, level


def fail() -> None:
    payload = SECRET
    raise ValueError(f"{len(payload)} bytes are too many")


@pytest.mark.parametrize("name", ["disheap.test", "asyncio"])
def test_a_traceback_names_its_lines_and_no_local_variable(written: io.StringIO, name: str) -> None:
    try:
        fail()
    except ValueError:
        logger = get_logger(name) if name.startswith("disheap") else logging.getLogger(name)
        logger.exception("a command failed")
    text = written.getvalue()
    assert "a command failed" in text and "bytes are too many" in text
    assert "in fail" in text or '"name": "fail"' in text
    assert SECRET not in text
    assert len(text.splitlines()) < 15


def test_a_text_from_outside_neither_steers_a_terminal_nor_forges_a_line(written: io.StringIO) -> None:
    get_logger("disheap.test").warning("refused", reason="\x1b[2J\nready \u202e")
    (line,) = written.getvalue().splitlines()
    assert "\x1b" not in line and "\u202e" not in line.replace("\\u202e", "") and "refused" in line
    if line.startswith("{"):
        assert json.loads(line)["reason"] == "\x1b[2J\nready \u202e"
