"""What the demo sees of a worker: the lines of the record, and whether the worker still runs.

Owns the waits of the demo. It refuses to know what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from disheap.cli.demo import counting
from disheap.cli.demo.counting import Execution
from disheap.cli.processes.children import Child
from disheap.cli.terminal.progress import Show
from disheap.errors import DisheapError

POLL_S = 0.01
STALL_S = 60.0
"""No task for so long, with a cluster that elects within 3 s: nothing more will come, and what is missing is lost."""


class DemoFailed(DisheapError):
    """The demo could not be carried to its end; says where it stopped, with the logs."""


class Record:
    """The file into which the tasks write that they ran, and the worker that runs them now."""

    def __init__(self, path: Path, worker: Child, show: Show) -> None:
        path.touch()
        self._path = path
        self._show = show
        self.worker = worker

    def wait(self, done: Callable[[], bool], what: str, within_s: float = STALL_S) -> None:
        """Waits until `done`, or until nothing has moved for so long. Then `DemoFailed` says `what`. Otherwise the wait
        is over, and the counting says what is missing. A worker that ended is never waited for."""
        ran, moved_at = self.count(), time.monotonic()
        while not done():
            if (code := self.worker.exit_code()) is not None:
                raise DemoFailed(f"the Celery worker ended with exit code {code}")
            if (now := self.count()) != ran:
                ran, moved_at = now, time.monotonic()
                self._show.at(ran)
            elif time.monotonic() - moved_at > within_s:
                if what:
                    raise DemoFailed(f"{what} for {within_s:g} s")
                return
            time.sleep(POLL_S)

    def wait_all(self, numbers: set[int]) -> None:
        """Waits until each of these tasks has run, or nothing runs any more."""

        def all_ran() -> bool:
            self._show.at(self.count())
            return numbers <= {execution.number for execution in self.executions()}

        self.wait(all_ran, "")

    def count(self) -> int:
        """How many lines there are."""
        return self._path.read_bytes().count(b"\n")

    def executions(self) -> list[Execution]:
        """What the lines say."""
        return counting.read_record(self._path.read_text())
