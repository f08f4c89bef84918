"""`import disheap` makes `disheap://` known to kombu, without importing kombu and without naming a plugin.

Every Celery process learns of the transport on its own, for kombu loads the entry-point group below when a producer or
a consumer is imported. A program that only builds a `kombu.Connection` imports neither; it imports disheap. Loading
kombu for it would cost every other user of disheap some 60 ms. If kombu is loaded already, it is told now. Otherwise it
is told when it is imported, by a finder that serves one import and then removes itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

GROUP = "kombu.serializers"
NAME = "disheap"
AWAITED = "kombu.transport"


def announce() -> None:
    """Never raises, and may be called twice."""
    if AWAITED in sys.modules:
        _load()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _load() -> None:
    """Loading the entry point is all: it adds the aliases. One that is broken speaks up where the URL is used."""
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=GROUP, name=NAME):
        with suppress(Exception):
            entry_point.load()


class _Finder:
    """Finds `kombu.transport` as the path would, and lets us know when it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AWAITED:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            _tell_after(spec)
        return spec


def _tell_after(spec: ModuleSpec) -> None:
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def executed(module: ModuleType) -> None:
        execute(module)
        _load()

    loader.exec_module = executed  # type: ignore[method-assign]
