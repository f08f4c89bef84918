"""Gives each wrong class the name under which it is registered: its own, in lower case."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def named(classes: Iterable[type[Any]]) -> list[type[Any]]:
    return [type(one.__name__, (one,), {"name": one.__name__.lower()}) for one in classes]
