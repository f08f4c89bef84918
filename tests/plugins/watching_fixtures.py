"""A pytest plugin: the registry of a conformance run has the services of `watching_plugin`."""

from __future__ import annotations

import pytest
from watching_plugin import Watcher, registry_with

from disheap.testing import fixtures


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[fixtures._registry_key] = registry_with(Watcher())
