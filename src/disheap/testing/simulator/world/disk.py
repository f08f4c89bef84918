"""What takes the place of a node's disk thread: a job runs when virtual time says so, or never, where the node dies
first.

A job's operations happen at one moment, at its end. What lies between is the `Crash` that a fault may raise at any of
its operations. That is all a crash can do to a sequence of writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from disheap.testing.simulator.world.filesystem import Crash
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.rng import Rng

Done = Callable[[Any, BaseException | None], None]


class SimDisk:
    """Implements `disk.thread.Disk`. `slowness` multiplies the time of each job, and can be changed meanwhile."""

    def __init__(self, process: Process, rng: Rng, on_crash: Callable[[], None]) -> None:
        self.slowness = 1.0
        self.jobs_done = 0
        self._process = process
        self._rng = rng
        self._on_crash = on_crash
        self._jobs: deque[tuple[Callable[[], Any], Done]] = deque()
        self._busy = False
        self._closed = False

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        """Queues a job of the storage. `done` gets its outcome later."""
        self._jobs.append((work, done))
        if not self._busy:
            self._begin()

    def run_now(self, work: Callable[[], Any], done: Done) -> bool:
        """Chance decides whether a job of before is still under way."""
        if self._jobs or self._busy or self._closed or self._rng.chance(0.5):
            return False
        outcome = self._outcome(work)
        if outcome is not None:
            done(*outcome)
        return True

    async def close(self) -> None:
        """Runs the jobs that are queued, then ends."""
        while self._jobs and self._process.alive:
            self._run_one()
        self._closed = True

    def _begin(self) -> None:
        self._busy = True
        self._process.later(self._rng.seconds(0.0002, 0.003) * self.slowness, self._due)

    def _due(self) -> None:
        if self._closed:
            return
        self._busy = False
        if self._jobs:
            self._run_one()
        if self._jobs and not self._busy:
            self._begin()

    def _run_one(self) -> None:
        work, done = self._jobs.popleft()
        outcome = self._outcome(work)
        if outcome is not None:
            self._process.soon(done, *outcome)

    def _outcome(self, work: Callable[[], Any]) -> tuple[Any, BaseException | None] | None:
        """Result and error; None if the process ended in the middle of it."""
        self.jobs_done += 1
        try:
            return work(), None
        except Crash:
            self._on_crash()
            return None
        except BaseException as failure:
            return None, failure
