"""A thread that keeps a session alive while the program is busy.

Under Celery's solo pool a task runs on the event loop's own thread. Under the threads pool that thread waits for the
last tasks at a shutdown. Under the prefork pool it does so too, when the loop has ended. A program without an event
loop is busy between two calls: a callback may work for an hour. The thread reads and pings, under the connection's
lock. It runs no callback. There is no such thread while an event loop keeps the session alive, as under any pool that
forks. There is none either if the session has nothing to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from weakref import WeakMethod


class Keepalive:
    """A thread that keeps a session alive while the program is busy."""

    def __init__(self, tick: Callable[[], bool], every_s: float) -> None:
        """`tick` is called every `every_s` seconds until it returns False. It is a method. The thread does not hold
        the method's object, and ends when that is freed."""
        self._stopped = Event()
        self._thread = Thread(target=self._run, args=(WeakMethod(tick), every_s), name="disheap-keepalive", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread at its next tick. Not for the child of a fork: the thread is not there, and may have held a
        lock."""
        self._stopped.set()

    def _run(self, reference: WeakMethod[Callable[[], bool]], every_s: float) -> None:
        while not self._stopped.wait(every_s):
            tick = reference()
            if tick is None or not tick():
                return
            del tick
