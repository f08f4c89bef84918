"""A pytest plugin: of a wrong plugin it runs the test that is meant for it, of a right one all tests."""

from __future__ import annotations

from importlib import import_module

import pytest

KINDS = ("transport", "storage", "codec", "machine", "service")


def meant(kind: str) -> dict[str, str]:
    """The test for each wrong plugin of that kind, by name."""
    module = import_module(f"tests.wrong_plugins.{kind}s")
    return {wrong.__name__.lower(): test for wrong, test in module.MEANT.items()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _is_wanted(item)]


def _is_wanted(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    kind = next(kind for kind in KINDS if f"test_{kind}" in item.module.__name__)
    tests = meant(kind)
    name = item.callspec.params.get(f"{kind}_name") if hasattr(item, "callspec") else None
    if name not in tests:
        return True
    return tests[name] == item.originalname and item.callspec.params.get("loop_name") != "uvloop"
