"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import disheap

SOURCES = Path(disheap.__file__).parent
WITH_EXAMPLES = sorted(
    path.relative_to(SOURCES.parent).with_suffix("").as_posix().replace("/", ".")
    for path in SOURCES.rglob("*.py")
    if ">>> " in path.read_text()
)


def test_the_library_has_examples() -> None:
    assert "disheap.runtime.node" in WITH_EXAMPLES


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
