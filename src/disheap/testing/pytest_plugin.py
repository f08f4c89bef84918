"""What pytest loads in every environment that has disheap: it loads `disheap.testing.fixtures` when a run asks for it.

Owns the question whether a run is about disheap. All else is in `fixtures`, because pytest imports this module for
every project. It imports nothing but the packages that it is in, and registers no option and no fixture.

A run asks with an option `--disheap-...`, or with a test module of `disheap.testing` on the command line. A suite of
one's own that uses the fixtures asks with `-p disheap.testing.fixtures`, for example in `addopts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FIXTURES = "disheap.testing.fixtures"
_ASKS = ("--disheap-", "disheap.testing.")


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Options of a plugin that is loaded here are known when the command line is read."""
    if any(argument.startswith(_ASKS) for argument in args):
        args[:0] = ["-p", FIXTURES]  # pytest-xdist hands `-p` on to its workers, and no other option
        early_config.pluginmanager.import_plugin(FIXTURES)
