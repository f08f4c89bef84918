"""How a long command shows where it is: bars on a terminal, plain lines elsewhere. Always on stderr.

A stage is one thing that takes a while; notes are what happens on the way. The caller says the same to both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

LINE_EVERY_S = 2.0
"""Between two plain lines of one stage: enough to see it move, few enough for a log."""


class Show(Protocol):
    """What shows the progress of a long command. A context manager."""

    def __enter__(self) -> Show: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def stage(self, title: str, total: int = 0) -> None:
        """The stage before it is over. 0: nobody knows how much it is."""

    def at(self, done: int) -> None:
        """Notes how much of the stage is done."""

    def note(self, text: str) -> None:
        """Something happened that the reader wants to know."""


def show(stream: TextIO) -> Show:
    """Bars if `stream` is a terminal, else plain lines."""
    return Bars(stream) if stream.isatty() else Lines(stream)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, title: str, total: int = 0) -> None:
        """Shows nothing."""

    def at(self, done: int) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Shows nothing."""


class Lines:
    """One line when a stage begins, one every `LINE_EVERY_S` while it moves, one for each note."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._title, self._total, self._done = "", 0, 0
        self._said_at = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, title: str, total: int = 0) -> None:
        """Print that the stage begins."""
        self._title, self._total, self._done = title, total, 0
        self._say(f"{title} ..." if not total else f"{title}: 0 of {total}")

    def at(self, done: int) -> None:
        """Print how much is done, at most every `LINE_EVERY_S` seconds."""
        due = self._clock() - self._said_at >= LINE_EVERY_S or done == self._total
        if done > self._done and due:
            self._say(f"{self._title}: {done} of {self._total}")
            self._done = done

    def note(self, text: str) -> None:
        """Print `text` on a line of its own."""
        self._say(f"  {text}")

    def _say(self, text: str) -> None:
        self._said_at = self._clock()
        print(text, file=self._stream, flush=True)


class Bars:
    """rich's progress bars; notes scroll away above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(file=stream))
        self._task = self._progress.add_task("", start=False, visible=False, count="")
        self._total: int | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stage()
        self._progress.stop()

    def stage(self, title: str, total: int = 0) -> None:
        """End the bar before, and start one for this stage."""
        self._end_stage()
        self._total = total or None
        self._task = self._progress.add_task(title, total=self._total, count=self._count(0))

    def at(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, count=self._count(done))

    def note(self, text: str) -> None:
        """Print `text` above the bars."""
        self._progress.console.print(f"  {text}", highlight=False, markup=False)

    def _count(self, done: int) -> str:
        return f"{done}/{self._total}" if self._total else ""

    def _end_stage(self) -> None:
        if self._total is None:  # a bar that only pulsed is full when its stage is over
            self._progress.update(self._task, total=1, completed=1)
        self._progress.stop_task(self._task)
