"""An asyncio event loop whose time is virtual, and processes that can be stopped, frozen and given wrong clocks.

When nothing is ready, time jumps to the next timer; so a simulated minute costs what is done in it, and nothing else.
There are no threads and no sockets: everything is a callback here, in an order that the seed alone decides.

asyncio itself records whose callback it is. Each handle runs in the context in which it was made, and `OWNER` in that
context is a `Process`. A process that was killed has its callbacks dropped; a frozen one (SIGSTOP) has them kept until
it goes on. A process has a clock of its own, which may run fast or slow; `time` and `call_at` speak in it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

STEPS_PER_INSTANT = 200_000
"""Callbacks at one moment of virtual time, after which something is turning in circles."""


MAX_THROWN_AWAY_AT = 5
"""Times that a coroutine is told to end, when everything is over."""

EPOCH_S = 1_700_000_000
"""Where every simulation's wall clock begins."""


class Livelock(BaseException):
    """Callbacks without end, and time does not move; or nothing left to do while somebody waits."""


class Process:
    """One process on a simulated machine: a node or a client. Its clock reads `skew_s + rate * now`."""

    def __init__(self, loop: SimLoop, name: str, rate: float = 1.0, skew_s: float = 0.0) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.rate = rate
        self.skew_s = skew_s
        self.tasks: list[asyncio.Task[Any]] = []  # kept: a dead task must not be collected, and so run, at some moment
        self._loop = loop
        loop.processes.append(self)
        self._kept: deque[_Handle] = deque()
        self._context = contextvars.Context()
        self._context.run(OWNER.set, self)

    def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call as this process would."""
        return self._context.copy().run(call, *args)

    def soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Calls `call` in this process, in the next turn of the loop."""
        self._loop.call_soon(call, *args, context=self._context)

    def later(self, delay_s: float, call: Callable[..., Any], *args: Any) -> None:
        """`delay_s` of true time from now, whatever the process's clock says."""
        self._loop.at(self._loop.now + delay_s, call, args, self._context)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task in this process."""
        task: asyncio.Task[Any] = self._loop.create_task(work, context=self._context)
        return task

    def clock(self) -> float:
        """The time in seconds by this process's clock."""
        return self.skew_s + self.rate * self._loop.now

    def kill(self) -> None:
        """Ends the process. Nothing of it runs any more."""
        self.alive = False
        self._kept.clear()

    def freeze(self) -> None:
        """Stops the process. Its calls are kept."""
        self.frozen = True

    def thaw(self) -> None:
        """Lets the process go on with the calls that were kept."""
        self.frozen = False
        kept, self._kept = self._kept, deque()
        self._loop.schedule_kept(kept)

    def keep(self, handle: _Handle) -> None:
        """Keeps a call that came while the process was frozen."""
        self._kept.append(handle)


OWNER: contextvars.ContextVar[Process | None] = contextvars.ContextVar("OWNER", default=None)


class _Handle(asyncio.TimerHandle):
    __slots__ = ()

    @property
    def owner(self) -> Process | None:
        return self._context.get(OWNER)  # type: ignore[attr-defined,no-any-return]

    def cancel(self) -> None:
        asyncio.Handle.cancel(self)  # without telling the loop: it looks when the time comes


class SimLoop(asyncio.AbstractEventLoop):
    """Everything of one simulation runs on it, and nothing else does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.errors: list[dict[str, Any]] = []
        self.processes: list[Process] = []
        self.stopping: BaseException | None = None  # raised out of the loop before the next callback
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbered = 0
        self._running = False
        self._closed = False
        self._at_this_instant = 0

    # --- time and callbacks ---

    def time(self) -> float:
        """The time by the clock of the running process."""
        owner = OWNER.get()
        return self.now if owner is None else owner.skew_s + owner.rate * self.now

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Schedules a call for the next turn."""
        handle = _Handle(0.0, callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """Schedules a call after `delay` seconds of the running process's clock."""
        owner = OWNER.get()
        return self.at(self.now + max(0.0, delay) / (1.0 if owner is None else owner.rate), callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """Schedules a call for a time of the running process's clock."""
        owner = OWNER.get()
        return self.at(when if owner is None else (when - owner.skew_s) / owner.rate, callback, args, context)

    def at(self, when: float, callback: Any, args: Any, context: contextvars.Context | None = None) -> _Handle:
        """At a moment of true time."""
        handle = _Handle(when, callback, args, self, context)
        self._numbered += 1
        heappush(self._timers, (when, self._numbered, handle))
        return handle

    def schedule_kept(self, handles: deque[_Handle]) -> None:
        """Schedules the calls that a frozen process has kept."""
        self._ready.extend(handles)

    # --- tasks and futures ---

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        """A task of this loop. It ends with its process."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            _remember(owner, task)
        return task

    # --- running ---

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Raises what was put into `stopping`, and `Livelock`."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not is_over():
                self._step()
        finally:
            self._running = False
            asyncio._set_running_loop(before)

    def run_until_complete(self, future: Any) -> Any:
        """Runs the loop until `future` is done, and returns its result."""
        task = asyncio.ensure_future(future, loop=self)
        self.run_until(task.done)
        return task.result()

    def _step(self) -> None:
        if self.stopping is not None:
            raise self.stopping
        ready = self._ready
        if not ready:
            self._advance()
            return
        handle = ready.popleft()
        if handle._cancelled:
            return
        owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
        if owner is not None:
            if not owner.alive:
                return
            if owner.frozen:
                owner.keep(handle)
                return
        self.steps += 1
        self._at_this_instant += 1
        if self._at_this_instant > STEPS_PER_INSTANT:
            raise Livelock(f"{STEPS_PER_INSTANT} callbacks at {self.now:.6f} s; the last is {handle!r}")
        handle._run()

    def _advance(self) -> None:
        """Time jumps to the next timer; all that are due then become ready, in the order of their times."""
        timers, ready = self._timers, self._ready
        if not timers:
            raise Livelock(f"nothing is left to do at {self.now:.6f} s, and somebody still waits")
        when = timers[0][0]
        if when > self.now:
            self.now = when
            self._at_this_instant = 0
        while timers and timers[0][0] <= self.now:
            ready.append(heappop(timers)[2])

    # --- what asyncio asks besides ---

    def is_running(self) -> bool:
        """Whether the loop runs."""
        return self._running

    def is_closed(self) -> bool:
        """Whether the loop is closed."""
        return self._closed

    def close(self) -> None:
        """Nothing runs any more; what was in the middle of something is thrown away."""
        self._closed = True
        for process in self.processes:
            for task in process.tasks:
                _throw_away(task)
            process.tasks.clear()
        self._ready.clear()
        self._timers.clear()
        self.errors.clear()

    def get_debug(self) -> bool:
        """False: the loop has no debug mode."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback that failed, or an exception that nobody looked at: kept for whoever runs the simulation."""
        if not self._closed:
            self.errors.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Handles an error as `call_exception_handler` does."""
        self.call_exception_handler(context)


def _remember(owner: Process, task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process leaves its tasks as they are
    owner.tasks.append(task)
    if len(owner.tasks) > 256:
        owner.tasks[:] = [one for one in owner.tasks if not one.done()]


def _throw_away(task: asyncio.Task[Any]) -> None:
    """One that cleans up after itself with an `await` is told more than once."""
    coroutine = task.get_coro()
    for _ in range(MAX_THROWN_AWAY_AT):
        try:
            coroutine.close()
        except Exception:
            continue
        return
