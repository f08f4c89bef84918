"""Ctrl-C for a command that has children and a directory to clear away.

SIGINT, SIGTERM and SIGHUP become `KeyboardInterrupt`. Between a fork and the line that remembers the child, and while
things are being cleared away, the signal is held and raised afterwards. Without that a Ctrl-C at the wrong microsecond
leaves a process that nobody knows of.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context manager; belongs to the main thread, as signals do."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._holding = 0
        self._pending = False

    def __enter__(self) -> Interrupts:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done inside is done whole."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
            if self._pending and not self._holding:
                self._pending = False
                raise KeyboardInterrupt

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self._holding:
            self._pending = True
        else:
            raise KeyboardInterrupt
