"""Applies committed entries in slices, so that none of them stops the loop for long.

Owns the batch that the kernel handed out, and how far it is applied. An entry may hold thousands of commands, and a
batch thousands of entries, above all after a restart. So a slice ends after `SLICE_S`, also in the midst of an entry,
and the loop has its turn. Only the moment of the pause depends on the clock: what is applied, and in which order, does
not.

In the midst of an entry the state stands between two indexes. Reads may see it, since each command is whole. Snapshots
and hashes need a state that belongs to an index; they wait for the end of the entry (`when_whole`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from disheap.interfaces import Clock
from disheap.kernel.types import Entry

SLICE_S = 0.01
"""A slice takes so long, and one command more."""
LOOK_S = 0.001
"""After so much work `worked` is called: in 10 ms, 1 GB may be freed."""


class Applier:
    """`begin` gives the steps of one entry: an iterator that does some of the work each time it is advanced. `worked`
    is called between two steps, once in a while."""

    def __init__(self, clock: Clock, begin: Callable[[Entry], Iterator[None]], worked: Callable[[], None]) -> None:
        self.slice_s = SLICE_S
        self._clock = clock
        self._begin = begin
        self._worked = worked
        self._look_in_s = LOOK_S  # of work
        self._entries: deque[Entry] = deque()
        self._steps: Iterator[None] | None = None  # of the first entry, when it was begun
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_busy(self) -> bool:
        """Whether entries wait to be applied."""
        return bool(self._entries)

    @property
    def is_midway(self) -> bool:
        """Whether an entry is partly applied."""
        return self._steps is not None

    def add(self, entries: tuple[Entry, ...]) -> None:
        """Append committed entries, in the order of their indexes."""
        self._entries += entries

    def run(self) -> list[Entry]:
        """Apply entries for one slice. Returns those that were finished. Where somebody waits for a whole state, the
        slice ends with the entry that is being applied."""
        now = self._clock.monotonic()
        until, look_at = now + self.slice_s, now + self._look_in_s
        finished: list[Entry] = []
        while self._entries:
            if self._steps is None:
                self._steps = self._begin(self._entries[0])
            for _ in self._steps:
                now = self._clock.monotonic()
                if now >= look_at:
                    look_at = now + LOOK_S
                    self._worked()
                if now >= until:
                    break
            else:
                self._steps = None
                finished.append(self._entries.popleft())
                now = self._clock.monotonic()
            if self._waiting or now >= until:
                break
        self._look_in_s = max(0.0, look_at - now)
        return finished

    def when_whole(self, call: Callable[[], None]) -> None:
        """Call at once, or at the end of the entry that is being applied."""
        if self._steps is None:
            call()
        else:
            self._waiting.append(call)

    def call_waiting(self) -> None:
        """The state belongs to an index: call those that waited for that."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                call()

    def drop(self) -> None:
        """Drop the entries: a snapshot that contains them has replaced the state."""
        self._entries.clear()
        self._steps = None
        self.call_waiting()
