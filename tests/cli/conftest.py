from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.command_line import Ended, run, running

Ask = Callable[..., Ended]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A node in memory, in a process of its own, for the tests of one file."""
    with running("dev", "--port", "0", "--json") as node:
        yield json.loads(node.out.next())["broker_url"]


@pytest.fixture
def ask(url: str) -> Ask:
    """A command line against that node."""

    def ask(*words: str, **how: Any) -> Ended:
        return run(*words, environ={"DISHEAP_URL": url}, **how)

    return ask


@pytest.fixture
def topic(ask: Ask, request: pytest.FixtureRequest) -> str:
    """A fresh topic, called like the test."""
    name: str = request.node.name
    assert ask("topic", "create", name).code == 0
    return name
