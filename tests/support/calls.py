"""Counts the calls of functions that a piece of code makes: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class TooManyCalls(AssertionError):
    """Raised in the midst of the counted code, so that what would run for hours ends."""


class CallCounter:
    """`with CallCounter(max_calls=1000) as counter: ...`; then `counter.calls`. Raises `TooManyCalls`."""

    def __init__(self, max_calls: int | None = None) -> None:
        self.calls = 0
        self._max_calls = max_calls
        self._before: Any = None

    def __enter__(self) -> CallCounter:
        self._before = sys.getprofile()
        sys.setprofile(self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            if self._max_calls is not None and self.calls > self._max_calls:
                sys.setprofile(None)
                raise TooManyCalls(f"more than {self._max_calls} calls of functions")
