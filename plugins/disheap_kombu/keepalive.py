"""A thread that answers for a session while nobody else does.

Under the solo pool a task runs on the loop's own thread, and under the threads pool that thread waits for the last
tasks at a shutdown. A program without an event loop is the same between two calls: one that asked for a result looks
for it when it wants to, and a callback may work for an hour. The thread reads and pings, under the connection's lock;
it runs no callback. There is none where an event loop is at hand, as under any pool that forks, and none for a
connection that would lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread


class Keepalive:
    """A thread that keeps a session alive while the program is busy."""

    def __init__(self, keep: Callable[[], bool], every_s: float) -> None:
        """`keep` is called every `every_s` until it returns False."""
        self._stopped = Event()
        self._thread = Thread(target=self._run, args=(keep, every_s), name="disheap-keepalive", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Not in the child of a fork: the thread is not there, but may have had a lock in hand."""
        self._stopped.set()

    def _run(self, keep: Callable[[], bool], every_s: float) -> None:
        while not self._stopped.wait(every_s) and keep():
            pass
